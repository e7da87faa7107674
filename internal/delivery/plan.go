// Package delivery chooses how a unit gets the credentials of its policy, and renders
// the drop-ins that bring it about. There are three ways, one file each: systemd opens
// the credentials itself (native), a hook provides them before the unit starts
// (prestart), or systemd reads them from bootseal's socket (socket).
//
// A policy that cannot be met blocks its unit: a drop-in then keeps it from starting and
// says why. It refuses a unit whose other settings would take back what it sets, and
// whatever it could not look at.
package delivery

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/bootseal/bootseal/internal/contract"
	"github.com/bootseal/bootseal/internal/machine"
	"github.com/bootseal/bootseal/internal/root"
	"github.com/bootseal/bootseal/internal/systemd"
	"github.com/bootseal/bootseal/policy"
	"github.com/bootseal/bootseal/units"
)

// DropIn is a file to write below one of a generator's folders.
type DropIn struct {
	Unit string // names the folder, with ".d"
	Name string // of the file
	Text string
}

// Plan is what one policy file comes to.
type Plan struct {
	DropIns  []DropIn
	Delivery policy.Delivery // as chosen; empty where there is none
	Why      string          // what the choice follows from; empty where there is none
	notes    func() []string
	// Unseen says that the unit has no file, nor a generator that is known to make it.
	Unseen error
	// Err says why the unit is blocked: the drop-ins then keep it from
	// starting. units.ErrNotFound and units.ErrMasked are among the reasons.
	Err error
}

// Notes are worth knowing, though nothing is wrong. They are found when they are asked
// for: the generator does not.
func (p Plan) Notes() []string {
	if p.notes == nil {
		return nil
	}
	return p.notes()
}

// Planner works out the drop-ins for policies on one machine. Its methods may be
// called at the same time.
type Planner struct {
	dir     root.Dir
	tree    *units.Tree
	version int
	after   func() (*units.Tree, error) // with what other generators made
	tpm2    func() error                // why PID 1 cannot use a TPM, whatever the blob
	follow  func(name string) (leads string, automount bool)
	// assumeTPM2 says that systemd is taken to be built with TPM2 support.
	assumeTPM2 bool
}

// NewPlanner reads what it needs to know about the machine below dir: the
// version of its systemd and its unit folders.
func NewPlanner(dir root.Dir) (*Planner, error) {
	version, err := systemd.Version(dir)
	if err != nil {
		return nil, err
	}
	return newPlanner(dir, version)
}

// NewPlannerFor is for the machine below dir, as if its systemd had another
// version: one that was built with TPM2 support and finds the same libraries.
func NewPlannerFor(dir root.Dir, version int) (*Planner, error) {
	pl, err := newPlanner(dir, version)
	if err == nil {
		pl.assumeTPM2 = true
	}
	return pl, err
}

func newPlanner(dir root.Dir, version int) (*Planner, error) {
	tree, err := units.ReadTree(dir, version)
	if err != nil {
		return nil, err
	}
	pl := &Planner{dir: dir, tree: tree, version: version, follow: machine.Automounts(dir)}
	pl.after = sync.OnceValues(func() (*units.Tree, error) { return units.ReadTreeAfter(dir, version) })
	pl.tpm2 = sync.OnceValue(pl.unsealsTPM2)
	return pl, nil
}

// leads is where a path leads.
func (pl *Planner) leads(name string) string {
	leads, _ := pl.follow(name)
	return leads
}

// automount tells whether PID 1 would have to mount something first to look there.
func (pl *Planner) automount(name string) bool {
	_, automount := pl.follow(name)
	return automount
}

// Load reads a unit as [units.Tree.Load] does.
func (pl *Planner) Load(name string) (*units.Unit, error) { return pl.tree.Load(name) }

// Installed is [units.Tree.Installed].
func (pl *Planner) Installed(name string) error { return pl.tree.Installed(name) }

