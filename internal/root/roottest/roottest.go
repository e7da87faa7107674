// Package roottest makes machines for tests, of a few files each.
package roottest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bootseal/bootseal/internal/root"
)

// Tree makes a machine of the files, named by their absolute paths there; the
// content of a symbolic link begins with "-> ".
func Tree(t testing.TB, files map[string]string) root.Dir {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			err = os.Symlink(target, path)
		} else {
			err = os.WriteFile(path, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root.Dir(dir)
}
