package machine

import (
	"errors"
	"github.com/bootseal/bootseal/internal/systemd/systemdtest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/bootseal/bootseal/internal/root/roottest"
	"golang.org/x/sys/unix"
)

func TestID(t *testing.T) {
	const text = "0123456789abcdef0011223344556677"
	want := [16]byte{0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77}
	for _, content := range []string{text, text + "\n", strings.ToUpper(text) + "\n"} {
		got, err := ID(roottest.Tree(t, map[string]string{"/etc/machine-id": content}))
		if got != want || err != nil {
			t.Errorf("%q: %x, %v; want %x", content, got, err, want)
		}
	}
	for _, content := range []string{"", "\n", "uninitialized\n", text[1:], text + "0", text + "\n\n", "g" + text[1:], strings.Repeat("0", 32) + "\n"} {
		if got, err := ID(roottest.Tree(t, map[string]string{"/etc/machine-id": content})); !errors.Is(err, ErrNoMachineID) {
			t.Errorf("%q: %x, %v; want ErrNoMachineID", content, got, err)
		}
	}
	if got, err := ID(roottest.Tree(t, nil)); !errors.Is(err, ErrNoMachineID) {
		t.Errorf("no file: %x, %v; want ErrNoMachineID", got, err)
	}
}

const (
	secureBootVariable = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
	acpiTable          = "/sys/firmware/acpi/tables/TPM2"
)

// What each made-up /sys means was tried on systemd-creds of 257.13.
func TestSupport(t *testing.T) {
	exe := string(systemdtest.Program(62, "/usr/lib/systemd", "", "libsystemd-shared-257.so"))
	base := map[string]string{
		"/proc/1/exe": exe,
		"/usr/lib/systemd/libsystemd-shared-257.so": string(systemdtest.Program(62, "", " +TPM2 ")),
		"/usr/lib/libtss2-esys.so.0":                exe,
		"/usr/lib/libtss2-rc.so.0":                  exe,
		"/usr/lib/libtss2-mu.so.0":                  exe,
	}
	all := []string{"/sys/class/tpmrm/tpmrm0/dev", acpiTable, secureBootVariable}
	for name, c := range map[string]struct {
		add, remove []string
		missing     int
	}{
		"everything":          {all, nil, 0},
		"empty /sys":          {nil, nil, 1 + 2 + 8},
		"no EFI":              {[]string{"/sys/class/tpmrm/tpmrm0/dev", acpiTable}, nil, 1},
		"EFI without a TPM":   {[]string{secureBootVariable}, nil, 1 + 2 + 8},
		"a container":         {append([]string{"/run/systemd/container"}, all...), nil, 1 + 2 + 8},
		"one library missing": {all, []string{"/usr/lib/libtss2-rc.so.0"}, 16},
		"old systemd":         {all, []string{"/usr/lib/systemd/libsystemd-shared-257.so"}, 4},
	} {
		files := map[string]string{}
		for file, content := range base {
			if !slices.Contains(c.remove, file) {
				files[file] = content
			}
		}
		for _, file := range c.add {
			files[file] = "x"
		}
		s, err := Support(roottest.Tree(t, files))
		if s.Missing() != c.missing {
			t.Errorf("%s: %+v is missing %d, want %d (%v)", name, s, s.Missing(), c.missing, err)
		}
	}
}

func TestSecureBoot(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  bool
	}{
		"no EFI":      {nil, false},
		"no variable": {map[string]string{"/sys/firmware/efi/x": ""}, false},
		"off":         {map[string]string{secureBootVariable: "\x06\x00\x00\x00\x00"}, false},
		"on":          {map[string]string{secureBootVariable: "\x06\x00\x00\x00\x01"}, true},
		"container":   {map[string]string{secureBootVariable: "\x06\x00\x00\x00\x01", "/.dockerenv": ""}, false},
	} {
		if got, err := SecureBoot(roottest.Tree(t, c.files)); got != c.want || err != nil {
			t.Errorf("%s: %v, %v; want %v", name, got, err, c.want)
		}
	}
	if got, err := SecureBoot(roottest.Tree(t, map[string]string{secureBootVariable: "\x01"})); err == nil {
		t.Errorf("cut variable: %v, want an error", got)
	}
}

func TestContainer(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  bool
	}{
		"a machine":       {map[string]string{"/proc/1/environ": "HOME=/\x00xcontainer=lxc\x00TERM=linux\x00"}, false},
		"environment":     {map[string]string{"/proc/1/environ": "HOME=/\x00container=lxc\x00"}, true},
		"set to nothing":  {map[string]string{"/proc/1/environ": "container=\x00"}, false},
		"systemd's mark":  {map[string]string{"/run/systemd/container": "systemd-nspawn\n"}, true},
		"podman's mark":   {map[string]string{"/run/.containerenv": ""}, true},
		"Docker's mark":   {map[string]string{"/.dockerenv": ""}, true},
		"the host's mark": {map[string]string{"/run/host/container-manager": "systemd-nspawn"}, true},
	} {
		if got := Container(roottest.Tree(t, c.files)); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestTemporary(t *testing.T) {
	dir := t.TempDir()
	disk, ram := filepath.Join(dir, "disk"), filepath.Join(dir, "ram")
	for _, d := range []string{disk, ram} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, kind := range []string{"tmpfs", "ramfs"} {
		if err := unix.Mount(kind, ram, kind, 0, ""); err != nil {
			t.Fatalf("mounting %s (run the tests as root): %v", kind, err)
		}
		for path, want := range map[string]bool{ram: true, ram + "/not/there/yet": true, "/proc": false} {
			if got, err := Temporary(path); got != want || err != nil {
				t.Errorf("%s: %s: %v, %v; want %v", kind, path, got, err, want)
			}
		}
		if err := unix.Unmount(ram, 0); err != nil {
			t.Fatal(err)
		}
	}
}
