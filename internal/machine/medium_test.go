package machine

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bootseal/bootseal/internal/root/roottest"
	"golang.org/x/sys/unix"
)

func TestEncryption(t *testing.T) {
	dir := roottest.Tree(t, map[string]string{
		"/sys/dev/block/8:1":              "-> ../../devices/sda/sda1",
		"/sys/devices/sda/sda1/partition": "1",
		// LVM on LUKS on a partition.
		"/sys/dev/block/253:1":             "-> ../../devices/dm-1",
		"/sys/devices/dm-1/dm/uuid":        "LVM-abc\n",
		"/sys/devices/dm-1/slaves/dm-0":    "-> ../../dm-0",
		"/sys/devices/dm-0/dm/uuid":        "CRYPT-LUKS2-0123-name\n",
		"/sys/devices/dm-0/slaves/sda1":    "-> ../../sda/sda1",
		"/sys/dev/block/9:0":               "-> ../../devices/md0",
		"/sys/devices/md0/slaves/dm-0":     "-> ../../dm-0",
		"/sys/devices/md0/slaves/sda1":     "-> ../../sda/sda1",
		"/sys/dev/block/9:1":               "-> ../../devices/loop",
		"/sys/devices/loop/slaves/itself":  "-> ../../loop",
		"/sys/dev/block/253:2":             "-> ../../devices/dm-2",
		"/sys/devices/dm-2/dm/uuid":        "xCRYPT-\n",
		"/sys/devices/dm-2/slaves/missing": "-> ../../gone",
	})
	for device, want := range map[string]Encryption{
		"8:1":   Unencrypted,
		"253:1": Encrypted,
		"9:0":   Unencrypted, // one half of the mirror
		"9:1":   Unknown,
		"253:2": Unknown,
		"1:1":   Unknown,
	} {
		if got := encryption(dir, "/sys/dev/block/"+device, 0); got != want {
			t.Errorf("%s: %v, want %v", device, got, want)
		}
	}
}

func TestBtrfsEncryption(t *testing.T) {
	files := map[string]string{
		"/sys/dev/block/8:1":              "-> ../../devices/sda/sda1",
		"/sys/devices/sda/sda1/partition": "1",
		"/sys/devices/dm-0/dm/uuid":       "CRYPT-LUKS2-0123-name\n",
		"/sys/devices/dm-1/dm/uuid":       "CRYPT-LUKS2-4567-other\n",
	}
	for device, base := range map[string]string{"253:0": "dm-0", "253:1": "dm-1"} {
		files["/sys/dev/block/"+device] = "-> ../../devices/" + base
	}
	for member, target := range map[string]string{
		"plain/devices/sda1":  "sda/sda1",
		"sealed/devices/dm-0": "dm-0",
		"mixed/devices/dm-1":  "dm-1",
		"mixed/devices/sda2":  "sda/sda1",
	} {
		files["/sys/fs/btrfs/"+member] = "-> ../../../../devices/" + target
	}
	dir := roottest.Tree(t, files)
	for device, want := range map[uint64]Encryption{
		unix.Mkdev(8, 1):   Unencrypted,
		unix.Mkdev(253, 0): Encrypted,
		unix.Mkdev(253, 1): Unencrypted, // of its two devices one is not
		unix.Mkdev(1, 1):   Unknown,
	} {
		if got := btrfsEncryption(dir, device); got != want {
			t.Errorf("%d:%d: %v, want %v", unix.Major(device), unix.Minor(device), got, want)
		}
	}
}

// TestBtrfs looks at a real one, of two devices, and a subvolume of it.
func TestBtrfs(t *testing.T) {
	if known, err := os.ReadFile("/proc/filesystems"); err != nil || !strings.Contains(string(known), "\tbtrfs\n") {
		t.Skipf("this kernel has no btrfs (%v)", err)
	}
	folder := t.TempDir()
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s (run test/setup, and the tests as root): %v: %s", name, err, out)
		}
	}
	var devices []string
	for _, name := range []string{"one", "two"} {
		image := filepath.Join(folder, name)
		if err := os.WriteFile(image, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(image, 256<<20); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("losetup", "--find", "--show", image).Output()
		if err != nil {
			t.Fatal(err)
		}
		device := string(out[:len(out)-1])
		t.Cleanup(func() { run("losetup", "--detach", device) })
		devices = append(devices, device)
	}
	run("mkfs.btrfs", append([]string{"--quiet"}, devices...)...)
	mounted := filepath.Join(folder, "mounted here")
	if err := os.Mkdir(mounted, 0o700); err != nil {
		t.Fatal(err)
	}
	run("mount", "-t", "btrfs", "-o", "device="+devices[1], devices[0], mounted)
	t.Cleanup(func() { run("umount", mounted) })
	run("btrfs", "subvolume", "create", mounted+"/sub")
	for _, name := range []string{mounted, mounted + "/sub"} {
		if got, err := EncryptedMedium("/", name); got != Unencrypted || err != nil {
			t.Errorf("%s: %v, %v; want %v", name, got, err, Unencrypted)
		}
	}
	if got, err := EncryptedMedium("/", "/proc/self"); got != Unknown || err != nil {
		t.Errorf("/proc: %v, %v; want %v", got, err, Unknown)
	}
	if got, err := EncryptedMedium("/", filepath.Join(folder, "missing")); err == nil {
		t.Errorf("a missing file: %v", got)
	}
}
