package manager

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/bootseal/bootseal/internal/root"
)

func TestBusy(t *testing.T) {
	for name, c := range map[string]struct {
		threads map[string]string
		want    bool
	}{
		"waits":                       {map[string]string{"7": "7 (app) S 1 7 7"}, false},
		"runs":                        {map[string]string{"7": "7 (app) R 1 7 7"}, true},
		"reads from a disk":           {map[string]string{"7": "7 (app) D 1 7 7"}, true},
		"another thread runs":         {map[string]string{"7": "7 (app) S 1 7 7", "8": "8 (app) R 1 7 7"}, true},
		"is called like one that is":  {map[string]string{"7": "7 (x) R 1) S 1 7 7"}, false},
		"is called like one that not": {map[string]string{"7": "7 (x) S 1) R 1 7 7"}, true},
		"is cut off":                  {map[string]string{"7": "7 (app) "}, false},
		"is gone":                     {nil, false},
	} {
		dir := t.TempDir()
		for thread, stat := range c.threads {
			path := filepath.Join(dir, "proc/7/task", thread, "stat")
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(stat), 0o444); err != nil {
				t.Fatal(err)
			}
		}
		if got := busy(root.Dir(dir), 7); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	if !busy("/", uint32(os.Getpid())) {
		t.Error("this test does not run")
	}
}
