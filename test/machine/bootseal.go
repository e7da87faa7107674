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

// Upgrade puts the programs of another version, and bootseal for it, in the place of
// the machine's, which may be running meanwhile, as a package manager would.
func (m *Machine) Upgrade(version int) error {
	tree, err := filepath.EvalSymlinks(filepath.Join(Cache(), strconv.Itoa(version)))
	if err != nil {
		return fmt.Errorf("upgrading to systemd %d: %w", version, ErrNotSetUp)
	}
	// Programs of before systemd 252 look in /bin, /lib and so on, which may be no links.
	script := `tar -C "$1" --exclude=usr/share -c usr | tar -C "$2" -x --keep-directory-symlink
tar -C "$1/usr" -c bin lib lib64 sbin | tar -C "$2" -x --keep-directory-symlink`
	if out, err := exec.Command("sh", "-ec", script, "sh", tree, m.Root).CombinedOutput(); err != nil {
		return fmt.Errorf("upgrading to systemd %d: %w: %s", version, err, out)
	}
	m.Version = version
	return m.InstallBootseal()
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
