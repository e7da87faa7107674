package machine

import (
	"github.com/bootseal/bootseal/internal/root/roottest"
	"testing"
)

func TestAcceptsNullKeys(t *testing.T) {
	const (
		variable = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
		table    = "/sys/firmware/acpi/tables/TPM2"
	)
	// What there is, and the values of the parameter that then accept.
	for _, machine := range []struct {
		name          string
		tpm, secure   bool
		first         bool
		relaxed, tofu bool
	}{
		{name: "nothing", relaxed: true, tofu: true},
		{name: "TPM", tpm: true, relaxed: true},
		{name: "Secure Boot", secure: true, relaxed: true, tofu: true},
		{name: "TPM and Secure Boot", tpm: true, secure: true},
		{name: "first boot", tpm: true, secure: true, first: true, tofu: true},
	} {
		for parameter, want := range map[string]bool{
			"":                                     machine.relaxed,
			"systemd.credentials_boot_policy=":     machine.relaxed,
			"systemd.credentials_boot_policy=none": machine.relaxed,
			"systemd.credentials_boot_policy=relaxed":                                          machine.relaxed,
			"systemd.credentials_boot_policy=tofu":                                             machine.tofu,
			"systemd.credentials-boot-policy=tofu":                                             machine.tofu,
			"systemd.credentials_boot_policy=strict":                                           false,
			"systemd.credentials_boot_policy=off":                                              true,
			"systemd.credentials_boot_policy=off quiet systemd.credentials_boot_policy=strict": false,
			"rd.systemd.credentials_boot_policy=off":                                           machine.relaxed,
		} {
			files := map[string]string{
				"/proc/cmdline":           "root=/dev/vda " + parameter + " rw\n",
				"/proc/1/cmdline":         "/sbin/init",
				"/sys/firmware/efi/empty": "",
			}
			if machine.tpm {
				files[table] = "table"
			}
			if machine.secure {
				files[variable] = "\x06\x00\x00\x00\x01"
			}
			if machine.first {
				files["/run/systemd/first-boot"] = ""
			}
			if got, err := AcceptsNullKeys(roottest.Tree(t, files)); got != want || err != nil {
				t.Errorf("%s, %q: %v, %v; want %v", machine.name, parameter, got, err, want)
			}
		}
	}
	// A container has parameters of its own.
	dir := roottest.Tree(t, map[string]string{
		"/run/host/container-manager": "x",
		"/proc/cmdline":               "systemd.credentials_boot_policy=off",
		"/proc/1/cmdline":             "/sbin/init\x00systemd.credentials_boot_policy=strict\x00",
	})
	if got, err := AcceptsNullKeys(dir); got || err != nil {
		t.Errorf("container: %v, %v", got, err)
	}
	if got, err := AcceptsNullKeys(roottest.Tree(t, nil)); !got || err != nil {
		t.Errorf("no parameters: %v, %v", got, err)
	}
}
