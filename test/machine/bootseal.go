package machine

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
)

// InstallBootseal installs bootseal, built with meson, into the folders that the
// machine's own systemd.pc names.
func (m *Machine) InstallBootseal() error {
	tree, err := built("meson-"+treeName(strconv.Itoa(m.Version)), m.build)
	if err != nil {
		return err
	}
	// The machine's /lib may be a link.
	script := `tar -C "$1" -c . | tar -C "$2" -x --keep-directory-symlink`
	if out, err := exec.Command("sh", "-c", script, "sh", tree, m.Root).CombinedOutput(); err != nil {
		return fmt.Errorf("installing bootseal: %w: %s", err, out)
	}
	return nil
}

// build makes the tree of what is installed on machines like m.
func (m *Machine) build(tree string) error {
	source, err := source()
	if err != nil {
		return err
	}
	folder := filepath.Join(m.dir, "build")
	defer os.RemoveAll(folder)
	for _, args := range [][]string{
		{"setup", "--prefix=/usr", folder, source},
		{"compile", "-C", folder},
		{"install", "--no-rebuild", "--destdir=" + tree, "-C", folder},
	} {
		cmd := exec.Command("meson", args...)
		cmd.Env = append(os.Environ(), "PKG_CONFIG_LIBDIR="+m.Path("/usr/share/pkgconfig"))
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("meson %s: %w:\n%s", args[0], err, out)
		}
	}
	return nil
}
