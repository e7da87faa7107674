// Package story has what the tests share that tell a story: a machine is made and
// booted, an administrator does something on it, and looks at what is there then.
package story

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/bootseal/bootseal/test/machine"
)

// The secret of step-ca, and where its policy and its sealed credential are.
const (
	Password = "correct horse battery staple"
	Policy   = "/etc/bootseal/step-ca.service.toml"
	Blob     = "/etc/credstore.encrypted/step-ca"
)

// PolicyText is the policy of step-ca, as the README has it.
const PolicyText = `[[credential]]
name     = "step-ca"
option   = "--password-file"
replaces = "/etc/step-ca/password.txt"

[seal]
key  = "host+tpm2"
pcrs = [7]
`

// Helpers are functions for the scripts of all machines, which [Boot] puts before
// them.
var Helpers = machine.Health + machine.Plaintext(Password) + machine.Script + `
mounts() { awk '$2 ~ "^/run/(bootseal|credentials)/step-ca" { print $2 }' /proc/mounts; }
`

// Machine is a container or a virtual machine.
type Machine interface {
	Boot(script string) (machine.Result, error)
	Write(path, content string, mode os.FileMode) error
	Path(path string) string
	Close() error
}

// Must ends the test at an error; where test/setup has not made what the test
// needs, it is skipped.
func Must(t *testing.T, err error) {
	t.Helper()
	if errors.Is(err, machine.ErrNotSetUp) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Keep returns a machine that has just been made, or failed to be, and closes it
// after the test.
func Keep[M Machine](t *testing.T, m M, err error) M {
	t.Helper()
	Must(t, err)
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// New makes a container, see [machine.New].
func New(t *testing.T, version int, below ...string) *machine.Machine {
	t.Helper()
	m, err := machine.New(version, below...)
	return Keep(t, m, err)
}

// Boot runs a script on the machine and returns its output by sections. A script
// that fails ends the test.
func Boot(t *testing.T, m Machine, script string) map[string]string {
	t.Helper()
	r, err := m.Boot(Helpers + script)
	if err != nil {
		t.Fatal(err)
	}
	if r.Status != 0 {
		t.Fatalf("script: exit status %d\n--- stdout\n%s--- stderr\n%s", r.Status, r.Stdout, r.Stderr)
	}
	if r.Stderr != "" {
		t.Log("script: ", r.Stderr)
	}
	return machine.Sections(r.Stdout)
}

// Write writes a file of the machine, with the folders above it.
func Write(t *testing.T, m Machine, path, content string, mode os.FileMode) {
	t.Helper()
	if err := m.Write(path, content, mode); err != nil {
		t.Fatal(err)
	}
}

// Want compares what was got with what is wanted.
func Want(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

// WantContains looks for words in what was got.
func WantContains(t *testing.T, what, got string, words ...string) {
	t.Helper()
	for _, word := range words {
		if !strings.Contains(got, word) {
			t.Errorf("%s: no %q in:\n%s", what, word, got)
		}
	}
}
