package vm

import (
	"os/exec"
	"testing"

	"github.com/bootseal/bootseal/test/machine"
	"github.com/bootseal/bootseal/test/story"
)

// TestUpgrade replaces the operating system by the next one, and goes back: the
// blob, the policy and the TPM stay, and the first boot is a healthy one.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	vm := newVM(t, 247)
	timedUnits(t, vm)
	out := boot(t, vm, bootStamps+`
dpkg -i /root/bootseal.deb >/dev/null || exit
`+seal+report+blob)
	without := generators(t, out)
	healthy(t, "sealed", out)
	sealed := out["blob"]
	shares, plain, credential := map[int]float64{}, map[int]float64{}, map[int]float64{}
	delivery := map[int]string{
		247: "ExecStartPre=+/usr/bin/bootseal unseal --unit=%n --user=step step-ca:/etc/credstore.encrypted/step-ca",
		252: "LoadCredentialEncrypted=step-ca:/etc/credstore.encrypted/step-ca",
		257: "LoadCredentialEncrypted=step-ca:/etc/credstore.encrypted/step-ca",
	}
	for _, version := range machine.Sample(t, []int{252, 257, 247}, 257, 247) {
		vm = replace(t, vm, version)
		out := boot(t, vm, bootStamps+report+blob+startStamps)
		healthy(t, "replaced", out)
		story.WantContains(t, "delivery", out["delivery"], delivery[version])
		story.Want(t, "blob", out["blob"], sealed)
		shares[version] = generators(t, out)
		plain[version], credential[version] = starts(t, out["plain"]), starts(t, out["sealed"])
	}
	t.Logf("measured: from the start of a unit's job to its main process: prestart on systemd 247 takes %.2f times what native on 257 does; prestart %.1f times, native %.1f times what the unit takes without a credential",
		credential[247]/credential[257], credential[247]/plain[247], credential[257]/plain[257])
	t.Logf("measured: all generators' share of the boot: systemd 247 %.1f %%, without bootseal's %.1f %%; 257 %.1f %%", 100*shares[247], 100*without, 100*shares[257])
}

const blob = `
section blob; sha256sum </etc/credstore.encrypted/step-ca
section delivery; cat /run/systemd/generator/step-ca.service.d/zz-bootseal.conf
section version; systemctl --version
`

// replace gives the machine another operating system, with
// the package for it.
func replace(t *testing.T, vm *machine.VM, version int) *machine.VM {
	t.Helper()
	successor, err := vm.Replace(version)
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, successor)
	addPackage(t, successor)
	if out, err := exec.Command("chroot", successor.Root, "dpkg", "-i", "/root/bootseal.deb").CombinedOutput(); err != nil {
		t.Fatalf("installing the package: %v: %s", err, out)
	}
	return successor
}