// Files adds to the policy files, for each template's, one for each of its
// instances that has settings of its own and no policy of its own: the template's
// drop-in cannot take account of them.
func (pl *Planner) Files(files []policy.File) []policy.File {
	has := map[string]bool{}
	for _, f := range files {
		has[f.Unit] = true
	}
	all := slices.Clone(files)
	instances := pl.tree.Instances()
	for _, f := range files {
		if f.Masked || !strings.HasSuffix(f.Unit, "@.service") {
			continue
		}
		for _, instance := range instances[f.Unit] {
			if !has[instance] {
				all = append(all, policy.File{Unit: instance, Path: f.Path})
			}
		}
	}
	return all
}

// Plan works out the drop-ins for one policy file.
func (pl *Planner) Plan(file policy.File) Plan {
	if file.Masked {
		return masked(file)
	}
	p, err := policy.Load(pl.dir, file)
	if err != nil {
		// Even so, the unit's other conditions and drop-ins are of use.
		u, _ := pl.tree.Load(file.Unit)
		return blocked(file, u, nil, err)
	}
	return pl.PlanPolicy(p)
}

// PlanPolicy is Plan for a policy that has been read, or that will be a file.
func (pl *Planner) PlanPolicy(p *policy.Policy) Plan {
	file := policy.File{Unit: p.Unit, Path: p.Path}
	u, err := pl.tree.Load(file.Unit)
	if errors.Is(err, units.ErrNotFound) {
		u, err = pl.unseen(p, err)
	}
	switch {
	case err == nil && u.Name != file.Unit:
		return blocked(file, u, p, fmt.Errorf("%s: %s is an alias of %s; name the policy after that", p.Path, file.Unit, u.Name))
	case err != nil:
		return blocked(file, u, nil, fmt.Errorf("%s: %w", p.Path, err))
	}
	plan, err := pl.apply(p, u)
	if err != nil {
		err = fmt.Errorf("%s: %w", p.Path, err)
		plan = blocked(file, u, p, err)
		if contract.CheckDropIn(plan.DropIns[0].Text) != nil {
			plan = blocked(file, u, nil, err) // without the unit's own checks
		}
	}
	return plan
}

func (pl *Planner) apply(p *policy.Policy, u *units.Unit) (Plan, error) {
	before, after := u.Around(contract.DropInName)
	o := &order{policy: p, unit: before, whole: u, version: pl.version, unseen: u.Fragment == ""}
	delivery, why, err := pl.choose(o)
	if err != nil {
		return Plan{}, err
	}
	text, err := pl.render(o, delivery, after)
	plan := Plan{DropIns: []DropIn{{p.Unit, contract.DropInName, text}}, Delivery: delivery, Why: why, notes: func() []string { return o.notes(delivery) }}
	if o.unseen && pl.maker(p.Unit) == "" {
		plan.Unseen = fmt.Errorf("%s: %s: %w; the policy is for one that another generator makes", p.Path, p.Unit, units.ErrNotFound)
	}
	return plan, err
}

// render makes the drop-in by which the unit gets its credentials in that way, and
// refuses a unit that would not get them by it.
func (pl *Planner) render(o *order, delivery policy.Delivery, after []units.Setting) (string, error) {
	if err := replaced(o.whole); err != nil {
		return "", err
	}
	if err := o.reaches(delivery); err != nil {
		return "", err
	}
	if err := pl.shown(o, delivery); err != nil {
		return "", err
	}
	if err := o.suits(delivery); err != nil {
		return "", err
	}
	text, err := renderers[delivery](o)
	if err != nil {
		return "", err
	}
	if err := pl.filesSet(o.policy, o.whole); err != nil {
		return "", err
	}
	if err := contract.CheckDropIn(text); err != nil {
		return "", err
	}
	return text, undoes(after, o.whole, o.policy, text)
}

// Siblings returns drop-ins for units that have no policy but share the prefix
// of a template that has one: the installed drop-in cannot tell them from
// instances.
func Siblings(files []policy.File) []DropIn {
	has := map[string]bool{}
	for _, f := range files {
		has[f.Unit] = true
	}
	var all []DropIn
	for _, f := range files {
		prefix, ok := strings.CutSuffix(f.Unit, "@.service")
		if plain := prefix + ".service"; ok && !has[plain] {
			all = append(all, comment(plain, "The policy "+f.Path+" is for instances only."))
		}
	}
	return all
}
