package systemd

import (
	"debug/elf"
	"github.com/bootseal/bootseal/internal/root/roottest"
	"github.com/bootseal/bootseal/internal/systemd/systemdtest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestTPM2Libraries(t *testing.T) {
	exe := systemd("libsystemd-shared-257.so")
	lib := string(systemdtest.Program(elf.EM_X86_64, "", ""))
	foreign := string(systemdtest.Program(elf.EM_386, "", ""))
	const esys, mu, rc = "libtss2-esys.so.0", "libtss2-mu.so.0", "libtss2-rc.so.0"
	for name, c := range map[string]struct {
		files   map[string]string
		missing []string
	}{
		"none":            {map[string]string{}, []string{esys, rc, mu}},
		"multiarch":       {map[string]string{"/usr/lib/x86_64-linux-gnu/" + esys: lib, "/lib/x86_64-linux-gnu/" + mu: lib}, []string{rc}},
		"lib64":           {map[string]string{"/usr/lib64/" + esys: lib, "/lib64/" + mu: lib, "/usr/lib64/" + rc: lib}, nil},
		"lib":             {map[string]string{"/usr/lib/" + esys: lib, "/lib/" + mu: lib, "/usr/lib/" + rc: lib}, nil},
		"links":           {map[string]string{"/usr/lib/" + esys: "-> lib.0.4", "/usr/lib/lib.0.4": lib, "/usr/lib/" + mu: "-> /gone"}, []string{rc, mu}},
		"other processor": {map[string]string{"/usr/lib/" + esys: foreign, "/usr/lib/" + mu: lib}, []string{esys, rc}},
		"not a library":   {map[string]string{"/usr/lib/" + esys: "", "/usr/lib/" + rc + "/x": "", "/usr/lib/" + mu: "INPUT(x)"}, []string{esys, rc, mu}},
		"other folder":    {map[string]string{"/opt/" + esys: lib, "/usr/lib/tss/" + mu: lib}, []string{esys, rc, mu}},
	} {
		c.files["/proc/1/exe"] = exe
		got, err := TPM2Libraries(roottest.Tree(t, c.files))
		if !slices.Equal(got, c.missing) || err != nil {
			t.Errorf("%s: %q, %v; want %q", name, got, err, c.missing)
		}
	}
}

// The cache that the real ldconfig(8) writes, in both forms.
func TestTPM2LibrariesCache(t *testing.T) {
	real, err := filepath.Glob("/usr/lib/*/libtss2-mu.so.0")
	if err != nil || len(real) == 0 {
		t.Fatalf("no libtss2-mu.so.0 (Debian: apt-get install libtss2-mu0): %v", err)
	}
	lib, err := os.ReadFile(real[0])
	if err != nil {
		t.Fatal(err)
	}
	file, err := elf.Open(real[0])
	if err != nil {
		t.Fatal(err)
	}
	file.Close()
	for _, format := range []string{"new", "compat", "old"} {
		dir := roottest.Tree(t, map[string]string{
			"/proc/1/exe":                  string(systemdtest.Program(file.Machine, "", "", "libsystemd-shared-257.so")),
			"/etc/ld.so.conf":              "/opt/tpm/lib\n",
			"/opt/tpm/lib/libtss2-mu.so.0": string(lib),
		})
		if out, err := exec.Command("/sbin/ldconfig", "-r", string(dir), "-c", format).CombinedOutput(); err != nil {
			t.Fatalf("ldconfig: %v\n%s", err, out)
		}
		missing, err := TPM2Libraries(dir)
		if err != nil {
			t.Fatal(err)
		}
		found := !slices.Contains(missing, "libtss2-mu.so.0")
		// The form of glibc 2.1 and older alone is on no system with systemd.
		if want := format != "old"; found != want {
			t.Errorf("format %s: found %v, want %v (missing %q)", format, found, want, missing)
		}
	}
}

func FuzzLookUp(f *testing.F) {
	cache, err := os.ReadFile("/etc/ld.so.cache")
	if err != nil {
		f.Fatal(err)
	}
	// Its first entries, where the offsets point behind the end.
	f.Add(cache[:min(len(cache), 4096)])
	f.Add([]byte(cacheMagic + "\xff\xff\xff\xff" + strings.Repeat("\x00", 64)))
	f.Add([]byte(oldCacheMagic + "\xff\xff\xff\xff" + strings.Repeat("\x00", 64)))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, place := range lookUp(data, "libc.so.6") {
			if !filepath.IsAbs(place) || strings.ContainsRune(place, 0) {
				t.Errorf("%q is not an absolute path", place)
			}
		}
	})
}
