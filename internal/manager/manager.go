// Package manager speaks with systemd over D-Bus: it asks for units, reloads and
// restarts them, and watches whether they stay up.
package manager

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"

	"github.com/bootseal/bootseal/internal/failure"
	"github.com/bootseal/bootseal/internal/root"
	"github.com/bootseal/bootseal/policy"
)

const (
	// jobTime bounds the start of one unit: systemd's own default is 90 s.
	jobTime = 5 * time.Minute
	// settleTime is how long a unit has to stay up to count as healthy: systemd
	// calls a Type=simple unit active before it has read its secret. On a machine
	// that has much to do it may not even get to that in this time: it then has to
	// have waited for work for calmTime, or to have stayed up for busyTime.
	settleTime = 2 * time.Second
	calmTime   = 500 * time.Millisecond
	busyTime   = 20 * time.Second
	settleStep = 100 * time.Millisecond
)

var (
	// ErrNoAnswer says that systemd could not be asked.
	ErrNoAnswer = failure.Other.New("systemd does not answer", "become root, on a machine that systemd runs")
	// ErrUnhealthy says that a unit did not stay up.
	ErrUnhealthy = errors.New("it did not stay up")
)

// Manager is systemd, over D-Bus.
type Manager struct {
	conn *dbus.Conn
	ctx  context.Context
}

// New connects to systemd, over the bus or, as root, past it. [Manager.Close] ends it.
func New(ctx context.Context) (*Manager, error) {
	conn, err := dbus.NewWithContext(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoAnswer, err)
	}
	return &Manager{conn, ctx}, nil
}

// Close ends the connection.
func (m *Manager) Close() { m.conn.Close() }

// Property is one of a unit, of the interface Unit or Service; nil if it cannot
// be had.
func (m *Manager) Property(unit, kind, name string) any {
	var p *dbus.Property
	var err error
	if kind == "Unit" {
		p, err = m.conn.GetUnitPropertyContext(m.ctx, unit, name)
	} else {
		p, err = m.conn.GetUnitTypePropertyContext(m.ctx, unit, kind, name)
	}
	if err != nil {
		return nil
	}
	return p.Value.Value()
}

// State is the ActiveState of a unit, "" if it cannot be had.
func (m *Manager) State(unit string) string { return Text(m.Property(unit, "Unit", "ActiveState")) }

// Started is when the unit last became active, zero if it never did.
func (m *Manager) Started(unit string) time.Time { return m.at(unit, "ActiveEnterTimestamp") }

// at is the time of a change of the unit's state, zero if there was none.
func (m *Manager) at(unit, property string) time.Time {
	usec, _ := m.Property(unit, "Unit", property).(uint64)
	if usec == 0 {
		return time.Time{}
	}
	return time.UnixMicro(int64(usec))
}

// Outlived tells whether what was made at a time, while the unit was starting, is of no
// use to it any more: the unit does not run, or was started again since.
func (m *Manager) Outlived(unit string, made time.Time) bool {
	// Files are dated by a clock that is up to 10 ms late.
	const late = time.Second
	switch m.State(unit) {
	case "": // it cannot be known
		return false
	case "inactive", "failed":
		return true
	}
	return made.Add(late).Before(m.at(unit, "InactiveExitTimestamp"))
}

// Reload has systemd run the generators and read all units again.
func (m *Manager) Reload() error {
	if err := m.conn.ReloadContext(m.ctx); err != nil {
		return fmt.Errorf("reloading systemd: %w: %w", ErrNoAnswer, err)
	}
	return nil
}

// Restart starts the unit anew and waits until it has settled. It fails with
// [ErrUnhealthy].
func (m *Manager) Restart(unit string) error {
	ctx, cancel := context.WithTimeout(m.ctx, jobTime)
	defer cancel()
	// It may have used up its starts before; where it has not failed this fails.
	_ = m.conn.ResetFailedUnitContext(ctx, unit)
	done := make(chan string, 1)
	if _, err := m.conn.RestartUnitContext(ctx, unit, "replace", done); err != nil {
		return fmt.Errorf("restarting %s: %w: %w", unit, ErrNoAnswer, err)
	}
	select {
	case result := <-done:
		if result != "done" {
			return fmt.Errorf("restarting %s: %w: the job ended as %q", unit, ErrUnhealthy, result)
		}
	case <-ctx.Done():
		return fmt.Errorf("restarting %s: %w: it takes longer than %v", unit, ErrUnhealthy, jobTime)
	}
	if err := m.settles(unit); err != nil {
		return fmt.Errorf("restarting %s: %w", unit, err)
	}
	return nil
}

