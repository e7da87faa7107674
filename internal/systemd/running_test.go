package systemd

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bootseal/bootseal/internal/root"
	"github.com/bootseal/bootseal/internal/root/roottest"
	"github.com/bootseal/bootseal/internal/systemd/systemdtest"
)

func systemd(library string) string {
	return string(systemdtest.Program(elf.EM_X86_64, "/usr/lib/systemd", "", "libseccomp.so.2", library, "libc.so.6"))
}

func TestVersion(t *testing.T) {
	for library, want := range map[string]int{
		"libsystemd-shared-239.so":                239,
		"libsystemd-shared-247.so":                247,
		"libsystemd-shared-252.so":                252,
		"libsystemd-shared-257.13-1~deb13u1.so":   257,
		"libsystemd-shared-262~rc1.so":            262,
		"libsystemd-shared-255.4-1ubuntu8.fc.so":  255,
		"libsystemd-shared-1000.so":               1000,
		"libsystemd-shared-250.14-1.el9_4.1.so":   250,
		"libsystemd-shared-249.11-0ubuntu3.12.so": 249,
	} {
		got, err := Version(roottest.Tree(t, map[string]string{"/proc/1/exe": systemd(library)}))
		if got != want || err != nil {
			t.Errorf("%s: %d, %v; want %d", library, got, err, want)
		}
	}
}

func TestVersionPlaces(t *testing.T) {
	v247, v257 := systemd("libsystemd-shared-247.so"), systemd("libsystemd-shared-257.so")
	for name, c := range map[string]struct {
		files map[string]string
		want  int
		err   error
	}{
		"what runs, not what is installed": {map[string]string{"/proc/1/exe": v247, "/usr/lib/systemd/systemd": v257}, 247, nil},
		"an image":                         {map[string]string{"/usr/lib/systemd/systemd": v257}, 257, nil},
		"an image before the /usr merge":   {map[string]string{"/lib/systemd/systemd": v247}, 247, nil},
		"a link inside the tree":           {map[string]string{"/proc/1/exe": "-> /opt/systemd", "/opt/systemd": v257}, 257, nil},
		"a link out of the tree":           {map[string]string{"/proc/1/exe": "-> ../../../../../../../../../bin/true"}, 0, fs.ErrNotExist},
		"nothing":                          {nil, 0, fs.ErrNotExist},
		"another init":                     {map[string]string{"/proc/1/exe": systemd("libz.so.1"), "/usr/lib/systemd/systemd": v257}, 0, ErrNotSystemd},
	} {
		got, err := Version(roottest.Tree(t, c.files))
		if got != c.want || !errors.Is(err, c.err) {
			t.Errorf("%s: %d, %v; want %d, %v", name, got, err, c.want, c.err)
		}
	}
}

func TestVersionRefuses(t *testing.T) {
	good := systemd("libsystemd-shared-257.so")
	for name, content := range map[string]string{
		"empty":         "",
		"a script":      "#!/bin/sh\n",
		"cut":           good[:len(good)/2],
		"no number":     systemd("libsystemd-shared-.so"),
		"huge number":   systemd("libsystemd-shared-99999999999999999999.so"),
		"only a header": good[:64],
	} {
		if got, err := Version(roottest.Tree(t, map[string]string{"/proc/1/exe": content})); err == nil {
			t.Errorf("%s: %d, want an error", name, got)
		}
	}
	dir := roottest.Tree(t, map[string]string{"/proc/1/exe/file": ""})
	if got, err := Version(dir); !errors.Is(err, root.ErrNotRegular) {
		t.Errorf("a folder: %d, %v, want ErrNotRegular", got, err)
	}
}

