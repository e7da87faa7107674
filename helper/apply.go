package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"

	"github.com/bootseal/bootseal/internal/contract"
	"github.com/bootseal/bootseal/internal/delivery"
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
	// errUnhealthy says that a unit did not stay up.
	errUnhealthy = errors.New("it did not stay up")
	// errApply says that some unit is not as its policy wants it.
	errApply = errors.New("not applied everywhere")
)

// manager is systemd, over D-Bus.
type manager struct {
	conn *dbus.Conn
	ctx  context.Context
}

func newManager(ctx context.Context) (*manager, error) {
	conn, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	return &manager{conn, ctx}, nil
}

func (m *manager) close() { m.conn.Close() }

// property is one of a unit, of the interface Unit or Service; nil if it cannot
// be had.
func (m *manager) property(unit, kind, name string) any {
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

func (m *manager) state(unit string) string { return text(m.property(unit, "Unit", "ActiveState")) }

// started is when the unit last became active, zero if it never did.
func (m *manager) started(unit string) time.Time {
	usec, _ := m.property(unit, "Unit", "ActiveEnterTimestamp").(uint64)
	if usec == 0 {
		return time.Time{}
	}
	return time.UnixMicro(int64(usec))
}

// reload has systemd run the generators and read all units again.
func (m *manager) reload() error {
	if err := m.conn.ReloadContext(m.ctx); err != nil {
		return fmt.Errorf("reloading systemd: %w: %w", errManager, err)
	}
	return nil
}

// restart starts the unit anew and waits until it has settled. It fails with
// errUnhealthy.
func (m *manager) restart(unit string) error {
	ctx, cancel := context.WithTimeout(m.ctx, jobTime)
	defer cancel()
	// It may have used up its starts before; where it has not failed this fails.
	_ = m.conn.ResetFailedUnitContext(ctx, unit)
	done := make(chan string, 1)
	if _, err := m.conn.RestartUnitContext(ctx, unit, "replace", done); err != nil {
		return fmt.Errorf("restarting %s: %w: %w", unit, errManager, err)
	}
	select {
	case result := <-done:
		if result != "done" {
			return fmt.Errorf("restarting %s: %w: the job ended as %q", unit, errUnhealthy, result)
		}
	case <-ctx.Done():
		return fmt.Errorf("restarting %s: %w: it takes longer than %v", unit, errUnhealthy, jobTime)
	}
	if err := m.settles(unit); err != nil {
		return fmt.Errorf("restarting %s: %w", unit, err)
	}
	return nil
}

// settles waits whether the unit stays up. A oneshot that has ended is up if it
// did so with success.
func (m *manager) settles(unit string) error {
	restarts := m.property(unit, "Service", "NRestarts")
	var up, calm time.Duration
	for up < settleTime || calm < calmTime && up < busyTime {
		oneshot := text(m.property(unit, "Service", "Type")) == "oneshot"
		switch state := m.state(unit); {
		case state == "active" || state == "reloading":
		case state == "inactive" && oneshot && text(m.property(unit, "Service", "Result")) == "success" && m.property(unit, "Unit", "ConditionResult") == true:
			return nil
		default:
			return fmt.Errorf("%w: it is %s", errUnhealthy, state)
		}
		if m.property(unit, "Service", "NRestarts") != restarts {
			return fmt.Errorf("%w: systemd had to restart it", errUnhealthy)
		}
		time.Sleep(settleStep)
		up += settleStep
		calm += settleStep
		if pid, _ := m.property(unit, "Service", "MainPID").(uint32); pid != 0 && busy("/", pid) {
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

// loaded lists the units that a policy is for: for a template, its instances that
// systemd has and that are not among all themselves.
func (m *manager) loaded(file policy.File, all []policy.File) ([]string, error) {
	prefix, ok := strings.CutSuffix(file.Unit, "@.service")
	if !ok {
		return []string{file.Unit}, nil
	}
	list, err := m.conn.ListUnitsByPatternsContext(m.ctx, nil, []string{prefix + "@*.service"})
	if err != nil {
		return nil, fmt.Errorf("listing the instances of %s: %w: %w", file.Unit, errManager, err)
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

// apply puts policies into force for units that run.
func apply(args []string) error {
	flags := flagSet("apply")
	if err := parseFlags(flags, args); err != nil {
		return err
	}
	planner, err := delivery.NewPlanner("/")
	if err != nil {
		return err
	}
	files, err := covered(root.Dir("/"), flags.Args())
	files = planner.Files(files)
	var gone []policy.File
	if flags.NArg() == 0 {
		gone = withoutPolicy(files)
	}
	if err != nil && len(gone) == 0 {
		return err
	}
	m, err := newManager(context.Background())
	if err != nil {
		return err
	}
	defer m.close()
	// What is there now has to be seen before systemd is told to reload.
	plans := make([]delivery.Plan, len(files))
	changed := make([]bool, len(files))
	for i, file := range files {
		plans[i] = planner.Plan(file)
		changed[i] = !inForce(plans[i])
	}
	all, _ := policy.Find("/")
	all = planner.Files(all)
	if err := m.reload(); err != nil {
		return err
	}
	var failed []string
	for i, file := range files {
		if plans[i].Err != nil {
			fmt.Printf("%s: blocked, not restarted: %v\n", file.Unit, plans[i].Err)
			failed = append(failed, file.Unit)
			continue
		}
		if !inForce(plans[i]) {
			fmt.Printf("%s: the generator did not put the policy into force; see \"journalctl -b -t bootseal-generator\"\n", file.Unit)
			failed = append(failed, file.Unit)
			continue
		}
		names, err := m.loaded(file, all)
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := m.applyUnit(name, file, changed[i]); err != nil {
				fmt.Printf("%s: %v; see \"bootseal explain %s\"\n", name, err, name)
				failed = append(failed, name)
			}
		}
	}
	for _, file := range gone {
		names, err := m.loaded(file, all)
		if err != nil {
			return err
		}
		for _, name := range names {
			active := m.state(name) == "active"
			var err error
			if active {
				err = m.restart(name)
			}
			// The hook that takes the plaintext away is gone, too.
			err = errors.Join(err, remove(name))
			switch {
			case err != nil:
				fmt.Printf("%s: its policy is gone: %v\n", name, err)
				failed = append(failed, name)
			case active:
				fmt.Printf("%s: its policy is gone, restarted without it\n", name)
			}
		}
	}
	if len(failed) > 0 {
		return fmt.Errorf("%w: %s", errApply, strings.Join(failed, ", "))
	}
	return nil
}

// withoutPolicy lists units that have a drop-in of the generator, which makes
// settings, and no policy any more.
func withoutPolicy(files []policy.File) []policy.File {
	var gone []policy.File
	for _, unit := range contract.Settled("/") {
		if policy.CheckUnit(unit) == nil && !slices.ContainsFunc(files, func(f policy.File) bool { return f.Unit == unit }) {
			gone = append(gone, policy.File{Unit: unit})
		}
	}
	return gone
}

// applyUnit restarts a unit whose drop-in or blobs are newer than it, and tells.
func (m *manager) applyUnit(name string, file policy.File, changed bool) error {
	state := m.state(name)
	switch {
	case state != "active" && state != "failed" && state != "activating":
		fmt.Printf("%s: not running, left so\n", name)
		return nil
	case state == "active" && !changed && !newerBlobs(file, m.started(name)):
		fmt.Printf("%s: nothing has changed\n", name)
		return nil
	}
	if err := m.restart(name); err != nil {
		return err
	}
	fmt.Printf("%s: restarted\n", name)
	return nil
}

// inForce tells whether what the generator wrote is what the plan says.
func inForce(plan delivery.Plan) bool {
	for _, d := range plan.DropIns {
		text, err := contract.ReadDropIn("/", d.Unit, d.Name)
		if err != nil || string(text) != d.Text {
			return false
		}
	}
	return true
}

// newerBlobs tells whether a blob was changed after the unit had started.
func newerBlobs(file policy.File, started time.Time) bool {
	if file.Masked {
		return false
	}
	p, err := policy.Load("/", file)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(p.Credentials, func(c policy.Credential) bool {
		st, err := os.Stat(c.Source)
		return err == nil && st.ModTime().After(started) || errors.Is(err, fs.ErrNotExist)
	})
}