// settles waits whether the unit stays up. A oneshot that has ended is up if it
// did so with success.
func (m *Manager) settles(unit string) error {
	restarts := m.Property(unit, "Service", "NRestarts")
	var up, calm time.Duration
	for up < settleTime || calm < calmTime && up < busyTime {
		oneshot := Text(m.Property(unit, "Service", "Type")) == "oneshot"
		switch state := m.State(unit); {
		case state == "active" || state == "reloading":
		case state == "inactive" && oneshot && Text(m.Property(unit, "Service", "Result")) == "success" && m.Property(unit, "Unit", "ConditionResult") == true:
			return nil
		default:
			return fmt.Errorf("%w: it is %s", ErrUnhealthy, state)
		}
		if m.Property(unit, "Service", "NRestarts") != restarts {
			return fmt.Errorf("%w: systemd had to restart it", ErrUnhealthy)
		}
		time.Sleep(settleStep)
		up += settleStep
		calm += settleStep
		if pid, _ := m.Property(unit, "Service", "MainPID").(uint32); pid != 0 && busy("/", pid) {
			calm = 0
		}
	}
	return nil
}

// busy tells whether a thread of the process runs, waits for a processor or for a
// disk, by its state in proc_pid_stat(5).
func busy(dir root.Dir, pid uint32) bool {
	tasks := fmt.Sprintf("/proc/%d/task", pid)
	threads, _ := dir.ReadDir(tasks)
	for _, thread := range threads {
		stat, _ := dir.ReadFile(path.Join(tasks, thread.Name(), "stat"), 4096)
		// The name before it, in parentheses, may be anything.
		if i := bytes.LastIndex(stat, []byte(") ")); i >= 0 && i+2 < len(stat) && bytes.IndexByte([]byte("RD"), stat[i+2]) >= 0 {
			return true
		}
	}
	return false
}

// Loaded lists the units that a policy is for: for a template, its instances that
// systemd has and that are not among all themselves.
func (m *Manager) Loaded(file policy.File, all []policy.File) ([]string, error) {
	prefix, ok := strings.CutSuffix(file.Unit, "@.service")
	if !ok {
		return []string{file.Unit}, nil
	}
	list, err := m.conn.ListUnitsByPatternsContext(m.ctx, nil, []string{prefix + "@*.service"})
	if err != nil {
		return nil, fmt.Errorf("listing the instances of %s: %w: %w", file.Unit, ErrNoAnswer, err)
	}
	var names []string
	for _, u := range list {
		if !slices.ContainsFunc(all, func(f policy.File) bool { return f.Unit == u.Name }) {
			names = append(names, u.Name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// Text is the value of a property, "" if it is no text.
func Text(value any) string {
	s, _ := value.(string)
	return s
}

// Properties are those of the unit's interfaces Unit and Service. Units that are not
// there have some, too.
func (m *Manager) Properties(unit string) (ofUnit, ofService map[string]any, err error) {
	if ofUnit, err = m.conn.GetUnitPropertiesContext(m.ctx, unit); err == nil {
		ofService, err = m.conn.GetUnitTypePropertiesContext(m.ctx, unit, "Service")
	}
	if err != nil {
		return nil, nil, fmt.Errorf("asking for %s: %w: %w", unit, ErrNoAnswer, err)
	}
	return ofUnit, ofService, nil
}

// AwaitEnd waits a while for a unit that is on its way down: its last words may
// still be, too.
func (m *Manager) AwaitEnd(unit string) {
	for range settleTime / settleStep {
		if m.State(unit) != "deactivating" {
			return
		}
		time.Sleep(settleStep)
	}
}
