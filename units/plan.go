package units

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/bootseal/bootseal/internal/contract"
	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/internal/machine"
	"github.com/bootseal/bootseal/internal/root"
	"github.com/bootseal/bootseal/internal/systemd"
	"github.com/bootseal/bootseal/policy"
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
	// Err says why the unit is blocked: the drop-ins then keep it from
	// starting. ErrNotFound and ErrMasked are among the reasons.
	Err error
}

// Planner works out the drop-ins for policies on one machine. Its methods may be
// called at the same time.
type Planner struct {
	dir       root.Dir
	tree      *Tree
	version   int
	tpm2      func() error           // why PID 1 cannot use a TPM, whatever the blob
	automount func(name string) bool // whether PID 1 would have to mount something first
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
	tree, err := ReadTree(dir, version)
	if err != nil {
		return nil, err
	}
	pl := &Planner{dir: dir, tree: tree, version: version, automount: machine.Automounts(dir)}
	pl.tpm2 = sync.OnceValue(pl.unsealsTPM2)
	return pl, nil
}

// Load reads a unit as [Tree.Load] does.
func (pl *Planner) Load(name string) (*Unit, error) { return pl.tree.Load(name) }

// Installed is [Tree.Installed].
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
	instances := pl.tree.instances()
	for _, f := range files {
		if f.Masked || !strings.HasSuffix(f.Unit, "@"+service) {
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
	switch {
	case err == nil && u.Name != file.Unit:
		return blocked(file, u, p, fmt.Errorf("%s: %s is an alias of %s; name the policy after that", p.Path, file.Unit, u.Name))
	case err != nil:
		return blocked(file, nil, p, fmt.Errorf("%s: %w", p.Path, err))
	}
	plan, err := pl.apply(p, u)
	if err != nil {
		return blocked(file, u, p, fmt.Errorf("%s: %w", p.Path, err))
	}
	return plan
}

func (pl *Planner) apply(p *policy.Policy, u *Unit) (Plan, error) {
	delivery, why, err := pl.delivery(p)
	if err != nil {
		return Plan{}, err
	}
	before, after, err := u.later()
	if err != nil {
		return Plan{}, err
	}
	text, err := render(p, before, delivery, pl.version)
	if err != nil {
		return Plan{}, err
	}
	if err := pl.filesSet(p, u); err != nil {
		return Plan{}, err
	}
	return Plan{DropIns: []DropIn{{p.Unit, contract.DropInName, text}}, Delivery: delivery, Why: why}, undoes(after, u, p, text)
}

// filesSet refuses variables that an EnvironmentFile= of the unit sets, too: it
// goes before Environment=. One that cannot be read now cannot be looked at.
func (pl *Planner) filesSet(p *policy.Policy, u *Unit) error {
	for _, s := range u.List("Service", "EnvironmentFile") {
		for _, file := range pl.glob(u.expand(strings.TrimPrefix(s.Value, "-"))) {
			if pl.automount(file) {
				continue
			}
			text, err := pl.dir.ReadFile(file, maxFile)
			if err != nil {
				continue
			}
			for line := range strings.Lines(string(text)) {
				name, _, _ := strings.Cut(line, "=")
				if name = strings.Trim(name, blanks); slices.Contains(variables(p), name) {
					return fmt.Errorf("%s, which is an EnvironmentFile= in %s, sets %s, too, and goes before the policy; remove it there", file, s.File, name)
				}
			}
		}
	}
	return nil
}

// glob lists the files that a pattern stands for, glob(7), with wildcards in the
// file's name only; the pattern itself if it has none.
func (pl *Planner) glob(pattern string) []string {
	folder, base := path.Split(pattern)
	if !strings.ContainsAny(base, "*?[") {
		return []string{pattern}
	}
	var files []string
	if pl.automount(folder) {
		return nil
	}
	entries, _ := pl.dir.ReadDir(folder)
	for _, entry := range entries {
		if ok, err := path.Match(base, entry.Name()); ok && err == nil {
			files = append(files, folder+entry.Name())
		}
	}
	return files
}

// delivery follows the generations of systemd and what the blobs ask for. It
// says why it is this one.
func (pl *Planner) delivery(p *policy.Policy) (_ policy.Delivery, why string, err error) {
	fits := policy.Prestart
	why = fmt.Sprintf("systemd %d cannot open encrypted credentials, which takes %d", pl.version, systemd.EncryptedCredentials.From)
	var socketOnly error // why systemd itself cannot open the blobs
	switch {
	case !systemd.Supported.In(pl.version):
		return "", "", fmt.Errorf("systemd %d is too old; at least %d is needed", pl.version, systemd.Supported.From)
	case systemd.EncryptedCredentials.In(pl.version):
		fits = policy.Native
		why = fmt.Sprintf("systemd %d opens the credentials itself", pl.version)
	}
	for _, c := range p.Credentials {
		var blob *credential.Blob
		// One that is missing may be there when the unit starts, or else the
		// unit says so.
		if !pl.automount(c.Source) {
			if blob, err = policy.ReadBlob(pl.dir, p, c); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return "", "", err
			}
		}
		if err := pl.opens(blob, p.Seal); err != nil && fits != policy.Prestart {
			fits, socketOnly = policy.Socket, fmt.Errorf("credential %s, %s: %w", c.Name, c.Source, err)
			why = socketOnly.Error()
		}
	}
	switch {
	case p.Delivery == policy.Auto || p.Delivery == fits:
		return fits, why, nil
	case p.Delivery == policy.Socket && systemd.LoadsCredentials.In(pl.version):
		return policy.Socket, "the policy says so", nil
	case p.Delivery == policy.Native && socketOnly != nil:
		return "", "", fmt.Errorf(`delivery = "native" cannot work: %w; expected "socket" or "auto"`, socketOnly)
	case p.Delivery == policy.Native:
		return "", "", fmt.Errorf(`delivery = "native" needs systemd %d, this is %d; expected "prestart" or "auto"`, systemd.EncryptedCredentials.From, pl.version)
	case p.Delivery == policy.Prestart:
		return "", "", fmt.Errorf(`delivery = "prestart" ends with systemd %d, this is %d; expected "socket" or "auto"`, systemd.PrestartHooks.Until, pl.version)
	}
	return "", "", fmt.Errorf(`delivery = "socket" needs systemd %d, this is %d; expected "prestart" or "auto"`, systemd.LoadsCredentials.From, pl.version)
}

