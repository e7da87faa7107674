package vm

import (
	"os/exec"
	"testing"

	"github.com/bootseal/bootseal/test/machine"
)

// TestUpgrade replaces the operating system by the next one, and goes back: the
// blob, the policy and the TPM stay, and the first boot is a healthy one.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	source := tarball(t)
	vm := newVM(t, 247, source)
	out := boot(t, vm, `
dpkg -i /root/bootseal.deb >/dev/null || exit
`+seal+report+blob)
	healthy(t, "sealed", out)
	sealed := out["blob"]
	for _, step := range []struct {
		version  int
		delivery string
	}{
		{252, "LoadCredentialEncrypted=step-ca:/etc/credstore.encrypted/step-ca"},
		{247, "ExecStartPre=+/usr/bin/bootseal unseal --unit=%n --user=step step-ca:/etc/credstore.encrypted/step-ca"},
	} {
		vm = replace(t, vm, step.version, source)
		out := boot(t, vm, report+blob)
		healthy(t, "replaced", out)
		wantContains(t, "delivery", out["delivery"], step.delivery)
		want(t, "blob", out["blob"], sealed)
	}
}

const blob = `
section blob; sha256sum </etc/credstore.encrypted/step-ca
section delivery; cat /run/systemd/generator/step-ca.service.d/zz-bootseal.conf
section version; systemctl --version
`

// replace gives the machine another operating system, with
// the package for it.
func replace(t *testing.T, vm *machine.VM, version int, source string) *machine.VM {
	t.Helper()
	successor, err := vm.Replace(version)
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, successor)
	addPackage(t, successor, source)
	if out, err := exec.Command("chroot", successor.Root, "dpkg", "-i", "/root/bootseal.deb").CombinedOutput(); err != nil {
		t.Fatalf("installing the package: %v: %s", err, out)
	}
	return successor
}
