package operate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/bootseal/bootseal/internal/cli"
	"github.com/bootseal/bootseal/internal/contract"
	"github.com/bootseal/bootseal/internal/delivery"
	"github.com/bootseal/bootseal/internal/failure"
	"github.com/bootseal/bootseal/internal/manager"
	"github.com/bootseal/bootseal/internal/plaintext"
	"github.com/bootseal/bootseal/policy"
)

// errApply says that some unit is not as its policy wants it.
var errApply = failure.Other.New("not applied everywhere", "see the units named with \"bootseal check\"")

func applyVerb() *cli.Verb {
	return &cli.Verb{
		Name: "apply", Forms: cli.Takes("[UNIT...]", "Put policies into force for what runs"),
		Details: "Reload systemd, and restart the services that run with older policies or credentials.",
		Flags:   cli.NewFlags("apply"), Most: cli.Unlimited, Run: apply,
	}
}

// apply puts policies into force for units that run, and takes away the plaintext that
// was left in memory of those that do not.
func apply(names []string) error {
	err := applyPolicies(names)
	removed, failed := removeLeft(names)
	if len(names) < 2 && len(removed) > 0 && errors.Is(err, policy.ErrNoPolicy) {
		err = nil
	}
	return errors.Join(err, failed)
}

// removeLeft takes away the plaintext that is of no use to its unit any more.
func removeLeft(names []string) (removed []plaintext.Stored, err error) {
	if stored, err := plaintext.List(); err != nil || len(stored) == 0 {
		return nil, err
	}
	m, err := manager.New(context.Background())
	if err != nil {
		return nil, err
	}
	defer m.Close()
	removed, err = plaintext.RemoveIf(func(s plaintext.Stored) bool {
		return policy.Named(names, s.Unit) && m.Outlived(s.Unit, s.Made)
	})
	for _, s := range removed {
		fmt.Printf("%s: the plaintext of an earlier run of it is removed\n", s.Unit)
	}
	return removed, err
}

// applyPolicies is apply without what was left.
func applyPolicies(names []string) error {
	planner, err := delivery.NewPlanner("/")
	if err != nil {
		return err
	}
	files, err := covering(names)
	files = planner.Files(files)
	var gone []policy.File
	if len(names) == 0 {
		gone = withoutPolicy(files)
	}
	if err != nil && len(gone) == 0 {
		return err
	}
	m, err := manager.New(context.Background())
	if err != nil {
		return err
	}
	defer m.Close()
	// What is there now has to be seen before systemd is told to reload.
	plans := make([]delivery.Plan, len(files))
	changed := make([]bool, len(files))
	for i, file := range files {
		plans[i] = planner.Plan(file)
		changed[i] = !inForce(plans[i])
	}
	all, _ := policy.Find("/")
	all = planner.Files(all)
	if err := m.Reload(); err != nil {
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
		loaded, err := m.Loaded(file, all)
		if err != nil {
			return err
		}
		for _, name := range loaded {
			if err := applyUnit(m, name, file, changed[i]); err != nil {
				fmt.Printf("%s: %v; see \"bootseal explain %s\"\n", name, err, name)
				failed = append(failed, name)
			}
		}
	}
	for _, file := range gone {
		loaded, err := m.Loaded(file, all)
		if err != nil {
			return err
		}
		for _, name := range loaded {
			if m.State(name) != "active" {
				continue
			}
			if err := m.Restart(name); err != nil {
				fmt.Printf("%s: its policy is gone: %v\n", name, err)
				failed = append(failed, name)
				continue
			}
			fmt.Printf("%s: its policy is gone, restarted without it\n", name)
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
func applyUnit(m *manager.Manager, name string, file policy.File, changed bool) error {
	state := m.State(name)
	switch {
	case state != "active" && state != "failed" && state != "activating":
		fmt.Printf("%s: not running, left so\n", name)
		return nil
	case state == "active" && !changed && !newerBlobs(file, m.Started(name)):
		fmt.Printf("%s: nothing has changed\n", name)
		return nil
	}
	if err := m.Restart(name); err != nil {
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