// opens tells why PID 1 itself cannot open the blob. One that is not there yet
// (nil) will be what the policy says.
func (pl *Planner) opens(blob *credential.Blob, seal policy.Seal) error {
	tpm2 := seal.Key != policy.KeyHost && seal.Key != policy.KeyNull
	if blob != nil {
		tpm2 = blob.Type.NeedsTPM2()
		if since := blob.Since(); since > pl.version {
			return fmt.Errorf("systemd %d cannot open a credential of this kind (%s), which needs %d", pl.version, blob.Type, since)
		}
	}
	if !tpm2 {
		return nil
	}
	if err := pl.tpm2(); err != nil {
		return fmt.Errorf("systemd cannot unseal it: %w", err)
	}
	return nil
}

// unsealsTPM2 tells why PID 1 cannot use a TPM, whatever the blob.
func (pl *Planner) unsealsTPM2() error {
	missing, err := systemd.TPM2Libraries(pl.dir)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		return fmt.Errorf("%s is not installed", strings.Join(missing, ", "))
	}
	if pl.assumeTPM2 {
		return nil
	}
	built, err := systemd.BuiltWithTPM2(pl.dir)
	if err == nil && !built {
		err = errors.New("it was built without TPM2 support")
	}
	return err
}

// Pending is a drop-in that keeps the unit of any policy from starting as long as
// it has no other.
func Pending(reason error) string {
	return renderBlocked(policy.Dirs[0], nil, nil, reason.Error())
}

// Block keeps the unit of a policy from starting, for a reason that lies
// outside of the policy and the unit.
func Block(file policy.File, reason error) Plan {
	if file.Masked {
		return masked(file)
	}
	return blocked(file, nil, nil, reason)
}

func masked(file policy.File) Plan {
	return Plan{DropIns: []DropIn{comment(file.Unit, "The policy is masked by "+file.Path+".")}}
}

// blocked keeps the unit of a policy from starting.
func blocked(file policy.File, u *Unit, p *policy.Policy, reason error) Plan {
	text := renderBlocked(file.Path, u, p, file.Unit+" is not started: "+reason.Error())
	plan := Plan{Err: reason, DropIns: []DropIn{{file.Unit, contract.DropInName, text}}}
	if u == nil {
		return plan
	}
	// Where another drop-in could undo this one, it is said again after it.
	last := contract.DropInName
	if len(u.DropIns) > 0 {
		last = max(last, path.Base(u.DropIns[len(u.DropIns)-1]))
	}
	if _, _, err := u.later(); err != nil || last != contract.DropInName {
		name := strings.TrimSuffix(last, ".conf") + "~bootseal.conf"
		plan.DropIns = append(plan.DropIns, DropIn{file.Unit, name, text})
	}
	return plan
}

// comment is a drop-in that sets nothing, in place of the installed one.
func comment(unit, text string) DropIn {
	return DropIn{unit, contract.DropInName, contract.Heading + "# " + text + "\n"}
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
		prefix, ok := strings.CutSuffix(f.Unit, "@"+service)
		if plain := prefix + service; ok && !has[plain] {
			all = append(all, comment(plain, "The policy "+f.Path+" is for instances only."))
		}
	}
	return all
}
