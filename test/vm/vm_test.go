// Package vm tests what users do on their servers: the Debian package, step-ca
// under its upstream unit, and a machine that is switched off and on again, with
// a kernel, devices and a TPM of its own.
package vm

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/bootseal/bootseal/test/machine"
	"github.com/bootseal/bootseal/test/story"
)

// slots has as many virtual machines run at once as there are processors for:
// each computes most of the time.
var slots = make(chan struct{}, 2)

const password = story.Password

const helpers = `patience=60
export SYSTEMD_COLORS=0
` + machine.Health + machine.Script

// seal is what an administrator does, as the README has it.
const seal = `
mkdir -p /etc/bootseal
cat >/etc/bootseal/step-ca.service.toml <<'END'
[[credential]]
name     = "step-ca"
option   = "--password-file"
replaces = "/etc/step-ca/password.txt"

[seal]
key  = "host+tpm2"
pcrs = [7]
END
bootseal encrypt --unit=step-ca.service step-ca </etc/step-ca/password.txt || exit
systemctl daemon-reload && systemctl restart step-ca || exit
section sealed; health
shred -u /etc/step-ca/password.txt
`

// report prints what an administrator looks at after a boot.
var report = machine.Plaintext(password) + `
section health; health
section state; property ActiveState; property Result; property NRestarts
section sandbox; property PrivateDevices; property DevicePolicy
section drop-ins; property DropInPaths
section plaintext; plaintext
`

// lateTPM makes the driver of the TPM, a module in the kernel of systemd 247's
// Debian, come a while after the services have started.
const (
	lateTPM     = "modprobe.blacklist=tpm_tis"
	lateTPMUnit = `[Unit]
ConditionKernelCommandLine=` + lateTPM + `

[Service]
Type=oneshot
ExecStart=/bin/sleep 5
ExecStart=/sbin/modprobe tpm_tis
`
)

func newVM(t *testing.T, version int) *machine.VM {
	t.Helper()
	vm, err := machine.NewVM(version)
	prepare(t, vm, err)
	return vm
}

// prepare installs what the tests need on a machine that has just been made, or
// failed to be made.
func prepare(t *testing.T, vm *machine.VM, err error) {
	t.Helper()
	if errors.Is(err, machine.ErrNotSetUp) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, vm)
	if err := vm.InstallStepCA(password + "\n"); err != nil {
		t.Fatal(err)
	}
	addPackage(t, vm)
	if err := errors.Join(vm.Write("/etc/systemd/system/late-tpm.service", lateTPMUnit, 0o644), vm.Enable("late-tpm.service")); err != nil {
		t.Fatal(err)
	}
}

func closeAfter(t *testing.T, vm *machine.VM) {
	t.Cleanup(func() {
		if err := vm.Close(); err != nil {
			t.Error(err)
		}
	})
}

// addPackage puts the package for the machine's suite into /root.
func addPackage(t *testing.T, vm *machine.VM) {
	t.Helper()
	deb, _, err := machine.Deb(vm.Version)
	if errors.Is(err, machine.ErrNotSetUp) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(deb)
	if err != nil {
		t.Fatal(err)
	}
	if err := vm.Write("/root/bootseal.deb", string(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// boot runs a script on the machine; a script that fails fails the test.
func boot(t *testing.T, vm *machine.VM, script string) map[string]string {
	t.Helper()
	slots <- struct{}{}
	defer func() { <-slots }()
	r, err := vm.Boot(helpers + script)
	if err != nil {
		t.Fatal(err)
	}
	if r.Status != 0 {
		t.Fatalf("script: exit status %d\n--- stdout\n%s--- stderr\n%s", r.Status, r.Stdout, r.Stderr)
	}
	if r.Stderr != "" {
		t.Log("script: ", r.Stderr)
	}
	return machine.Sections(r.Stdout)
}

// refused waits until systemd has given step-ca up, and prints in which state it is.
// Where a try takes longer than ten seconds, it never gives up.
const refused = `
for _ in $(seq 900); do
	case $(property ActiveState) in failed|inactive) break;; esac
	# Between two tries, so that none begins while it is looked at.
	[ "$(property NRestarts)" -lt 3 ] || [ -z "$(property StatusText)" ] || [ "$(property SubState)" != auto-restart ] || break
	sleep 0.1
done
section refused; property ActiveState; property MainPID
`

// wantRefused holds what refused has printed against a service that does not run.
func wantRefused(t *testing.T, when string, out map[string]string) {
	t.Helper()
	if state := out["refused"]; state != "failed\n0" && state != "activating\n0" {
		t.Errorf("%s: state and main process are %q, want failed or activating, and none", when, state)
	}
}

// healthy holds what report has printed against a service as it should be.
func healthy(t *testing.T, when string, out map[string]string) {
	t.Helper()
	story.Want(t, when+", health", out["health"], "ok")
	story.Want(t, when+", state", out["state"], "active\nsuccess\n0")
	story.Want(t, when+", sandbox", out["sandbox"], "yes\nclosed")
	story.Want(t, when+", drop-ins", out["drop-ins"], "/run/systemd/generator/step-ca.service.d/zz-bootseal.conf")
	// What is below /run is where systemd itself keeps credentials, or a folder
	// that only root can enter.
	for _, file := range strings.Fields(out["plaintext"]) {
		if !strings.HasPrefix(file, "/run/credentials/") && !strings.HasPrefix(file, "/run/bootseal/") {
			t.Errorf("%s: the plaintext is in %s", when, file)
		}
	}
}

func TestReboot(t *testing.T) {
	t.Parallel()
	for _, version := range machine.Sample(t, machine.VMVersions, 247) { // TestMeasured and TestUpgrade are on 257
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			t.Parallel()
			vm := newVM(t, version)
			out := boot(t, vm, `
section before; health
section install; dpkg -i /root/bootseal.deb >/dev/null && echo ok
`+seal+report+orderABRMD("Before"))
			story.Want(t, "with the plaintext", out["before"], "ok")
			story.Want(t, "installing the package", out["install"], "ok")
			story.Want(t, "with the sealed password", out["sealed"], "ok")
			healthy(t, "sealed", out)

			out = boot(t, vm, report+company+orderABRMD("After"))
			healthy(t, "first reboot", out)
			inCompany(t, version, out)
			if version == 247 {
				vm.Command = lateTPM
			}
			out = boot(t, vm, report+abrmd+"systemctl disable --quiet tpm2-abrmd.service\n")
			healthy(t, "second reboot", out)
			story.Want(t, "tpm2-abrmd last", out["abrmd"], "last\n/dev/tpm0\nok")
			vm.Command = ""

			var err error
			if vm.TPM, err = vm.NewTPM(); err != nil {
				t.Fatal(err)
			}
			out = boot(t, vm, refused+`
section status; systemctl status --lines=0 --full step-ca
section log; journalctl --boot --unit=step-ca.service --output=cat
`)
			wantRefused(t, "with another TPM", out)
			story.WantContains(t, "systemctl status with another TPM", out["status"], "/etc/credstore.encrypted/step-ca", "another TPM")
		})
	}
}
