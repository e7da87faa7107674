package machine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"unicode/utf16"
)

// firmware is where Debian's ovmf has UEFI firmware and its variables, Microsoft's
// keys among them.
const firmware = "/usr/share/OVMF/"

// The one tree that UEFI can start.
const (
	uefiVersion = 257
	uefiTree    = "uefi-257"
)

// Boot loaders by the names that the one before looks for: the firmware for shim,
// shim for GRUB, and Debian's GRUB for its configuration.
const (
	shimPath       = "EFI/BOOT/BOOTX64.EFI"
	grubPath       = "EFI/BOOT/grubx64.efi"
	grubConfigPath = "EFI/debian/grub.cfg"
)

// NewUEFI makes a virtual machine with systemd 257 that UEFI firmware starts, with
// Secure Boot on: it measures what it starts, shim, GRUB and Debian's kernel.
func NewUEFI() (*VM, error) {
	vm, err := newVM(uefiVersion, uefiTree)
	if err != nil {
		return nil, err
	}
	vm.firmware, vm.esp = filepath.Join(vm.dir, "variables"), filepath.Join(vm.dir, "esp")
	if err := vm.installUEFI(); err != nil {
		return nil, errors.Join(fmt.Errorf("installing UEFI: %w", err), vm.Close())
	}
	return vm, nil
}

func (vm *VM) installUEFI() error {
	for to, from := range map[string]string{
		vm.firmware:                     firmware + "OVMF_VARS_4M.ms.fd",
		filepath.Join(vm.esp, shimPath): vm.Path("/usr/lib/shim/shimx64.efi.signed"),
		filepath.Join(vm.esp, grubPath): vm.Path("/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"),
		filepath.Join(vm.esp, "linux"):  vm.kernel,
		filepath.Join(vm.esp, "initrd"): vm.initrd,
	} {
		content, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(to, content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// uefi is what QEMU needs beyond the disks to start from the EFI system partition,
// which QEMU makes of a folder.
func (vm *VM) uefi() ([]string, error) {
	config := filepath.Join(vm.esp, grubConfigPath)
	if err := os.MkdirAll(filepath.Dir(config), 0o755); err != nil {
		return nil, err
	}
	err := os.WriteFile(config, []byte("linux /linux "+vm.commandLine()+"\ninitrd /initrd\nboot\n"), 0o600)
	return []string{
		"-machine", "smm=on", "-global", "driver=cfi.pflash01,property=secure,value=on",
		"-drive", "if=pflash,format=raw,readonly=on,file=" + firmware + "OVMF_CODE_4M.ms.fd",
		"-drive", "if=pflash,format=raw,file=" + vm.firmware,
		"-drive", "if=none,id=esp,format=raw,readonly=on,file=fat:" + vm.esp, "-device", "virtio-blk-pci,drive=esp,bootindex=0,addr=0x1e",
	}, err
}

// SecureBoot does what the switch in the firmware's settings does.
func (vm *VM) SecureBoot(on bool) error {
	value := byte(0)
	if on {
		value = 1
	}
	return vm.setVariable("SecureBootEnable", guid("f0a30bc7-af08-4556-99c4-001009c93a44"), []byte{value})
}

// EnrollMOK does what MokManager does when its user agrees to trust the owner of a
// certificate, given in DER.
func (vm *VM) EnrollMOK(certificate []byte) error {
	const head, owner = 28, 16
	// EFI_SIGNATURE_LIST of one EFI_CERT_X509_GUID (UEFI specification, section 32.4.1).
	list := guid("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
	for _, n := range []int{head + owner + len(certificate), 0, owner + len(certificate)} {
		list = binary.LittleEndian.AppendUint32(list, uint32(n))
	}
	list = append(list, shimLock...)
	return vm.setVariable("MokList", shimLock, append(list, certificate...))
}

// shimLock is the vendor of shim's variables.
var shimLock = guid("605dab50-e046-4300-abb6-3dd810dd8b23")

// guid is a GUID as UEFI stores it.
func guid(text string) []byte {
	var a uint32
	var b, c, d uint16
	var e uint64
	if _, err := fmt.Sscanf(text, "%08x-%04x-%04x-%04x-%012x", &a, &b, &c, &d, &e); err != nil {
		panic(err)
	}
	out := binary.LittleEndian.AppendUint32(nil, a)
	out = binary.LittleEndian.AppendUint16(out, b)
	out = binary.LittleEndian.AppendUint16(out, c)
	out = binary.BigEndian.AppendUint64(out, uint64(d)<<48|e)
	return out
}

// The store of variables (EDK II, Guid/VariableFormat.h): behind the header of
// the flash volume and its own, one variable after the other, each at a multiple of
// four, and then erased flash. AUTHENTICATED_VARIABLE_HEADER has the state in byte 2,
// attributes in 4, sizes of name and data in 36 and 40, and the vendor in 44.
const (
	storeStart     = 72 + 28
	variableHeader = 60
	variableMark   = 0x55AA
	variableAdded  = 0x3F // as flash is written: bits are cleared
	deletedMask    = 0xFD // VAR_DELETED
	bootServices   = 3    // NON_VOLATILE | BOOTSERVICE_ACCESS
)

// setVariable sets a variable that only the firmware and boot loaders can write.
func (vm *VM) setVariable(name string, vendor, data []byte) error {
	flash, err := os.ReadFile(vm.firmware)
	if err != nil {
		return err
	}
	var encoded []byte
	for _, unit := range append(utf16.Encode([]rune(name)), 0) {
		encoded = binary.LittleEndian.AppendUint16(encoded, unit)
	}
	at := storeStart
	for binary.LittleEndian.Uint16(flash[at:]) == variableMark {
		header := flash[at : at+variableHeader]
		nameSize, dataSize := int(binary.LittleEndian.Uint32(header[36:])), int(binary.LittleEndian.Uint32(header[40:]))
		if header[2] == variableAdded && bytes.Equal(header[44:], vendor) && bytes.Equal(flash[at+variableHeader:][:nameSize], encoded) {
			header[2] &= deletedMask
		}
		at = (at + variableHeader + nameSize + dataSize + 3) &^ 3
	}
	variable := make([]byte, variableHeader)
	binary.LittleEndian.PutUint16(variable, variableMark)
	variable[2] = variableAdded
	binary.LittleEndian.PutUint32(variable[4:], bootServices)
	binary.LittleEndian.PutUint32(variable[36:], uint32(len(encoded)))
	binary.LittleEndian.PutUint32(variable[40:], uint32(len(data)))
	copy(variable[44:], vendor)
	variable = slices.Concat(variable, encoded, data)
	if erased := flash[at:][:len(variable)]; !bytes.Equal(erased, bytes.Repeat([]byte{0xFF}, len(variable))) {
		return fmt.Errorf("%s: no room for the variable %s", vm.firmware, name)
	}
	copy(flash[at:], variable)
	return os.WriteFile(vm.firmware, flash, 0o600)
}
