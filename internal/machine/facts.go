// Package machine tells facts about a machine: its firmware, its mounts and media,
// its ID. It reads files only, starts no process and speaks to no bus.
package machine

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/bootseal/bootseal/internal/failure"
	"github.com/bootseal/bootseal/internal/root"
	"github.com/bootseal/bootseal/internal/systemd"
)

// ErrNoMachineID says that /etc/machine-id is missing, empty or not yet set.
var ErrNoMachineID = failure.HostKey.New("no machine ID", HostKeyHint)

// HostKeyHint is what helps where the host key, or the machine ID that it is for, is
// missing or another one.
const HostKeyHint = "restore /var/lib/systemd/credential.secret and /etc/machine-id of this machine from a copy, or encrypt the secret again"

// ID returns the 16 bytes of /etc/machine-id (machine-id(5)). The error is
// ErrNoMachineID if there is none.
func ID(dir root.Dir) (id [16]byte, err error) {
	const name = "/etc/machine-id"
	text, err := dir.ReadFile(name, 64)
	if errors.Is(err, fs.ErrNotExist) {
		return id, fmt.Errorf("%w: %s does not exist", ErrNoMachineID, name)
	}
	if err != nil {
		return id, fmt.Errorf("reading the machine ID: %w", err)
	}
	text = bytes.TrimSuffix(text, []byte("\n"))
	if len(text) != hex.EncodedLen(len(id)) {
		return id, fmt.Errorf("%w: %s has %d characters, expected 32 hexadecimal digits", ErrNoMachineID, name, len(text))
	}
	if _, err := hex.Decode(id[:], text); err != nil {
		return id, fmt.Errorf("%w: %s: expected 32 hexadecimal digits", ErrNoMachineID, name)
	}
	if id == [16]byte{} {
		return id, fmt.Errorf("%w: %s is all zeros", ErrNoMachineID, name)
	}
	return id, nil
}

// TPM2Support is what "systemd-analyze has-tpm2" reports on; Missing has the
// value of its exit status.
type TPM2Support struct {
	Firmware  bool // 1: the firmware found a TPM 2.0
	Driver    bool // 2: there is a device for it
	System    bool // 4: systemd was built with TPM2 support
	Subsystem bool // 8: the kernel knows of TPMs
	Libraries bool // 16: all of tpm2-tss that systemd loads is installed

	MissingLibraries []string // of systemd.TPM2LibraryNames
}

// Support collects what there is for TPM 2.0. In a container the hardware does
// not count, as for systemd. An error is about systemd or its libraries; the
// rest is filled in all the same.
func Support(dir root.Dir) (TPM2Support, error) {
	var s TPM2Support
	if !Container(dir) {
		s.Firmware = FirmwareTPM2(dir)
		devices, err := dir.ReadDir("/sys/class/tpmrm")
		s.Subsystem = err == nil
		s.Driver = len(devices) > 0
	}
	var err, err2 error
	s.System, err = systemd.BuiltWithTPM2(dir)
	s.MissingLibraries, err2 = systemd.TPM2Libraries(dir)
	if err2 != nil {
		s.MissingLibraries = systemd.TPM2LibraryNames
	}
	s.Libraries = len(s.MissingLibraries) == 0
	if err == nil {
		err = err2
	}
	return s, err
}

// Missing is the sum of the numbers of what is not there.
func (s TPM2Support) Missing() int {
	missing := 0
	for i, there := range []bool{s.Firmware, s.Driver, s.System, s.Subsystem, s.Libraries} {
		if !there {
			missing |= 1 << i
		}
	}
	return missing
}

// Words are what "systemd-analyze has-tpm2" says of each part: "+firmware".
func (s TPM2Support) Words() (words []string) {
	for _, part := range []struct {
		name  string
		there bool
	}{
		{"firmware", s.Firmware}, {"driver", s.Driver}, {"system", s.System}, {"subsystem", s.Subsystem}, {"libraries", s.Libraries},
	} {
		sign := "-"
		if part.there {
			sign = "+"
		}
		words = append(words, sign+part.name)
	}
	return words
}

// acpiTPM2 is the table by which firmware announces a TPM 2.0 (TCG ACPI
// Specification).
const acpiTPM2 = "/sys/firmware/acpi/tables/TPM2"

// FirmwareTPM2 tells whether the machine booted with EFI firmware that found a
// TPM 2.0: it left the TPM2 ACPI table. In a container it says no.
func FirmwareTPM2(dir root.Dir) bool {
	return efi(dir) && exists(dir, acpiTPM2)
}

// AnnouncesTPM2 tells whether the firmware, of whatever kind, left the TPM2 ACPI
// table: the kernel's driver will find a TPM 2.0. In a container it says no.
func AnnouncesTPM2(dir root.Dir) bool {
	return !Container(dir) && exists(dir, acpiTPM2)
}

// SecureBoot tells whether the machine booted with Secure Boot enforced (UEFI
// specification, section 3.3, variable SecureBoot). In a container it says no.
func SecureBoot(dir root.Dir) (bool, error) {
	const variable = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
	if !efi(dir) {
		return false, nil
	}
	data, err := dir.ReadFile(variable, 4096)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("finding out about Secure Boot: %w", err)
	}
	// Four bytes of attributes come before the value.
	if len(data) != 5 {
		return false, fmt.Errorf("finding out about Secure Boot: %s has %d bytes, expected 5", variable, len(data))
	}
	return data[4] == 1, nil
}

func efi(dir root.Dir) bool {
	return !Container(dir) && exists(dir, "/sys/firmware/efi")
}

// Container tells whether PID 1 runs in a container, by the marks that container
// managers leave (systemd-detect-virt(1), container interface).
func Container(dir root.Dir) bool {
	for _, name := range []string{
		"/run/host/container-manager", "/run/systemd/container", "/run/.containerenv", "/.dockerenv",
	} {
		if exists(dir, name) {
			return true
		}
	}
	environ, err := dir.ReadFile("/proc/1/environ", 1<<20)
	if err != nil {
		return false
	}
	for _, variable := range bytes.Split(environ, []byte{0}) {
		if value, ok := bytes.CutPrefix(variable, []byte("container=")); ok {
			return len(value) > 0
		}
	}
	return false
}

// Temporary tells whether what is written to the folder name is gone after a
// reboot: it is on tmpfs or ramfs. If it does not exist yet, its parent counts.
func Temporary(name string) (bool, error) {
	var st unix.Statfs_t
	err := unix.Statfs(name, &st)
	for err == unix.ENOENT && name != "/" && name != "." {
		name = filepath.Dir(name)
		err = unix.Statfs(name, &st)
	}
	if err != nil {
		return false, fmt.Errorf("finding out the file system of %s: %w", name, err)
	}
	return st.Type == unix.TMPFS_MAGIC || st.Type == unix.RAMFS_MAGIC, nil
}

func exists(dir root.Dir, name string) bool {
	real, err := dir.Path(name)
	if err != nil {
		return false
	}
	_, err = os.Stat(real)
	return err == nil
}
