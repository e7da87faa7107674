// Package stdio reads and writes the files that are named at a prompt, "-" for
// standard input and output among them. What it reads may be a secret, and what it
// writes to a file is there whole or not at all. It refuses to write to a disk, a
// socket, or somebody else's pipe or device.
package stdio

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bootseal/bootseal/internal/atomicfile"
	"github.com/bootseal/bootseal/internal/failure"
	"github.com/bootseal/bootseal/internal/secret"
)

// ErrNotFound says that a file named at the prompt does not exist.
var ErrNotFound = failure.Missing.New("no such file", "check the path")

var (
	// errNotWritable says that output is to go to a folder, a disk or a socket.
	errNotWritable = errors.New("it is neither a file, nor a pipe or character device")
	// errOthers says that output is to go to somebody else's pipe or device.
	errOthers = errors.New("the pipe or device belongs neither to root nor to who runs this, but to user")
)

// Read reads a file, or standard input for "-", of at most limit bytes. The
// caller clears it.
func Read(path string, limit int) ([]byte, error) {
	in := os.Stdin
	if path != "-" {
		var err error
		in, err = os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("reading %s: %w", path, ErrNotFound)
		}
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", path, Cause(err))
		}
		defer in.Close()
	}
	data, err := secret.Read(in, limit)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, Cause(err))
	}
	return data, nil
}

// Write writes a file that only its owner can read, whole or not at all,
// or to standard output for "-".
func Write(path string, data []byte) error {
	if path == "-" {
		if _, err := os.Stdout.Write(data); err != nil {
			return fmt.Errorf("writing to standard output: %w", Cause(err))
		}
		return nil
	}
	st, err := os.Stat(path)
	if isDescriptor(path) || err == nil && !st.Mode().IsRegular() {
		return writeThrough(path, data)
	}
	// It takes no time, and broken off it would leave a part behind.
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	return atomicfile.Write(path, data, 0o600)
}

// isDescriptor tells whether a path is one of the links to what this process has
// open, see proc_pid_fd(5).
func isDescriptor(path string) bool {
	dir, err := filepath.Abs(filepath.Dir(path))
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return false
	}
	own := fmt.Sprintf("/proc/%d/", os.Getpid())
	return strings.HasPrefix(dir+"/", own) || dir == "/dev" && slices.Contains([]string{"stdin", "stdout", "stderr"}, filepath.Base(path))
}

// writeThrough writes to a device or a pipe, or to what /dev/stdout is, perhaps a
// file that already holds something.
func writeThrough(path string, data []byte) error {
	if err := throughTo(path, data); err != nil {
		return fmt.Errorf("writing %s: %w", path, Cause(err))
	}
	return nil
}

func throughTo(path string, data []byte) error {
	var st unix.Stat_t
	given := isDescriptor(path)
	if !given { // opening a pipe waits for the other end
		if err := unix.Stat(path, &st); err != nil {
			return err
		}
		if err := safeToWrite(&st); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if !given { // it may have been exchanged
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			return err
		}
		if err := safeToWrite(&st); err != nil {
			return err
		}
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// safeToWrite refuses pipes and devices at whose other end somebody else may be.
func safeToWrite(st *unix.Stat_t) error {
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFIFO && kind != unix.S_IFCHR {
		return errNotWritable
	}
	if st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%w %d", errOthers, st.Uid)
	}
	return nil
}

// Cause leaves out of an error of package os the path, which the caller names.
func Cause(err error) error {
	var at *fs.PathError
	if errors.As(err, &at) {
		return at.Err
	}
	return err
}
