// Package build tests what meson makes and where it puts it.
package build

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func run(t *testing.T, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func needs(t *testing.T, programs ...string) {
	t.Helper()
	for _, program := range programs {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed: run test/setup", program)
		}
	}
}

func source(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func install(t *testing.T, source string, env []string, options ...string) (dest string) {
	t.Helper()
	build, dest := filepath.Join(t.TempDir(), "build"), t.TempDir()
	run(t, env, "meson", append([]string{"setup", build, source}, options...)...)
	run(t, env, "meson", "compile", "-C", build)
	run(t, env, "meson", "install", "--no-rebuild", "-C", build, "--destdir", dest)
	return dest
}

func checkMode(t *testing.T, path string, want os.FileMode) {
	t.Helper()
	if st, err := os.Stat(path); err != nil {
		t.Error(err)
	} else if st.Mode().Perm() != want {
		t.Errorf("%s has mode %o, want %o", path, st.Mode().Perm(), want)
	}
}

func TestInstall(t *testing.T) {
	needs(t, "meson", "ninja", "pkg-config")
	dest := install(t, source(t), nil, "--prefix=/usr")
	dir := func(name string) string { return dest + run(t, nil, "pkg-config", "--variable="+name, "systemd") }
	generator := filepath.Join(dir("systemdsystemgeneratordir"), "bootseal-generator")
	checkMode(t, generator, 0o755)
	checkMode(t, filepath.Join(dest, "usr/bin/bootseal"), 0o755)
	checkMode(t, filepath.Join(dir("tmpfilesdir"), "bootseal.conf"), 0o644)
	checkMode(t, filepath.Join(dir("systemdsystemunitdir"), "service.d/zz-bootseal.conf"), 0o644)
	checkMode(t, filepath.Join(dir("systemdsystemunitdir"), "bootseal.socket"), 0o644)
	checkMode(t, filepath.Join(dir("systemdsystemunitdir"), "bootseal.service"), 0o644)
	checkMode(t, filepath.Join(dir("systemdsystemunitdir"), "bootseal-cleanup@.service"), 0o644)
	for _, name := range []string{"README.md", "LICENSE"} {
		checkMode(t, filepath.Join(dest, "usr/share/doc/bootseal", name), 0o644)
	}
	if _, err := os.Lstat(filepath.Join(dest, "usr/bin/systemd-creds")); err == nil {
		t.Error("systemd-creds is installed, which systemd has")
	}
	for _, program := range []string{generator, filepath.Join(dest, "usr/bin/bootseal")} {
		if got := run(t, nil, program, "--version"); !strings.HasPrefix(got, "bootseal ") || strings.Contains(got, "dev") || strings.Contains(got, "unknown") {
			t.Errorf("%s --version: %q", program, got)
		}
	}
}

func TestOptions(t *testing.T) {
	needs(t, "meson", "ninja")
	// Neither systemd.pc nor a home, as where packages are built.
	env := []string{"PKG_CONFIG_LIBDIR=/nonexistent", "HOME=", "GOCACHE=", "XDG_CACHE_HOME=", "GOMODCACHE=" + run(t, nil, "go", "env", "GOMODCACHE")}
	dest := install(t, source(t), env, "--prefix=/opt/bootseal",
		"-Dsystemdsystemgeneratordir=/g", "-Dsystemdsystemunitdir=/u", "-Dtmpfilesdir=/t", "-Dsystemd-creds=true")
	checkMode(t, dest+"/g/bootseal-generator", 0o755)
	checkMode(t, dest+"/u/service.d/zz-bootseal.conf", 0o644)
	checkMode(t, dest+"/t/bootseal.conf", 0o644)
	checkMode(t, dest+"/opt/bootseal/bin/bootseal", 0o755)
	if got := run(t, nil, dest+"/opt/bootseal/bin/systemd-creds", "--version"); !strings.HasPrefix(got, "systemd 262 ") {
		t.Errorf("systemd-creds --version: %q", got)
	}
	for _, name := range []string{"/g/bootseal-generator", "/u/bootseal.service", "/u/bootseal-cleanup@.service"} {
		content, err := os.ReadFile(dest + name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(content, []byte("/opt/bootseal/bin/bootseal")) {
			t.Errorf("%s does not know where bootseal is installed", name)
		}
	}
}

// TestReproducible builds two copies of the source in folders of different names.
func TestReproducible(t *testing.T) {
	needs(t, "meson", "ninja", "pkg-config")
	var builds []string
	for _, name := range []string{"a", "another-folder"} {
		copied := filepath.Join(t.TempDir(), name)
		run(t, nil, "cp", "-a", source(t), copied)
		builds = append(builds, install(t, copied, nil, "--prefix=/usr", "-Dsystemdsystemgeneratordir=/g"))
	}
	for _, name := range []string{"/g/bootseal-generator", "/usr/bin/bootseal"} {
		one, err := os.ReadFile(builds[0] + name)
		if err != nil {
			t.Fatal(err)
		}
		two, err := os.ReadFile(builds[1] + name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(one, two) {
			t.Errorf("%s differs between two builds", name)
		}
	}
}
