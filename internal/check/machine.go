package check

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/bootseal/bootseal/internal/hostkey"
	"github.com/bootseal/bootseal/internal/machine"
	"github.com/bootseal/bootseal/internal/root"
	"github.com/bootseal/bootseal/internal/sealing"
	"github.com/bootseal/bootseal/internal/tpm"
)

// machine checks what belongs to no unit alone.
func (c *checking) machine(version int) {
	add := func(check string, v verdict, found, remedy string) {
		c.add(finding{check: check, verdict: v, found: found, remedy: remedy})
	}
	if c.noSystem != nil {
		add("systemd", unknown, c.noSystem.Error(), "")
	} else {
		add("systemd", good, fmt.Sprint(version), "")
	}
	c.tpmSupport(add)
	c.tpmItself(add)
	switch on, err := secureBoot(); {
	case err != nil:
		add("secure boot", unknown, err.Error(), "")
	case on:
		add("secure boot", good, "on", "")
	default:
		add("secure boot", note, "off, or the machine was not started by EFI", "")
	}
	if c.needs.host || c.needs.hostMade {
		c.hostKey(add)
	}
	swap(root.Dir("/"), add)
}

func secureBoot() (bool, error) { return machine.SecureBoot("/") }

// tpmSupport has the words of has-tpm2.
func (c *checking) tpmSupport(add func(string, verdict, string, string)) {
	s, err := machine.Support("/")
	if err != nil {
		add("tpm support", unknown, err.Error(), "")
		return
	}
	v := good
	if s.Missing() != 0 {
		v = note
	}
	add("tpm support", v, strings.Join(s.Words(), " "), "")
	if len(s.MissingLibraries) > 0 {
		add("libtss2", note, "not found: "+strings.Join(s.MissingLibraries, ", ")+"; bootseal opens for systemd instead", "")
	} else {
		add("libtss2", good, "found", "")
	}
}

// tpmItself asks the TPM about itself.
func (c *checking) tpmItself(add func(string, verdict, string, string)) {
	t, err := c.Open()
	var p tpm.Properties
	if err == nil {
		p, err = tpm.ReadProperties(t)
	}
	if err != nil {
		v, remedy := judge(err, "")
		if v == bad && !c.needs.tpm2 {
			v, remedy = note, ""
		}
		add("tpm", v, err.Error(), remedy)
		return
	}
	add("tpm", good, strings.TrimSpace(fmt.Sprintf("%s %s, firmware %s", p.Manufacturer, p.Vendor, p.Firmware)), "")
	if p.InLockout {
		add("tpm lockout", bad, "the TPM has locked itself after too many failures", "tpm2_dictionarylockout --clear-lockout")
	} else {
		add("tpm lockout", good, fmt.Sprintf("%d of %d failures", p.LockoutCounter, p.MaxAuthFail), "")
	}
	if p.OwnerAuthSet {
		add("tpm owner", bad, "the owner hierarchy has a password, so that no storage key can be made", "tpm2_changeauth -c owner -p PASSWORD")
	} else {
		add("tpm owner", good, "no password", "")
	}
	if p.AESCFB {
		add("tpm aes-cfb", good, "what crosses the bus is encrypted", "")
	} else {
		add("tpm aes-cfb", bad, "the TPM cannot encrypt what crosses the bus", "")
	}
}

// hostKey checks it without keeping it.
func (c *checking) hostKey(add func(string, verdict, string, string)) {
	key, err := sealing.HostKey()
	clear(key)
	file, pathErr := hostkey.Path()
	switch {
	case pathErr != nil:
		add("host key", bad, pathErr.Error(), "")
		return
	case errors.Is(err, fs.ErrPermission):
		add("host key", unknown, err.Error(), "")
		return
	case errors.Is(err, hostkey.ErrUnsafe):
		// Whether it is a link, has several, or another owner or mode.
		add("host key", bad, err.Error(), fmt.Sprintf("install -m 0400 %[1]s %[1]s.new && mv -fT %[1]s.new %[1]s", file))
		return
	case errors.Is(err, hostkey.ErrMissing) && !c.needs.host:
		add("host key", note, "there is none; bootseal.service makes one", "")
		return
	case errors.Is(err, hostkey.ErrMissing):
		add("host key", bad, err.Error(), "bootseal setup")
		return
	case errors.Is(err, hostkey.ErrForeign):
		add("host key", bad, err.Error()+": the machine ID has changed, or the file was copied; without the one that belongs to it, make another and encrypt again",
			fmt.Sprintf("mv %[1]s %[1]s.old && bootseal setup", file))
		return
	case errors.Is(err, machine.ErrNoMachineID):
		add("host key", bad, err.Error(), "systemd-machine-id-setup")
		return
	case err != nil:
		add("host key", unknown, err.Error(), "")
		return
	}
	add("host key", good, file, "")
	if gone, err := machine.Temporary(file); err == nil && gone {
		add("host key medium", bad, "it is on a file system that is gone after a reboot", "")
		return
	}
	switch medium, err := machine.EncryptedMedium("/", file); {
	case err != nil:
		add("host key medium", unknown, err.Error(), "")
	case medium == machine.Encrypted:
		add("host key medium", good, "located on encrypted media", "")
	case medium == machine.Unencrypted:
		add("host key medium", note, "not located on encrypted media: who has the disk has the host key", "")
	default:
		add("host key medium", note, "not known to be located on encrypted media", "")
	}
}

// swap tells of swap space in which the memory of units could be found later.
func swap(dir root.Dir, add func(string, verdict, string, string)) {
	text, err := dir.ReadFile("/proc/swaps", 1<<20)
	if err != nil {
		add("swap", unknown, err.Error(), "")
		return
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Scan() // the heading
	plain := false
	for lines.Scan() {
		field := strings.Fields(lines.Text())
		if len(field) == 0 {
			continue
		}
		name := machine.UnescapePath(field[0])
		if strings.HasPrefix(name, "/dev/zram") || swapEncrypted(name) {
			continue
		}
		plain = true
		add("swap", note, name+" is not encrypted; memory of units can end up there", "swapoff "+name)
	}
	if !plain {
		add("swap", good, "none, or encrypted", "")
	}
}

func swapEncrypted(name string) bool {
	st, err := os.Stat(name)
	if err != nil {
		return false
	}
	if st.Mode()&fs.ModeDevice != 0 {
		return machine.EncryptedDevice("/", name)
	}
	medium, err := machine.EncryptedMedium("/", name)
	return err == nil && medium == machine.Encrypted
}

// coreDumps tells whether a crash leaves a core dump, where, and whether that is
// up to LimitCORE=: a program that cores are piped to gets them all the same,
// core(5), and of those only systemd-coredump is known to heed it.
func coreDumps(dir root.Dir) (kept, limited bool, where string) {
	text, err := dir.ReadFile("/proc/sys/kernel/core_pattern", 4096)
	pattern := strings.TrimSpace(string(text))
	switch {
	case err != nil:
		return true, true, "a core dump"
	case pattern == "" || pattern == "|/bin/false" || pattern == "|/bin/true":
		return false, true, "there are none"
	case strings.HasPrefix(pattern, "|"):
		program, _, _ := strings.Cut(pattern[1:], " ")
		return true, path.Base(program) == "systemd-coredump", "what " + program + " keeps"
	}
	return true, true, "a file " + pattern
}
