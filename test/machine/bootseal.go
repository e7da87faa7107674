package machine

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

// InstallBootseal installs bootseal, built with meson, into the folders that the
// machine's own systemd.pc names.
func (m *Machine) InstallBootseal() error {
	tree, err := install(m)
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

// built has what bootseal installs on each version of systemd.
var built struct {
	sync.Mutex
	trees map[int]string
}

// install makes the tree of what is installed on machines like m, once.
func install(m *Machine) (tree string, err error) {
	built.Lock()
	defer built.Unlock()
	if tree := built.trees[m.Version]; tree != "" {
		return tree, nil
	}
	source, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("finding the source folder: %w", err)
	}
	// Named such that it is swept with the machines.
	tree, err = os.MkdirTemp(base, fmt.Sprintf("built%d-%d-", m.Version, os.Getpid()))
	if err != nil {
		return "", err
	}
	if err := os.Chmod(tree, 0o755); err != nil {
		return "", err
	}
	folder := filepath.Join(m.dir, "build")
	defer os.RemoveAll(folder)
	for _, args := range [][]string{
		{"setup", "--prefix=/usr", folder, strings.TrimSpace(string(source))},
		{"compile", "-C", folder},
		{"install", "--no-rebuild", "--destdir=" + tree, "-C", folder},
	} {
		cmd := exec.Command("meson", args...)
		cmd.Env = append(os.Environ(), "PKG_CONFIG_LIBDIR="+m.Path("/usr/share/pkgconfig"))
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("meson %s: %w:\n%s", args[0], err, out)
		}
	}
	if built.trees == nil {
		built.trees = map[int]string{}
	}
	built.trees[m.Version] = tree
	return tree, nil
}
