// Package atomicfile writes files that are there whole or not at all, also
// after a crash, and makes the folders for them. Modes are what is asked for, whatever
// the umask.
package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Write puts data into the file path with exactly the permissions mode,
// whatever the umask. What was there before is replaced in one step; a symbolic
// link is replaced, not followed. On any error the old file is untouched and
// nothing is left beside it.
func Write(path string, data []byte, mode fs.FileMode) error {
	return inFolder(path, func(dir *os.File, base string) error { return WriteIn(dir, base, data, mode) })
}

// WriteIn is Write for a file in a folder that is open.
func WriteIn(dir *os.File, base string, data []byte, mode fs.FileMode) error {
	return write(dir, base, data, mode, none, func(dir int, tmp, base string) error {
		return unix.Renameat(dir, tmp, dir, base)
	})
}

// MakeFolder makes a folder, and those that are missing above it, with exactly the
// permissions mode, whatever the umask. One that is there is left alone.
func MakeFolder(path string, mode fs.FileMode) error {
	if err := makeFolder(filepath.Clean(path), mode); err != nil {
		return fmt.Errorf("making the folder %s: %w", path, err)
	}
	return nil
}

func makeFolder(path string, mode fs.FileMode) error {
	dir, err := openFolder(path)
	if err == nil {
		return dir.Close()
	}
	if !errors.Is(err, fs.ErrNotExist) || path == filepath.Dir(path) {
		return err
	}
	if err := makeFolder(filepath.Dir(path), mode); err != nil {
		return err
	}
	above, err := openFolder(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer above.Close()
	fd, base := int(above.Fd()), filepath.Base(path)
	err = unix.Mkdirat(fd, base, uint32(mode.Perm()))
	if err == unix.EEXIST {
		return nil // somebody was faster
	}
	if err != nil {
		return err
	}
	made, err := openat(fd, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err == nil {
		err = unix.Fchmod(made, uint32(mode.Perm()))
		unix.Close(made)
	}
	if err != nil {
		unix.Unlinkat(fd, base, unix.AT_REMOVEDIR)
	}
	return err
}

// An Attribute is one inode flag of chattr(1); the values are those of
// FS_IOC_SETFLAGS (linux/fs.h).
type Attribute uint32

const (
	SecureDelete Attribute = 0x00000001 // s
	Synchronous  Attribute = 0x00000008 // S
	NoDump       Attribute = 0x00000040 // d
	NoCopyWrite  Attribute = 0x00800000 // C
)

// Create is Write for a file that must not exist yet: if it does, the error is
// fs.ErrExist and it is left alone. Attributes that the file system does not
// have are left out.
func Create(path string, data []byte, mode fs.FileMode, attributes ...Attribute) error {
	return inFolder(path, func(dir *os.File, base string) error {
		return write(dir, base, data, mode, func(f *os.File) error {
			for _, flag := range attributes {
				setAttribute(f, flag)
			}
			return nil
		}, place)
	})
}

// CreateIn is Create for a file in a folder that is open, which belongs to that
// user and group. Nothing is done by the folder's path, so that it may be one
// that the user can exchange.
func CreateIn(dir *os.File, base string, data []byte, mode fs.FileMode, uid, gid int) error {
	return write(dir, base, data, mode, func(f *os.File) error { return f.Chown(uid, gid) }, place)
}

// place gives the file its name, if there is none of that name.
func place(dir int, tmp, base string) error {
	err := unix.Renameat2(dir, tmp, dir, base, unix.RENAME_NOREPLACE)
	if err == unix.EINVAL || err == unix.ENOSYS {
		// A file system without RENAME_NOREPLACE, such as NFS.
		if err = unix.Linkat(dir, tmp, dir, base, 0); err == nil {
			err = unix.Unlinkat(dir, tmp, 0)
		}
	}
	return err
}

func none(*os.File) error { return nil }

// inFolder opens the folder of a path.
func inFolder(path string, write func(dir *os.File, base string) error) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("writing %s: %w", path, err)
		}
	}()
	base := filepath.Base(path)
	if path == "" || os.IsPathSeparator(path[len(path)-1]) || base == "." || base == ".." {
		return errors.New("not the path of a file")
	}
	dir, err := openFolder(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return write(dir, base)
}

// ErrLink says that the way to a file leads through a link that is not followed.
var ErrLink = errors.New("a symbolic link on the way belongs to neither root nor the caller, who could make it lead anywhere")

// openFolder opens a folder. Links on the way are followed if they are root's or
// the caller's: of another user, who may own a folder above, they are a trap.
func openFolder(path string) (*os.File, error) {
	const maxLinks = 40 // path_resolution(7)
	start := func(path string) string {
		if filepath.IsAbs(path) {
			return "/"
		}
		return "."
	}
	rest, links := strings.Split(path, "/"), 0
	dir, err := openat(unix.AT_FDCWD, start(path), unix.O_PATH)
	for err == nil && len(rest) > 0 {
		var next int
		var target string
		if rest[0] == "" {
			rest[0] = "."
		}
		if next, err = openat(dir, rest[0], unix.O_PATH|unix.O_NOFOLLOW); err != nil {
			break
		}
		rest = rest[1:]
		switch target, err = linkTarget(next); {
		case err != nil || target == "":
		case links == maxLinks:
			err = unix.ELOOP
		default:
			links++
			rest = append(strings.Split(target, "/"), rest...)
			unix.Close(next)
			next, err = openat(dir, start(target), unix.O_PATH)
		}
		unix.Close(dir)
		dir = next
	}
	if dir >= 0 {
		defer unix.Close(dir)
	}
	if err != nil {
		return nil, err
	}
	fd, err := openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// linkTarget returns what a link says that may be followed, and nothing for what
// is no link.
func linkTarget(fd int) (string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return "", err
	}
	if st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return "", ErrLink
	}
	target := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", target)
	return string(target[:max(n, 0)]), err
}

func write(dir *os.File, base string, data []byte, mode fs.FileMode, prepare func(*os.File) error, place func(dir int, tmp, base string) error) (err error) {
	fd := int(dir.Fd())
	tmp := ".#bootseal-" + randomName()
	out, err := openTemporary(fd, tmp)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			unix.Unlinkat(fd, tmp, 0)
		}
	}()
	defer out.Close()
	if err := prepare(out); err != nil {
		return cause(err)
	}
	if _, err := out.Write(data); err != nil {
		return cause(err)
	}
	if err := out.Chmod(mode); err != nil {
		return cause(err)
	}
	if err := out.Sync(); err != nil {
		return cause(err)
	}
	if err := place(fd, tmp, base); err != nil {
		return err
	}
	// The file is in place: what follows can fail without anything to undo.
	if err := unix.Fsync(fd); err != nil && err != unix.EINVAL {
		return fmt.Errorf("making its directory entry durable: %w", err)
	}
	return nil
}

func openTemporary(dir int, name string) (*os.File, error) {
	const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW
	fd, err := openat(dir, name, flags)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

func openat(dir int, name string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, flags|unix.O_CLOEXEC, 0o600)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

func setAttribute(f *os.File, flag Attribute) {
	flags, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil {
		return
	}
	unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(flags|uint32(flag)))
}

// cause strips the temporary file's name, which means nothing to the user.
func cause(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// randomName is of 16 characters. It has to be free, which O_EXCL makes sure of, not
// secret: who guesses it and makes such a file first only keeps ours from being made.
func randomName() string { return fmt.Sprintf("%016x", rand.Uint64()) }
