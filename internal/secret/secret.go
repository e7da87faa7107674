// Package secret keeps plaintext and key material out of swap, core dumps and
// other processes' reach.
package secret

import (
	"fmt"
	"io"

	"github.com/bootseal/bootseal/internal/failure"
	"golang.org/x/sys/unix"
)

// ErrTooLarge says that there was more input than the caller accepts.
var ErrTooLarge = failure.Other.New("too large", "systemd allows at most 1 MiB")

// Protect makes the calling process undumpable (prctl(2) PR_SET_DUMPABLE, so
// that no other process of the same user may trace it either), forbids core
// files, and locks its memory, present and future, page by page as it is
// touched. Call it before the first secret is read.
//
// Memory is locked only where the process may lock as much as it likes: under a
// small RLIMIT_MEMLOCK the Go runtime would be killed by the first allocation
// beyond it. If it is not locked, warning says so in a sentence for the user.
func Protect() (warning string, err error) {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return "", fmt.Errorf("making the process undumpable: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return "", fmt.Errorf("forbidding core files: %w", err)
	}
	unlimited, err := mayLockAll()
	if err != nil {
		return "", fmt.Errorf("reading the limits on locked memory: %w", err)
	}
	if !unlimited {
		return "memory is not locked, secrets may be written to swap: that needs CAP_IPC_LOCK or an unlimited RLIMIT_MEMLOCK", nil
	}
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		return fmt.Sprintf("memory is not locked, secrets may be written to swap: %v", err), nil
	}
	return "", nil
}

func mayLockAll() (bool, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
		return false, err
	}
	if limit.Cur == unix.RLIM_INFINITY {
		return true, nil
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false, err
	}
	return data[0].Effective&(1<<unix.CAP_IPC_LOCK) != 0, nil
}

// Read reads r to its end into one buffer, so that no copies of a secret stay
// behind in memory. The caller clears what it gets. Input of more than limit
// bytes gives ErrTooLarge. On an error nothing of the input is kept.
func Read(r io.Reader, limit int) ([]byte, error) {
	buf := make([]byte, limit+1)
	n := 0
	for n < len(buf) {
		m, err := r.Read(buf[n:])
		n += m
		if err == io.EOF {
			return buf[:n], nil
		}
		if err != nil {
			clear(buf)
			return nil, err
		}
	}
	clear(buf)
	return nil, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, limit)
}
