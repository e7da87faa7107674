package machine

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/bootseal/bootseal/internal/root"
)

// AcceptsNullKeys tells whether credentials with the null key, which everybody can
// make, are to be accepted where nobody said so: by the kernel's parameter
// systemd.credentials_boot_policy=, since systemd 262.
//
//	strict    never
//	tofu      on the first boot, and without a TPM 2.0
//	relaxed   without Secure Boot, and without a TPM 2.0; the default
//	off       always
//
// The TPM is the one that the firmware knows of.
func AcceptsNullKeys(dir root.Dir) (bool, error) {
	policy, err := bootPolicy(dir)
	if err != nil {
		return false, err
	}
	switch policy {
	case "strict":
		return false, nil
	case "off":
		return true, nil
	}
	if !FirmwareTPM2(dir) {
		return true, nil
	}
	if policy == "tofu" {
		return exists(dir, "/run/systemd/first-boot"), nil
	}
	secure, err := SecureBoot(dir)
	return !secure, err
}

// bootPolicy reads the parameter, whose last valid value counts. The parameters
// of a container are those of its PID 1.
func bootPolicy(dir root.Dir) (policy string, err error) {
	name := "/proc/cmdline"
	if Container(dir) {
		name = "/proc/1/cmdline"
	}
	line, err := dir.ReadFile(name, 1<<20)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil // no /proc in a chroot
	}
	if err != nil {
		return "", fmt.Errorf("reading the parameters of the kernel: %w", err)
	}
	for _, word := range strings.Fields(string(bytes.ReplaceAll(line, []byte{0}, []byte{' '}))) {
		value, found := strings.CutPrefix(strings.ReplaceAll(word, "-", "_"), "systemd.credentials_boot_policy=")
		switch {
		case !found:
		case value == "strict", value == "tofu", value == "relaxed", value == "off":
			policy = value
		}
	}
	return policy, nil
}
