package tpmdevice

import (
	"errors"
	"fmt"
	"io/fs"
	"path"

	"github.com/bootseal/bootseal/internal/root"
)

// A Device is a TPM 2.0 that the kernel knows.
type Device struct {
	Path   string // of the device node
	Device string // its name in the firmware or on its bus, "" if unknown
	Driver string // of the kernel, "" if unknown
}

// List lists the TPMs of the machine.
func List(dir root.Dir) ([]Device, error) {
	const class = "/sys/class/tpmrm"
	entries, err := dir.ReadDir(class)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listing TPMs: %w", err)
	}
	var all []Device
	for _, entry := range entries {
		folder := path.Join(class, entry.Name())
		device, _ := dir.Readlink(folder, "device")
		driver, _ := dir.Readlink(folder+"/device", "driver")
		all = append(all, Device{"/dev/" + entry.Name(), base(device), base(driver)})
	}
	return all, nil
}

// base is path.Base, without the dot of nothing.
func base(link string) string {
	if link == "" {
		return ""
	}
	return path.Base(link)
}
