// Package root reads files of a machine that may lie below another directory
// than "/": the tree of a test, or of an image that is being built.
package root

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/bootseal/bootseal/internal/failure"
	securejoin "github.com/cyphar/filepath-securejoin"
)

// ErrTooLarge says that a file is longer than the caller is willing to read.
var ErrTooLarge = failure.Damaged.New("file too large", "no credential is that large; is it the right file?")

// ErrTooMany says that a folder has more entries than the caller is willing to list.
var ErrTooMany = errors.New("too many entries")

// ErrNotRegular says that a path is not a regular file: reading a FIFO or a
// device could block the boot.
var ErrNotRegular = errors.New("not a regular file")

// IsMissing tells whether a file or folder could not be opened because there is none:
// nothing, something else, or a link that leads to neither.
func IsMissing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP)
}

// Dir is the directory that stands for "/". The zero value is "/" itself.
type Dir string

// Path is where name lies for the kernel. Symbolic links are followed inside
// the directory, never out of it.
func (d Dir) Path(name string) (string, error) {
	if d == "" || d == "/" {
		return name, nil
	}
	return securejoin.SecureJoin(string(d), name)
}

// ReadFile returns the content of the regular file name, of at most limit
// bytes. The errors are those of open(2), ErrNotRegular and ErrTooLarge.
func (d Dir) ReadFile(name string, limit int64) ([]byte, error) {
	path, err := d.Path(name)
	if err != nil {
		return nil, err
	}
	// To open a device may do something already: a watchdog begins to count.
	if st, err := os.Stat(path); err == nil && !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: %w", name, ErrNotRegular)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat() // it may have been exchanged
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: %w", name, ErrNotRegular)
	}
	if st.Size() > limit {
		return nil, fmt.Errorf("%s: %w: %d bytes, at most %d are read", name, ErrTooLarge, st.Size(), limit)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s: %w: at most %d bytes are read", name, ErrTooLarge, limit)
	}
	return data, nil
}

// ReadDir lists the folder name, sorted by file name.
func (d Dir) ReadDir(name string) ([]fs.DirEntry, error) {
	path, err := d.Path(name)
	if err != nil {
		return nil, err
	}
	return os.ReadDir(path)
}

// ListFolder returns the names in a folder, in no order. It reads no more of it than
// takes to see that there are more than limit, which fails with ErrTooMany.
func (d Dir) ListFolder(name string, limit int) ([]string, error) {
	path, err := d.Path(name)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(limit + 1)
	if err != nil && err != io.EOF {
		return nil, err
	}
	if len(names) > limit {
		return nil, fmt.Errorf("%s: %w: at most %d are listed", name, ErrTooMany, limit)
	}
	return names, nil
}

// Readlink returns what the symbolic link dir/base says, as it stands there.
func (d Dir) Readlink(dir, base string) (string, error) {
	path, err := d.Path(dir)
	if err != nil {
		return "", err
	}
	return os.Readlink(path + "/" + base)
}

// IsNull tells whether name is an empty file or leads to a device: how systemd
// marks a unit file or drop-in as masked.
func (d Dir) IsNull(name string) bool {
	path, st := d.stat(name)
	return d.isDevNull(path) || st != nil && (st.Mode()&fs.ModeDevice != 0 || isEmpty(st))
}

// IsDevNull tells whether name leads to /dev/null. The tree of an image has no
// devices, so there the name is enough.
func (d Dir) IsDevNull(name string) bool {
	path, st := d.stat(name)
	if d.isDevNull(path) {
		return true
	}
	if st == nil || st.Mode()&fs.ModeCharDevice == 0 {
		return false
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	return ok && sys.Rdev == unix.Mkdev(1, 3)
}

// IsFile tells whether name is a regular file.
func (d Dir) IsFile(name string) bool {
	_, st := d.stat(name)
	return st != nil && st.Mode().IsRegular()
}

// IsEmpty tells whether name is a file of zero bytes.
func (d Dir) IsEmpty(name string) bool {
	_, st := d.stat(name)
	return st != nil && isEmpty(st)
}

func (d Dir) isDevNull(path string) bool { return path == filepath.Join(string(d), "/dev/null") }

func isEmpty(st fs.FileInfo) bool { return st.Mode().IsRegular() && st.Size() == 0 }

// stat returns where name leads, "" if nowhere, and what is there, nil if nothing.
func (d Dir) stat(name string) (string, fs.FileInfo) {
	path, err := d.Path(name)
	if err != nil {
		return "", nil
	}
	st, err := os.Stat(path)
	if err != nil {
		return path, nil
	}
	return path, st
}