func TestBuiltWithTPM2(t *testing.T) {
	const lib = "libsystemd-shared-257.so"
	exe, old := systemd(lib), systemd("libsystemd-shared-250.so")
	with := string(systemdtest.Program(elf.EM_X86_64, "", "x\x00+PAM +TPM2 +BZIP2\x00"))
	without := string(systemdtest.Program(elf.EM_X86_64, "", "x\x00+PAM -TPM2 +BZIP2\x00"))
	for name, c := range map[string]struct {
		files map[string]string
		want  bool
	}{
		"with":                  {map[string]string{"/usr/lib/systemd/" + lib: with}, true},
		"without":               {map[string]string{"/usr/lib/systemd/" + lib: without}, false},
		"before the /usr merge": {map[string]string{"/lib/systemd/" + lib: with}, true},
		"says nothing":          {map[string]string{"/usr/lib/systemd/" + lib: exe}, false},
		// That has no word for it in its list of features, built with TPM2 or not.
		"250 with":    {map[string]string{"/proc/1/exe": old, "/usr/lib/systemd/libsystemd-shared-250.so": string(systemdtest.Program(elf.EM_X86_64, "", "+PAM +BZIP2\x00libtss2-esys.so.0\x00"))}, true},
		"250 without": {map[string]string{"/proc/1/exe": old, "/usr/lib/systemd/libsystemd-shared-250.so": string(systemdtest.Program(elf.EM_X86_64, "", "+PAM +BZIP2\x00"))}, false},
		"250 of SUSE": {map[string]string{"/proc/1/exe": old, "/usr/lib/systemd/libsystemd-shared-250.so": with}, true},
	} {
		if c.files["/proc/1/exe"] == "" {
			c.files["/proc/1/exe"] = exe
		}
		got, err := BuiltWithTPM2(roottest.Tree(t, c.files))
		if got != c.want || err != nil {
			t.Errorf("%s: %v, %v; want %v", name, got, err, c.want)
		}
	}
	other := map[string]string{"/proc/1/exe": systemd("libz.so.1"), "/lib/systemd/systemd": exe, "/lib/systemd/" + lib: with}
	if got, err := BuiltWithTPM2(roottest.Tree(t, other)); !got || err != nil {
		t.Errorf("PID 1 is not systemd, but one is installed: %v, %v; want true", got, err)
	}
	if got, err := BuiltWithTPM2(roottest.Tree(t, map[string]string{"/proc/1/exe": exe})); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("library missing: %v, %v; want fs.ErrNotExist", got, err)
	}
}

// The systemd that is installed here must agree with what it says of itself.
func TestInstalledSystemd(t *testing.T) {
	out, err := exec.Command("systemd-creds", "--version").Output()
	if err != nil {
		t.Fatalf("%v (Debian: apt-get install systemd)", err)
	}
	var want int
	if _, err := fmt.Sscanf(string(out), "systemd %d ", &want); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	// Its files without the machine's /proc, where PID 1 may be another program.
	files := map[string]string{}
	for _, pattern := range []string{
		"/usr/lib/systemd/systemd", "/usr/lib/systemd/libsystemd-shared-*", "/usr/lib/*/systemd/libsystemd-shared-*", "/usr/lib/*/libtss2-*.so.0",
	} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			files[name] = string(data)
		}
	}
	dir := roottest.Tree(t, files)
	if got, err := Version(dir); got != want || err != nil {
		t.Errorf("Version: %d, %v; want %d", got, err, want)
	}
	if got, err := BuiltWithTPM2(dir); got != strings.Contains(string(out), "+TPM2") || err != nil {
		t.Errorf("BuiltWithTPM2: %v, %v; systemd says:\n%s", got, err, out)
	}
	missing, err := TPM2Libraries(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, library := range TPM2LibraryNames {
		packaged, err := filepath.Glob("/usr/lib/*/" + library)
		if err != nil {
			t.Fatal(err)
		}
		if isMissing := strings.Contains(strings.Join(missing, " "), library); isMissing == (len(packaged) > 0) {
			t.Errorf("%s: missing %v, but in /usr/lib: %q", library, isMissing, packaged)
		}
	}
}

func FuzzSystemd(f *testing.F) {
	f.Add([]byte(systemd("libsystemd-shared-257.so")))
	f.Add(systemdtest.Program(elf.EM_X86_64, "", " +TPM2 "))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := readELF(bytes.NewReader(data))
		if err != nil {
			return
		}
		if library, err := sharedLibrary(file); err == nil && !strings.HasPrefix(library, sharedPrefix) {
			t.Errorf("library %q", library)
		}
		if yes, err := mentions(file, "TPM2"); yes && (err != nil || !bytes.Contains(data, []byte("TPM2"))) {
			t.Errorf("a feature out of nothing, %v", err)
		}
	})
}
