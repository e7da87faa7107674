package server

import (
	"errors"
	"fmt"
	"net"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/internal/root"
	"github.com/bootseal/bootseal/policy"
)

// parsePeer splits the address "@RANDOM/unit/UNIT/NAME", systemd.exec(5).
func parsePeer(address string) (unit, name string, err error) {
	part := strings.Split(address, "/")
	if !strings.HasPrefix(address, "@") || len(part) != 4 || part[1] != "unit" {
		return "", "", fmt.Errorf("the peer's address is %q; expected @…/unit/UNIT/NAME, which PID 1 has", address)
	}
	if err := policy.CheckUnit(part[2]); err != nil {
		return "", "", fmt.Errorf("the peer's address: %w", err)
	}
	if !credential.ValidName(part[3]) {
		return "", "", fmt.Errorf("the peer's address names %q, which is no credential name", part[3])
	}
	return part[2], part[3], nil
}

// checkPeer makes sure that root, and a process of the unit, has connected.
func checkPeer(conn *net.UnixConn, unit string) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	pidfd := -1
	controlErr := raw.Control(func(fd uintptr) {
		if cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pidfd, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEERPIDFD)
		}
	})
	switch {
	case controlErr != nil:
		return controlErr
	case errors.Is(err, unix.ENOPROTOOPT): // before Linux 6.5
		pidfd = -1
	case err != nil:
		return fmt.Errorf("finding the peer: %w", err)
	}
	if pidfd >= 0 {
		defer unix.Close(pidfd)
	}
	if cred.Uid != 0 {
		return fmt.Errorf("the peer runs as user %d; expected root", cred.Uid)
	}
	if err := inUnit(root.Dir("/"), int(cred.Pid), unit); err != nil {
		return err
	}
	// If it lives, what has been looked at is it and not one that came after it
	// with the same number.
	gone, err := ended(pidfd)
	if err == nil && gone {
		err = fmt.Errorf("the peer, process %d, has ended", cred.Pid)
	}
	return err
}

// ended tells whether a process has ended, of which pidfd is a descriptor.
func ended(pidfd int) (bool, error) {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 0)
		// The Go runtime sends itself signals, which interrupt even a poll that
		// does not wait, and SA_RESTART does not help: signal(7).
		if err != unix.EINTR {
			return n != 0, err
		}
	}
}

// inUnit makes sure that a process belongs to the control group that systemd has
// made for the unit. Those below it are the unit's own, and may have any name.
func inUnit(dir root.Dir, pid int, unit string) error {
	peer, err := controlGroups(dir, pid)
	if err != nil {
		return fmt.Errorf("finding the peer's control group: %w", err)
	}
	manager, err := controlGroups(dir, 1)
	if err != nil {
		return fmt.Errorf("finding PID 1's control group: %w", err)
	}
	for hierarchy, group := range peer {
		top := strings.TrimSuffix(strings.TrimSuffix(manager[hierarchy], "/init.scope"), "/")
		below, ok := strings.CutPrefix(group, top+"/")
		if !ok {
			continue
		}
		for _, name := range strings.Split(below, "/") {
			if strings.HasSuffix(name, ".slice") {
				continue
			}
			// systemd puts "_" before names that the kernel has uses for.
			if strings.TrimPrefix(name, "_") == unit {
				return nil
			}
			break
		}
	}
	return fmt.Errorf("the peer, process %d, is not in the control group of %s; expected PID 1 to ask on its behalf", pid, unit)
}

// controlGroups returns a process's groups in the hierarchies that systemd uses
// for its units: the unified one, or the one that has its name.
func controlGroups(dir root.Dir, pid int) (map[string]string, error) {
	const most = 64 << 10
	text, err := dir.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid), most)
	if err != nil {
		return nil, err
	}
	groups := map[string]string{}
	for _, line := range strings.Split(strings.TrimSuffix(string(text), "\n"), "\n") {
		field := strings.SplitN(line, ":", 3) // HIERARCHY:CONTROLLERS:PATH, cgroups(7)
		if len(field) == 3 && (field[0] == "0" && field[1] == "" || field[1] == "name=systemd") {
			groups[field[1]] = field[2]
		}
	}
	return groups, nil
}
