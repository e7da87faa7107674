// Package e2e tests bootseal as a user meets it: real systemd, the real step-ca
// under its upstream unit, and a software TPM.
package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/bootseal/bootseal/test/machine"
	"github.com/bootseal/bootseal/test/story"
)

func TestMain(m *testing.M) {
	status := m.Run()
	for _, b := range bases {
		if b.machine != nil {
			_ = b.machine.Close()
		}
	}
	os.Exit(status)
}

// A base is a machine that tests clone, so that it is made once for all of them.
type base struct {
	sync.Mutex
	machine *machine.Machine
	err     error
}

var (
	basesMutex sync.Mutex
	bases      = map[string]*base{}
)

// makers are the kinds of machines: what each is made from, and how.
var makers = map[string]struct {
	from string
	make func(*machine.Machine) error
}{
	"bootseal": {"", (*machine.Machine).InstallBootseal},
	"step-ca": {"bootseal", func(m *machine.Machine) error {
		return m.InstallStepCA(story.Password + "\n")
	}},
	// Its password has been sealed and the plaintext deleted.
	"sealed": {"step-ca", func(m *machine.Machine) error {
		if err := m.Write(story.Policy, story.PolicyText, 0o644); err != nil {
			return err
		}
		r, err := m.Boot("bootseal encrypt --unit=step-ca.service step-ca </etc/step-ca/password.txt && rm /etc/step-ca/password.txt")
		if err == nil && r.Status != 0 {
			err = fmt.Errorf("sealing: exit status %d: %s", r.Status, r.Stderr)
		}
		return err
	}},
	// Delivery is over the socket: the policy says so, or systemd cannot open it itself.
	"sealed socket": {"sealed", func(m *machine.Machine) error {
		if m.Version < 250 {
			return m.Write(story.Policy, "delivery = \"socket\"\n"+story.PolicyText, 0o644)
		}
		return removeTSS(m)
	}},
	// The packages that policy/examples are for.
	"services": {"bootseal", addServices},
	"podman": {"bootseal", func(m *machine.Machine) error {
		if err := m.Install(fmt.Sprintf("podman-%d", m.Version)); err != nil {
			return fmt.Errorf("%w, and test/setup-packages", err)
		}
		return nil
	}},
}

// removeTSS takes from a machine what its systemd needs to use a TPM.
func removeTSS(m *machine.Machine) error {
	libraries, err := filepath.Glob(m.Path("/usr/lib/*/libtss2-*"))
	if err != nil || len(libraries) == 0 {
		return fmt.Errorf("no libtss2 to remove: %w", err)
	}
	for _, library := range libraries {
		err = errors.Join(err, os.Remove(library))
	}
	return err
}

// fresh returns a machine of that kind for the test alone.
func fresh(t *testing.T, version int, kind string) *machine.Machine {
	t.Helper()
	m, err := clone(version, kind)
	return story.Keep(t, m, err)
}

func clone(version int, kind string) (*machine.Machine, error) {
	maker, ok := makers[kind]
	if !ok {
		return nil, fmt.Errorf("no such kind of machine: %q", kind)
	}
	basesMutex.Lock()
	name := fmt.Sprint(version, " ", kind)
	b := bases[name]
	if b == nil {
		b = new(base)
		bases[name] = b
	}
	basesMutex.Unlock()

	b.Lock()
	defer b.Unlock()
	if b.machine == nil && b.err == nil {
		if maker.from == "" {
			b.machine, b.err = machine.New(version)
		} else {
			b.machine, b.err = clone(version, maker.from)
		}
		if b.err == nil {
			b.err = maker.make(b.machine)
		}
	}
	if b.err != nil {
		return nil, b.err
	}
	return b.machine.Clone()
}

func addServices(m *machine.Machine) error {
	if err := m.Install(fmt.Sprintf("services-%d", m.Version)); err != nil {
		return fmt.Errorf("%w, and test/setup-packages", err)
	}
	// The kernel's own devices, of which a container has few.
	if err := m.Write("/etc/tmpfiles.d/devices.conf", "d /dev/net\nc /dev/net/tun 0666 root root - 10:200\nc /dev/fuse 0666 root root - 10:229\n", 0o644); err != nil {
		return err
	}
	switch m.Version {
	case 247:
		return addWireGuard(m)
	case 262:
		return borrow(m, "/usr/bin", "services-257/usr/bin/rclone")
	}
	return nil
}

// addWireGuard has the machine make WireGuard interfaces without the kernel's help,
// which not every machine that tests has. Debian has the program since 12; on 11
// it runs with the libraries of another.
func addWireGuard(m *machine.Machine) error {
	err := borrow(m, "/opt/wireguard", "services-257/usr/bin/wireguard-go", "257/lib64/ld-linux-x86-64.so.2", "257/usr/lib/x86_64-linux-gnu/libc.so.6")
	if err != nil {
		return err
	}
	return m.Write("/usr/bin/wireguard-go", `#!/bin/sh
cd /opt/wireguard
WG_PROCESS_FOREGROUND=1 ./ld-linux-x86-64.so.2 --library-path . ./wireguard-go "$@" &
until [ -S /run/wireguard/$1.sock ]; do sleep 0.1; done
`, 0o755)
}

// borrow copies programs of another suite to a folder of the machine.
func borrow(m *machine.Machine, folder string, files ...string) error {
	for _, file := range files {
		data, err := os.ReadFile(filepath.Join(machine.Cache(), file))
		if err != nil {
			return err
		}
		if err := m.Write(filepath.Join(folder, filepath.Base(file)), string(data), 0o755); err != nil {
			return err
		}
	}
	return nil
}
