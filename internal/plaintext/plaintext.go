// Package plaintext keeps the plaintext of units on a ramfs that only root can enter,
// from the hook that opens a credential to the one that takes it away. It refuses a
// place that is not root's.
package plaintext

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/bootseal/bootseal/internal/atomicfile"
	"github.com/bootseal/bootseal/internal/contract"
	"github.com/bootseal/bootseal/internal/report"
)

// store is where the plaintext of units lies, each below a folder named after
// the unit, on a ramfs of its own. Only root can enter it; the unit reaches its
// folder by a bind mount in its mount namespace.
const store = contract.Store

const ramfsFlags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// File is a file of plaintext; Data is the caller's to wipe.
type File struct {
	Name string
	Data []byte
}

// Place puts files on a fresh ramfs in the unit's folder, owned by uid and read
// only. On failure nothing is left there.
func Place(unit string, uid int, files []File) error {
	dir, err := openStore()
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := clearAway(unit); err != nil {
		return err
	}
	folder := filepath.Join(store, unit)
	if err := atomicfile.MakeFolder(folder, 0o700); err != nil {
		return err
	}
	flags, err := mountRamfs(folder)
	if err == nil {
		err = fill(folder, uid, files)
	}
	if err == nil {
		err = unix.Mount("", folder, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|flags, "")
	}
	if err != nil {
		return errors.Join(fmt.Errorf("placing the credentials in %s: %w", folder, err), clearAway(unit))
	}
	return nil
}

// openStore makes the store, and holds it until the folder is closed: a hook that
// meets another would undo half of its work. systemd may have made the store
// first, as a mount point with mode 0755.
func openStore() (dir *os.File, err error) {
	if err := os.Mkdir(store, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	dir, err = os.OpenFile(store, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			dir.Close()
		}
	}()
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return nil, fmt.Errorf("%s: %w", store, err)
	}
	if st.Uid != 0 {
		return nil, fmt.Errorf("%s belongs to user %d; expected root", store, st.Uid)
	}
	if err := dir.Chmod(0o700); err != nil {
		return nil, err
	}
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return nil, fmt.Errorf("locking %s: %w", store, err)
	}
	return dir, nil
}

// mountRamfs returns the flags that the kernel took.
func mountRamfs(folder string) (flags uintptr, err error) {
	flags = ramfsFlags | unix.MS_NOSYMFOLLOW
	err = unix.Mount("ramfs", folder, "ramfs", flags, "mode=0700")
	if errors.Is(err, unix.EINVAL) {
		flags = ramfsFlags
		if err = unix.Mount("ramfs", folder, "ramfs", flags, "mode=0700"); err == nil {
			report.Warn("%s is mounted without nosymfollow, which takes Linux 5.10", folder)
		}
	}
	return flags, err
}

// fill writes the files with the modes that credentials have on systemd 247, whatever
// the UMask= of the unit that the hook is of.
func fill(folder string, uid int, files []File) error {
	dir, err := os.OpenRoot(folder)
	if err != nil {
		return err
	}
	defer dir.Close()
	for _, file := range files {
		f, err := dir.OpenFile(file.Name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400)
		if err != nil {
			return err
		}
		defer f.Close()
		n, err := f.Write(file.Data)
		if err == nil && n < len(file.Data) {
			err = io.ErrShortWrite
		}
		if err == nil {
			err = f.Chmod(0o400)
		}
		if err == nil {
			err = f.Chown(uid, 0)
		}
		if err != nil {
			return err
		}
	}
	self, err := dir.Open(".")
	if err != nil {
		return err
	}
	defer self.Close()
	if err := self.Chmod(0o500); err != nil {
		return err
	}
	return self.Chown(uid, 0)
}

// Remove takes away the unit's folder with everything mounted on it. It is no
// error if there is none.
func Remove(unit string) error {
	dir, err := openStore()
	if err != nil {
		return err
	}
	defer dir.Close()
	return clearAway(unit)
}

// clearAway is Remove for those who hold the store.
func clearAway(unit string) error {
	folder := filepath.Join(store, unit)
	for {
		err := unix.Unmount(folder, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break
		}
		if err != nil {
			return fmt.Errorf("unmounting %s: %w", folder, err)
		}
	}
	if err := os.Remove(folder); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the mount point: %w", err)
	}
	return nil
}
