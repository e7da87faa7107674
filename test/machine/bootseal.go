package machine

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// InstallBootseal builds bootseal with meson and installs it, into the folders
// that the machine's own systemd.pc names.
func (m *Machine) InstallBootseal() error {
	source, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return fmt.Errorf("finding the source folder: %w", err)
	}
	build := filepath.Join(m.dir, "build")
	for _, args := range [][]string{
		{"setup", "--prefix=/usr", build, strings.TrimSpace(string(source))},
		{"compile", "-C", build},
		{"install", "--no-rebuild", "--destdir=" + m.Root, "-C", build},
	} {
		cmd := exec.Command("meson", args...)
		cmd.Env = append(os.Environ(), "PKG_CONFIG_LIBDIR="+m.Path("/usr/share/pkgconfig"))
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("meson %s: %w:\n%s", args[0], err, out)
		}
	}
	return os.RemoveAll(build)
}
