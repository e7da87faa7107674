package machine

import (
	"bytes"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bootseal/bootseal/internal/root"
)

// Encryption is what is known of the medium a file lies on.
type Encryption int

const (
	Unknown     Encryption = iota // no block device below it, or not all are known
	Unencrypted                   // at least one device below it is not encrypted
	Encrypted                     // dm-crypt is below all of it
)

// EncryptedMedium looks for dm-crypt below the file system that the file name
// lies on. dir is where sysfs is.
func EncryptedMedium(dir root.Dir, name string) (Encryption, error) {
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		return Unknown, fmt.Errorf("finding out the medium of %s: %w", name, err)
	}
	if unix.Major(st.Dev) != 0 {
		return encryption(dir, sysfs(st.Dev), 0), nil
	}
	source, err := btrfsDevice(name)
	if err != nil {
		return Unknown, fmt.Errorf("finding out the medium of %s: %w", name, err)
	}
	if device, ok := blockDevice(source); ok {
		return btrfsEncryption(dir, device), nil
	}
	return Unknown, nil // overlay, a network
}

// EncryptedDevice tells whether dm-crypt is, or is below, the block device name.
// dir is where sysfs is.
func EncryptedDevice(dir root.Dir, name string) bool {
	device, ok := blockDevice(name)
	return ok && encryption(dir, sysfs(device), 0) == Encrypted
}

// blockDevice returns the number of the block device name, if it is one.
func blockDevice(name string) (uint64, bool) {
	var st unix.Stat_t
	err := unix.Stat(name, &st)
	return st.Rdev, err == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK
}

func sysfs(device uint64) string {
	return fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(device), unix.Minor(device))
}

// btrfsDevice returns one of the devices of the btrfs that name lies on, "" if it
// lies on another file system. A btrfs has device numbers of its own, and so has
// each of its subvolumes; only the list of mounts tells what is below.
func btrfsDevice(name string) (string, error) {
	fd, err := unix.Open(name, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	// proc_pid_fdinfo(5)
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", fd))
	if err != nil {
		return "", err
	}
	var mount string
	for line := range strings.Lines(string(info)) {
		if id, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			mount = strings.TrimSpace(id)
		}
	}
	mounts, err := root.Dir("/").ReadFile("/proc/self/mountinfo", maxMountinfo)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(mounts)) {
		id, rest, _ := strings.Cut(line, " ")
		_, rest, _ = strings.Cut(rest, " - ")
		if fields := strings.Fields(rest); id == mount && len(fields) > 1 && fields[0] == "btrfs" {
			return UnescapePath(fields[1]), nil
		}
	}
	return "", nil
}

// btrfsEncryption looks below all devices of the btrfs that device belongs to.
func btrfsEncryption(dir root.Dir, device uint64) Encryption {
	target, err := dir.Readlink(path.Split(sysfs(device)))
	if err != nil {
		return Unknown
	}
	const all = "/sys/fs/btrfs"
	systems, _ := dir.ReadDir(all)
	for _, system := range systems {
		devices := path.Join(all, system.Name(), "devices")
		if exists(dir, path.Join(devices, path.Base(target))) {
			return weakest(dir, devices, 0)
		}
	}
	return Unknown
}

// maxStack bounds how many device-mapper and RAID layers are looked through.
const maxStack = 16

func encryption(dir root.Dir, device string, depth int) Encryption {
	if depth > maxStack || !exists(dir, device) {
		return Unknown
	}
	if uuid, err := dir.ReadFile(device+"/dm/uuid", 4096); err == nil && bytes.HasPrefix(uuid, []byte("CRYPT-")) {
		return Encrypted
	}
	slaves, err := dir.ReadDir(device + "/slaves")
	if err != nil || len(slaves) == 0 {
		// A partition, or a disk.
		return Unencrypted
	}
	return weakest(dir, device+"/slaves", depth+1)
}

// weakest is what is known of all devices in a folder of sysfs.
func weakest(dir root.Dir, folder string, depth int) Encryption {
	devices, err := dir.ReadDir(folder)
	if err != nil || len(devices) == 0 {
		return Unknown
	}
	result := Encrypted
	for _, device := range devices {
		result = min(result, encryption(dir, path.Join(folder, device.Name()), depth))
	}
	return result
}
