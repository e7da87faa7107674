package hook

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"github.com/bootseal/bootseal/internal/contract"
	"github.com/bootseal/bootseal/internal/failure"
	"github.com/bootseal/bootseal/policy"
)

// inHost runs a hook of unit in the mount namespace of PID 1, and says there what goes
// wrong. A command of a unit, with full privileges or not, has a namespace of its
// own, which ends with the command and in which the unit may hide any file. Only
// do itself is in the host's: goroutines that it starts must not open files.
func inHost(unit string, do func() error) error {
	result := make(chan error)
	go func() {
		// Never unlocked: the thread is of no more use to the others.
		runtime.LockOSThread()
		err := enterHost()
		if err == nil {
			err = do()
		}
		result <- said(unit, err)
	}()
	return <-result
}

// enterHost moves the thread to the mounts and the root directory of PID 1,
// which is not that of the namespace where PID 1 has been started in a chroot.
func enterHost() error {
	fail := func(err error) error {
		return fmt.Errorf("entering the host's mount namespace: %w", err)
	}
	ns, err := os.Open("/proc/1/ns/mnt")
	if err != nil {
		return fail(err)
	}
	defer ns.Close()
	top, err := unix.Open("/proc/1/root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail(err)
	}
	defer unix.Close(top)
	if err = unix.Unshare(unix.CLONE_FS); err == nil {
		err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS)
	}
	if err == nil {
		err = unix.Fchdir(top)
	}
	if err == nil {
		err = unix.Chroot(".")
	}
	if err != nil {
		return fail(fmt.Errorf("%w; the hook needs the \"+\" prefix, as in ExecStartPre=+%s", err, os.Args[0]))
	}
	return nil
}

// said puts an error, and what to do about it, into the unit's status line, which
// outlives the journal's lines when the unit is restarted a few times.
func said(unit string, err error) error {
	if err == nil {
		return nil
	}
	if os.Getenv(contract.NotifySocket) == "" && listened(unit) {
		_ = os.Setenv(contract.NotifySocket, contract.NotifyPath)
	}
	// Outside of a unit there is no status line; standard error is left.
	_, _ = daemon.SdNotify(false, "STATUS="+strings.ReplaceAll(failure.WithHint(err), "\n", " "))
	return err
}

// listened tells whether systemd takes what a hook of the unit says, though it does not
// tell the unit's commands where.
func listened(unit string) bool {
	return slices.ContainsFunc([]string{unit, policy.Template(unit)}, func(name string) bool {
		d, err := contract.ReadDropIn("/", name, contract.DropInName)
		return err == nil && d.HidesNotifySocket()
	})
}
