// Package hostkey reads and makes the host key of systemd-creds(1), the file
// credential.secret. It refuses one that others than root could have made or read,
// and never replaces one.
package hostkey

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/bootseal/bootseal/internal/atomicfile"
	"github.com/bootseal/bootseal/internal/failure"
	"github.com/bootseal/bootseal/internal/machine"
	"github.com/bootseal/bootseal/internal/secret"
)

var (
	// ErrMissing says that the host key does not exist.
	ErrMissing = failure.HostKey.New("no host key", machine.HostKeyHint)
	// ErrForeign says that the host key belongs to another machine ID.
	ErrForeign = failure.HostKey.New("host key of another machine", machine.HostKeyHint)
	// ErrUnsafe says that the host key's file is not one that may be
	// trusted: its type, owner, mode, link count or size is wrong.
	ErrUnsafe = failure.HostKey.New("unsafe host key file", "the file must belong to root with mode 0400 and have no other links")
)

const (
	hostKeyIDSize = 16
	// Size is the size in bytes of the keys that Create makes,
	// and of the largest that systemd reads; the smallest is one byte.
	Size = 4096
)

// Path is where the host key lies: $SYSTEMD_CREDENTIAL_SECRET, an
// absolute path without "." and "..", or /var/lib/systemd/credential.secret.
func Path() (string, error) {
	name := os.Getenv("SYSTEMD_CREDENTIAL_SECRET")
	if name == "" {
		return "/var/lib/systemd/credential.secret", nil
	}
	if !filepath.IsAbs(name) || filepath.Clean(name) != name {
		return "", fmt.Errorf("$SYSTEMD_CREDENTIAL_SECRET is %q: expected an absolute path without \".\" and \"..\"", name)
	}
	return name, nil
}

// Read reads the host key path, that of systemd-creds(1), for the machine
// id: the file without its first 16 bytes. The caller clears it.
//
// The file must be a regular file, not a symbolic link, of mode 0400 with one
// link and owned by root or the caller. The errors are ErrMissing,
// ErrForeign and ErrUnsafe. Unlike systemd it never deletes a key
// of another machine ID: the ID may come back.
func Read(path string, id [16]byte) ([]byte, error) {
	key, err := readHostKey(path, id)
	if err != nil {
		return nil, fmt.Errorf("reading the host key %s: %w", path, err)
	}
	return key, nil
}

func readHostKey(path string, id [16]byte) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, ErrMissing
	case errors.Is(err, unix.ELOOP):
		return nil, fmt.Errorf("%w: it is a symbolic link", ErrUnsafe)
	case err != nil:
		return nil, errors.Unwrap(err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, err
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, fmt.Errorf("%w: it is not a regular file", ErrUnsafe)
	case st.Mode&0o7777 != 0o400:
		return nil, fmt.Errorf("%w: its mode is %04o, expected 0400", ErrUnsafe, st.Mode&0o7777)
	case st.Nlink != 1:
		return nil, fmt.Errorf("%w: it has %d links, expected 1", ErrUnsafe, st.Nlink)
	case st.Uid != 0 && st.Uid != uint32(os.Geteuid()):
		return nil, fmt.Errorf("%w: it belongs to user %d, expected root", ErrUnsafe, st.Uid)
	case st.Size <= hostKeyIDSize || st.Size > hostKeyIDSize+Size:
		return nil, fmt.Errorf("%w: it has %d bytes, expected %d to %d", ErrUnsafe, st.Size, hostKeyIDSize+1, hostKeyIDSize+Size)
	}
	data, err := secret.Read(f, hostKeyIDSize+Size)
	if err != nil {
		return nil, err
	}
	if int64(len(data)) != st.Size {
		clear(data)
		return nil, fmt.Errorf("%w: it changed while it was read", ErrUnsafe)
	}
	want := hostKeyID(id)
	if subtle.ConstantTimeCompare(data[:hostKeyIDSize], want[:]) == 0 {
		clear(data)
		return nil, ErrForeign
	}
	return data[hostKeyIDSize:], nil
}

// Create returns the host key as Read does, and makes one first if
// there is none: Size random bytes, in a file that is there whole or not
// at all. A missing folder is made with mode 0755.
func Create(path string, id [16]byte) ([]byte, error) {
	key, err := Read(path, id)
	if !errors.Is(err, ErrMissing) {
		return key, err
	}
	if err := atomicfile.MakeFolder(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("creating the host key: %w", err)
	}
	data := make([]byte, hostKeyIDSize+Size)
	defer clear(data)
	own := hostKeyID(id)
	copy(data, own[:])
	if _, err := rand.Read(data[hostKeyIDSize:]); err != nil {
		return nil, fmt.Errorf("creating the host key: %w", err)
	}
	err = atomicfile.Create(path, data, 0o400,
		atomicfile.SecureDelete, atomicfile.NoDump, atomicfile.Synchronous, atomicfile.NoCopyWrite)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("creating the host key: %w", err)
	}
	// Either ours, or that of somebody who was faster.
	return Read(path, id)
}

// hostKeyID derives what a host key starts with from the machine ID, so that the
// ID itself is not in the file (sd_id128_get_machine_app_specific(3)).
func hostKeyID(id [16]byte) (derived [hostKeyIDSize]byte) {
	application := []byte{0xd3, 0xac, 0xec, 0xba, 0x0d, 0xad, 0x4c, 0xdf, 0xb8, 0xc9, 0x38, 0x15, 0x28, 0x93, 0x6c, 0x58}
	mac := hmac.New(sha256.New, id[:])
	mac.Write(application)
	copy(derived[:], mac.Sum(nil))
	// Version 4, variant 1 of RFC 4122.
	derived[6] = derived[6]&0x0F | 0x40
	derived[8] = derived[8]&0x3F | 0x80
	return derived
}
