package machine

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
	"github.com/bootseal/bootseal/internal/secret"
)

var (
	// ErrNoHostKey says that the host key does not exist.
	ErrNoHostKey = errors.New("no host key")
	// ErrHostKeyForeign says that the host key belongs to another machine ID.
	ErrHostKeyForeign = errors.New("host key of another machine")
	// ErrHostKeyUnsafe says that the host key's file is not one that may be
	// trusted: its type, owner, mode, link count or size is wrong.
	ErrHostKeyUnsafe = errors.New("unsafe host key file")
)

const (
	hostKeyIDSize = 16
	// HostKeySize is the size in bytes of the keys that CreateHostKey makes,
	// and of the largest that systemd reads; the smallest is one byte.
	HostKeySize = 4096
)

// HostKeyPath is where the host key lies: $SYSTEMD_CREDENTIAL_SECRET, an
// absolute path without "." and "..", or /var/lib/systemd/credential.secret.
func HostKeyPath() (string, error) {
	name := os.Getenv("SYSTEMD_CREDENTIAL_SECRET")
	if name == "" {
		return "/var/lib/systemd/credential.secret", nil
	}
	if !filepath.IsAbs(name) || filepath.Clean(name) != name {
		return "", fmt.Errorf("$SYSTEMD_CREDENTIAL_SECRET is %q: expected an absolute path without \".\" and \"..\"", name)
	}
	return name, nil
}

// ReadHostKey reads the host key path, that of systemd-creds(1), for the machine
// id: the file without its first 16 bytes. The caller clears it.
//
// The file must be a regular file, not a symbolic link, of mode 0400 with one
// link and owned by root or the caller. The errors are ErrNoHostKey,
// ErrHostKeyForeign and ErrHostKeyUnsafe. Unlike systemd it never deletes a key
// of another machine ID: the ID may come back.
func ReadHostKey(path string, id [16]byte) ([]byte, error) {
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
		return nil, ErrNoHostKey
	case errors.Is(err, unix.ELOOP):
		return nil, fmt.Errorf("%w: it is a symbolic link", ErrHostKeyUnsafe)
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
		return nil, fmt.Errorf("%w: it is not a regular file", ErrHostKeyUnsafe)
	case st.Mode&0o7777 != 0o400:
		return nil, fmt.Errorf("%w: its mode is %04o, expected 0400", ErrHostKeyUnsafe, st.Mode&0o7777)
	case st.Nlink != 1:
		return nil, fmt.Errorf("%w: it has %d links, expected 1", ErrHostKeyUnsafe, st.Nlink)
	case st.Uid != 0 && st.Uid != uint32(os.Geteuid()):
		return nil, fmt.Errorf("%w: it belongs to user %d, expected root", ErrHostKeyUnsafe, st.Uid)
	case st.Size <= hostKeyIDSize || st.Size > hostKeyIDSize+HostKeySize:
		return nil, fmt.Errorf("%w: it has %d bytes, expected %d to %d", ErrHostKeyUnsafe, st.Size, hostKeyIDSize+1, hostKeyIDSize+HostKeySize)
	}
	data, err := secret.Read(f, hostKeyIDSize+HostKeySize)
	if err != nil {
		return nil, err
	}
	if int64(len(data)) != st.Size {
		clear(data)
		return nil, fmt.Errorf("%w: it changed while it was read", ErrHostKeyUnsafe)
	}
	want := hostKeyID(id)
	if subtle.ConstantTimeCompare(data[:hostKeyIDSize], want[:]) == 0 {
		clear(data)
		return nil, ErrHostKeyForeign
	}
	return data[hostKeyIDSize:], nil
}

// CreateHostKey returns the host key as ReadHostKey does, and makes one first if
// there is none: HostKeySize random bytes, in a file that is there whole or not
// at all. A missing folder is made with mode 0755.
func CreateHostKey(path string, id [16]byte) ([]byte, error) {
	key, err := ReadHostKey(path, id)
	if !errors.Is(err, ErrNoHostKey) {
		return key, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("creating the host key: %w", err)
	}
	data := make([]byte, hostKeyIDSize+HostKeySize)
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
	return ReadHostKey(path, id)
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
