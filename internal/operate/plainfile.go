package operate

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bootseal/bootseal/internal/atomicfile"
	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/internal/report"
	"github.com/bootseal/bootseal/internal/root"
	"github.com/bootseal/bootseal/internal/secret"
	"github.com/bootseal/bootseal/internal/stdio"
)

var (
	// errLink says that a path leads through a link.
	errLink = errors.New("a symbolic link, or no folder; links are not followed, let the unit name the file itself")
	// errChanged says that a file is not what it was when its secret was sealed.
	errChanged = errors.New("changed or exchanged in the meantime, and not removed")
	// errOtherSecret says that what is to be written would take a secret's place.
	errOtherSecret = errors.New("there is another secret in it; move it away")
)

// plainFile is a file with a secret. A service's user often owns it and the folders
// above it, and could put links there: it is opened without following any, and all
// that is done to it is done by descriptor.
type plainFile struct {
	path     string
	uid, gid int
	mode     fs.FileMode
	content  []byte // if it has been read; locked memory
	dir      *os.File
	file     *os.File
	removed  bool
}

// openFolder opens a folder without following a link on the way.
func openFolder(path string) (*os.File, error) {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW
	dir, err := openAt(unix.AT_FDCWD, "/", flags)
	way := "/"
	for _, name := range strings.Split(path, "/") {
		if name == "" {
			continue
		}
		if err != nil {
			break
		}
		way = filepath.Join(way, name)
		above := dir
		dir, err = openAt(int(above.Fd()), name, flags)
		above.Close()
		if err == unix.ENOTDIR || err == unix.ELOOP {
			err = errLink
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", way, err)
	}
	return dir, nil
}

func openAt(dir int, name string, flags int) (*os.File, error) {
	for {
		fd, err := unix.Openat(dir, name, flags|unix.O_CLOEXEC, 0)
		if err == nil {
			return os.NewFile(uintptr(fd), name), nil
		}
		if err != unix.EINTR {
			return nil, err
		}
	}
}

// openPlain opens a regular file that has no other name, such that it can be
// removed.
func openPlain(path string) (*plainFile, error) {
	f := &plainFile{path: path}
	var err error
	if f.dir, err = openFolder(filepath.Dir(path)); err != nil {
		return nil, err
	}
	f.file, err = openAt(int(f.dir.Fd()), filepath.Base(path), unix.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err == unix.ELOOP {
		err = errLink
	}
	var st unix.Stat_t
	if err == nil {
		err = unix.Fstat(int(f.file.Fd()), &st)
	}
	switch {
	case err != nil:
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		err = root.ErrNotRegular
	case st.Nlink != 1:
		err = errors.New("it has other names, under which the secret would stay; remove those hard links")
	case st.Size == 0:
		err = errors.New("it is empty")
	}
	if err != nil {
		f.close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	f.uid, f.gid, f.mode = int(st.Uid), int(st.Gid), fs.FileMode(st.Mode&0o777)
	return f, nil
}

// read returns what is in the file. The caller clears it.
func (f *plainFile) read() ([]byte, error) {
	data, err := secret.Read(io.NewSectionReader(f.file, 0, credential.MaxPayload+1), credential.MaxPayload)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", f.path, stdio.Cause(err))
	}
	return data, nil
}

// unchanged tells whether the file of that name is still this one, with its content.
func (f *plainFile) unchanged() (bool, error) {
	var here, there unix.Stat_t
	if err := errors.Join(unix.Fstat(int(f.file.Fd()), &here), unix.Fstatat(int(f.dir.Fd()), filepath.Base(f.path), &there, unix.AT_SYMLINK_NOFOLLOW)); err != nil {
		return false, err
	}
	now, err := f.read()
	if err != nil {
		return false, err
	}
	defer clear(now)
	return here.Dev == there.Dev && here.Ino == there.Ino && here.Nlink == 1 && bytes.Equal(now, f.content), nil
}

// remove takes the name away first: a failure then leaves the file whole. After
// that nobody finds it any more, and what it held is overwritten.
func (f *plainFile) remove() error {
	switch same, err := f.unchanged(); {
	case err != nil:
		return fmt.Errorf("removing %s: %w", f.path, stdio.Cause(err))
	case !same:
		return fmt.Errorf("%s: %w", f.path, errChanged)
	}
	if err := unix.Unlinkat(int(f.dir.Fd()), filepath.Base(f.path), 0); err != nil {
		return fmt.Errorf("removing %s: %w", f.path, err)
	}
	f.removed = true
	_, err := f.file.WriteAt(make([]byte, len(f.content)), 0)
	if err = errors.Join(err, f.file.Sync(), f.dir.Sync()); err != nil {
		report.Warn("%s is removed, but its content could not be overwritten: %v", f.path, stdio.Cause(err))
	}
	return nil
}

// restore writes the file as it was. It tells whether it had to; where the file is
// there with the same content it is left alone.
func (f *plainFile) restore() (made bool, err error) {
	dir, err := openFolder(filepath.Dir(f.path))
	if err != nil {
		return false, err
	}
	defer dir.Close()
	err = atomicfile.CreateIn(dir, filepath.Base(f.path), f.content, f.mode, f.uid, f.gid)
	if err == nil {
		return true, nil
	}
	if !errors.Is(err, fs.ErrExist) {
		return false, fmt.Errorf("writing %s: %w", f.path, err)
	}
	found, err := openPlain(f.path)
	if err != nil {
		return false, err
	}
	defer found.close()
	found.content = f.content
	switch same, err := found.unchanged(); {
	case err != nil:
		return false, fmt.Errorf("%s: %w", f.path, stdio.Cause(err))
	case !same:
		return false, fmt.Errorf("%s: %w", f.path, errOtherSecret)
	}
	return false, nil
}

func (f *plainFile) close() {
	for _, open := range []*os.File{f.dir, f.file} {
		if open != nil {
			open.Close()
		}
	}
}
