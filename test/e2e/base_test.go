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
