package machine

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// unused is how long what was built is kept after its last use.
const unused = 3 * time.Hour

// built returns a folder that build has filled: once for this source, this Go and
// what else is named, by whichever process of the tests comes first. The others wait
// for it. Nobody may change what is in it.
func built(what string, build func(folder string) error) (string, error) {
	sum, err := sourceSum()
	if err != nil {
		return "", err
	}
	base := filepath.Join(Cache(), "built")
	if err := os.MkdirAll(base, 0o755); err != nil {
		return "", err
	}
	folder := filepath.Join(base, what+"-"+sum)
	lock, err := os.OpenFile(folder+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close() // unlocks
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("waiting for %s: %w", folder, err)
	}
	now := time.Now()
	if err := os.Chtimes(folder, now, now); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return folder, err
	}
	sweepBuilt(base)
	half := folder + ".tmp"
	if err := errors.Join(os.RemoveAll(half), os.Mkdir(half, 0o755)); err != nil {
		return "", err
	}
	if err := build(half); err != nil {
		return "", err
	}
	return folder, errors.Join(os.Rename(half, folder), os.Chtimes(folder, now, now))
}

// sweepBuilt removes what has not been used for long, and what was left half-made.
func sweepBuilt(base string) {
	entries, _ := os.ReadDir(base)
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil && time.Since(info.ModTime()) > unused && !strings.HasSuffix(entry.Name(), ".lock") {
			_ = os.RemoveAll(filepath.Join(base, entry.Name()))
		}
	}
}

// source is the folder of the source.
var source = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("finding the source folder: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
})

// listSource prints the names of the source's files as they lie there, committed or
// not, each with a zero byte at its end.
const listSource = `git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
	[ ! -e "$file" ] && [ ! -L "$file" ] || printf '%s\0' "$file"
done`

// sourceSum is a checksum of the source and of the Go that compiles it.
var sourceSum = sync.OnceValues(func() (string, error) {
	dir, err := source()
	if err != nil {
		return "", err
	}
	cmd := exec.Command("bash", "-c", `set -euo pipefail
go env GOVERSION
`+listSource+` | LC_ALL=C sort -z | tar --null -T - -c --mtime=@0 --owner=0 --group=0 --numeric-owner`)
	cmd.Dir = dir
	hash := sha256.New()
	cmd.Stdout = hash
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("making a checksum of the source: %w", err)
	}
	return fmt.Sprintf("%.8x", hash.Sum(nil)), nil
})

// treeName is the name of the tree in the cache, which tells what is in it.
func treeName(name string) string {
	target, _ := os.Readlink(filepath.Join(Cache(), name))
	return target
}
