package machine

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// VMVersions are the systemd versions that test/setup makes virtual machines for.
var VMVersions = []int{247, 252, 257}

// vmLimit bounds one boot of a virtual machine, script and power-off together.
// Most take half a minute, as they are emulated and not virtualized.
const vmLimit = 15 * time.Minute

// VM is a virtual machine, switched off: QEMU with a disk of its own, Debian's
// kernel and initrd, and a TPM that the kernel finds. Root is what the disk is
// made of at the first Boot; later it can only be changed from inside.
type VM struct {
	*Machine

	// Command is added to the kernel's command line.
	Command string

	kernel, initrd string
	firmware, esp  string // of a machine that UEFI starts
}

// NewVM makes a virtual machine with the given version of systemd and a new TPM.
// It returns [ErrNotSetUp] where test/setup has not made what it needs.
func NewVM(version int) (*VM, error) {
	if version == uefiVersion {
		return newVM(version, uefiTree) // has all that is needed
	}
	return newVM(version, "vm-"+strconv.Itoa(version))
}

func newVM(version int, tree string) (*VM, error) {
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		return nil, fmt.Errorf("making a virtual machine: %w: %w", ErrNotSetUp, err)
	}
	m, err := open(version, tree)
	if err != nil {
		return nil, err
	}
	vm := &VM{Machine: m}
	if vm.kernel, err = only(m.Path("/boot/vmlinuz-*")); err == nil {
		vm.initrd, err = only(m.Path("/boot/initrd.img-*"))
	}
	if err == nil {
		m.TPM, err = newTPM(m.dir)
	}
	if err == nil {
		err = m.prepare(map[string]string{
			"/etc/systemd/system/bootseal-test.service.d/vm.conf": vmUnit,
			"/etc/hosts": "127.0.0.1 localhost\n",
		})
	}
	if err == nil { // the tests that want it enable it
		err = os.Remove(m.Path("/etc/systemd/system/multi-user.target.wants/tpm2-abrmd.service"))
	}
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return vm, nil
}

// The script comes on the second disk and the results go to the third, as
// archives without a file system.
const vmUnit = `[Service]
ExecStartPre=/bin/mkdir -p /bootseal-test/out
ExecStartPre=/bin/tar -xf /dev/vdb -C /bootseal-test/out
ExecStopPost=
ExecStopPost=/bin/tar -cf /dev/vdc -C /bootseal-test/out stdout stderr status
ExecStopPost=/bin/systemctl poweroff --no-block
`

const mebibyte = 1 << 20

// Boot is [Machine.Boot] in the virtual machine; the limit is fifteen minutes.
func (vm *VM) Boot(script string) (Result, error) {
	disk := filepath.Join(vm.dir, "disk")
	if err := vm.makeDisk(disk); err != nil {
		return Result{}, err
	}
	if err := vm.TPM.plugIn(); err != nil {
		return Result{}, err
	}
	defer func() { vm.TPM.off() }()
	start := []string{"-kernel", vm.kernel, "-initrd", vm.initrd, "-append", vm.commandLine()}
	if vm.firmware != "" {
		var err error
		if start, err = vm.uefi(); err != nil {
			return Result{}, err
		}
	}
	in, out := filepath.Join(vm.dir, "in.tar"), filepath.Join(vm.dir, "out.tar")
	return vm.run(script, func() error {
		if err := command("tar", "-cf", in, "-C", filepath.Join(vm.dir, "out"), "script"); err != nil {
			return err
		}
		if err := errors.Join(os.WriteFile(out, nil, 0o600), os.Truncate(out, 16*mebibyte)); err != nil {
			return err
		}
		err := vm.watch(vmLimit, append([]string{"qemu-system-x86_64", "-machine", "q35,accel=tcg", "-cpu", "max", "-m", "1024",
			"-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot", "-nic", "none",
			"-drive", "if=virtio,format=raw,file=" + disk,
			"-drive", "if=virtio,format=raw,readonly=on,file=" + in,
			"-drive", "if=virtio,format=raw,file=" + out,
			"-chardev", "socket,id=tpm,path=" + vm.TPM.control(), "-tpmdev", "emulator,id=tpm,chardev=tpm", "-device", "tpm-tis,tpmdev=tpm"}, start...)...)
		if err != nil {
			return err
		}
		return command("tar", "-xf", out, "-C", filepath.Join(vm.dir, "out"))
	})
}

func (vm *VM) commandLine() string {
	return "root=/dev/vda rw console=ttyS0 quiet systemd.unit=multi-user.target systemd.log_color=0 " + vm.Command
}

// makeDisk makes the disk of the root file system, at the first boot.
func (vm *VM) makeDisk(disk string) error {
	if _, err := os.Stat(disk); err == nil {
		return nil
	}
	if err := errors.Join(os.WriteFile(disk, nil, 0o600), os.Truncate(disk, 2000*mebibyte)); err != nil {
		return err
	}
	return command("mke2fs", "-q", "-F", "-t", "ext4", "-d", vm.Root, disk)
}

func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}

// only returns the only file that matches a pattern.
func only(pattern string) (string, error) {
	names, err := filepath.Glob(pattern)
	if err != nil || len(names) != 1 {
		return "", fmt.Errorf("looking for %s: found %d, expected one", pattern, len(names))
	}
	return names[0], nil
}

// control is the path of the socket at which QEMU takes the TPM over.
func (t *TPM) control() string { return filepath.Join(t.dir, "sock.ctrl") }

// plugIn starts the TPM for QEMU, which has its firmware power it on.
func (t *TPM) plugIn() error {
	cmd := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+t.dir, "--ctrl", "type=unixio,path="+t.control())
	wait, err := startWithUs(cmd)
	if err != nil {
		return fmt.Errorf("starting swtpm: %w", err)
	}
	t.off = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = wait()
		_ = os.Remove(t.control())
		t.off = nil
	}
	return t.await(t.control())
}

// Replace moves what a machine is to its user, /etc, /var, step-ca and the TPM, to
// a new one with another version of systemd, and closes the old one. It is what
// remains of a machine whose operating system is replaced.
func (vm *VM) Replace(version int) (*VM, error) {
	successor, err := NewVM(version)
	if err != nil {
		return nil, err
	}
	// The shell's namespace takes the mount with it.
	const script = `set -e
mkdir "$1/mnt"
mount -o loop,ro "$1/disk" "$1/mnt"
rm -rf "$2/etc" "$2/var"
cp -a "$1/mnt/etc" "$1/mnt/var" "$2/"
cp -a "$1/mnt/usr/bin/step" "$1/mnt/usr/bin/step-ca" "$2/usr/bin/"
chroot "$2" /sbin/ldconfig
`
	err = command("unshare", "--mount", "sh", "-c", script, "sh", vm.dir, successor.Root)
	if err == nil {
		successor.TPM, err = vm.TPM.clone(successor.dir)
	}
	if err = errors.Join(err, vm.Close()); err != nil {
		return nil, errors.Join(fmt.Errorf("replacing the operating system: %w", err), successor.Close())
	}
	return successor, nil
}
