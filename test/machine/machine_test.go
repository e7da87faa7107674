package machine

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func newMachine(t *testing.T, version int) *Machine {
	t.Helper()
	m, err := New(version)
	if errors.Is(err, ErrNotSetUp) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func TestBoot(t *testing.T) {
	for _, version := range Versions {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, version)
			r, err := m.Boot("systemctl --version; systemctl is-active multi-user.target; systemctl --failed --no-legend; echo problem >&2; exit 3")
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(strings.TrimSpace(r.Stdout), "\n")
			if want := fmt.Sprintf("systemd %d ", version); !strings.HasPrefix(lines[0], want) {
				t.Errorf("booted %q, want %q", lines[0], want)
			}
			if last := lines[len(lines)-1]; last != "active" {
				t.Errorf("multi-user.target or failed units: %q", last)
			}
			if r.Stderr != "problem\n" || r.Status != 3 {
				t.Errorf("stderr %q, status %d", r.Stderr, r.Status)
			}
		})
	}
}

// The machinery proves itself on systemd's own credentials: what the tests of
// bootseal expect of a TPM must be so for systemd-creds too.
func TestTPM(t *testing.T) {
	t.Parallel()
	m := newMachine(t, 257)
	seal := `mkdir -p /etc/credstore.encrypted; printf secret | systemd-creds encrypt --name=pw --with-key=tpm2 --tpm2-pcrs=7 - /etc/credstore.encrypted/pw`
	open := `systemd-creds decrypt --name=pw /etc/credstore.encrypted/pw -`
	if r, err := m.Boot(seal); err != nil || r.Status != 0 {
		t.Fatal(r.Status, r.Stderr, err)
	}
	boot := func(what string, m *Machine, opens bool) {
		t.Helper()
		r, err := m.Boot(open)
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Status == 0 && r.Stdout == "secret"; got != opens {
			t.Errorf("%s: opened is %v, want %v: %s", what, got, opens, r.Stderr)
		}
	}
	boot("another boot", m, true)
	c, err := m.Clone()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	boot("a clone", c, true)
	c.TPM.Firmware[7] = "Secure Boot is off"
	boot("another PCR 7", c, false)
	c.TPM.Firmware[7] = "Secure Boot is on"
	boot("PCR 7 as it was", c, true)
	if c.TPM, err = c.NewTPM(); err != nil {
		t.Fatal(err)
	}
	boot("another TPM", c, false)
}

func TestStepCA(t *testing.T) {
	t.Parallel()
	m := newMachine(t, 252)
	if err := m.InstallStepCA("correct horse\n"); err != nil {
		t.Fatal(err)
	}
	r, err := m.Boot(Health + "health")
	if err != nil {
		t.Fatal(err)
	}
	if r.Stdout != "ok\n" || r.Status != 0 {
		t.Errorf("step-ca with its plaintext password: %+v", r)
	}
}
