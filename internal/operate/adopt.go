package operate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/bootseal/bootseal/internal/atomicfile"
	"github.com/bootseal/bootseal/internal/cli"
	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/internal/delivery"
	"github.com/bootseal/bootseal/internal/encryption"
	"github.com/bootseal/bootseal/internal/explain"
	"github.com/bootseal/bootseal/internal/failure"
	"github.com/bootseal/bootseal/internal/manager"
	"github.com/bootseal/bootseal/internal/options"
	"github.com/bootseal/bootseal/internal/report"
	"github.com/bootseal/bootseal/internal/sealing"
	"github.com/bootseal/bootseal/policy"
	"github.com/bootseal/bootseal/units"
)

var (
	// errAdopted says that there is a record of an adoption.
	errAdopted = failure.Other.New("it has been adopted, or an earlier run was broken off", "\"bootseal adopt --undo UNIT\" takes it back to its plaintext files")
	// errNotAdopted says that there is no such record.
	errNotAdopted = failure.Other.New("it has not been adopted here", "\"bootseal decrypt FILE\" prints a secret that was sealed in another way")
	// errNotAdoptable says that a unit, or its secret, is not such that it can be.
	errNotAdoptable = errors.New("cannot be adopted")
	// errPutBack says that all is as before.
	errPutBack = failure.Other.New("all is as it was before", "remove the cause, and try again")
)

// passwordOptions are those of step-ca that name a file with a password.
var passwordOptions = []string{"--password-file", "--ssh-host-password-file", "--ssh-user-password-file", "--issuer-password-file"}

// adopted is what it takes to undo an adoption, beside the blobs. It is written
// before anything else is, and removed after it.
type adopted struct {
	Credentials []adoptedSecret `json:"credentials"`

	unit string
}

// adoptedSecret is a secret, where it was and where it is now.
type adoptedSecret struct {
	Name string `json:"name"`
	Blob string `json:"blob"`
	File string `json:"file"`
	UID  int    `json:"uid"`
	GID  int    `json:"gid"`
	Mode string `json:"mode"`

	plain *plainFile
	text  []byte // of the blob
	kind  string // of the blob, for the user
	made  bool   // the blob has been written
}

func (r *adopted) path() string       { return policy.Dirs[0] + "/" + r.unit + ".adopted" }
func (r *adopted) policyPath() string { return policy.Dirs[0] + "/" + r.unit + ".toml" }

// close forgets the secrets.
func (r *adopted) close() {
	for _, c := range r.Credentials {
		if c.plain != nil {
			clear(c.plain.content)
			c.plain.close()
		}
	}
}

// files lists the plaintext files, each once.
func (r *adopted) files() (all []*plainFile) {
	for _, c := range r.Credentials {
		if !slices.Contains(all, c.plain) {
			all = append(all, c.plain)
		}
	}
	return all
}

// adopting is the verb.
type adopting struct {
	device options.Device
	key    string
	pcrs   string
	keep   bool
	undo   bool
	dryRun bool
	names  []string // of options
	flags  *pflag.FlagSet
}

// adoptVerb takes a unit that runs from plaintext files to sealed credentials.
func adoptVerb() *cli.Verb {
	o := &adopting{flags: cli.NewFlags("adopt")}
	o.flags.BoolVar(&o.dryRun, "dry-run", false, "Show what would be done")
	o.flags.BoolVar(&o.keep, "keep", false, "Leave the plaintext files")
	o.flags.BoolVar(&o.undo, "undo", false, "Take an adopted unit back to its plaintext files")
	o.flags.StringArrayVar(&o.names, "option", passwordOptions, "Adopt the file that this `OPTION` of the unit's command names (step-ca's four)")
	o.flags.StringVar(&o.key, "with-key", policy.KeyAuto, "`KEY` is host, tpm2, host+tpm2; auto: the host key and the TPM, whichever there are (default)")
	o.flags.StringVar(&o.pcrs, "tpm2-pcrs", "", "The PCRs to seal to, 0 to 23 or by name, as in `PCR+PCR...`; none if not given")
	return options.Bind(&cli.Verb{
		Name: "adopt", Forms: cli.Takes("UNIT", "From plaintext files to sealed ones, and back"),
		Details: "Take a unit that runs from plaintext files to sealed credentials. If anything fails, all is as it was before.",
		Flags:   o.flags, Least: 1, Most: 1, Run: o.run,
	}, options.Dialect{}, &o.device)
}

func (o *adopting) run(args []string) error {
	unit := policy.UnitName(args[0])
	if err := policy.CheckUnit(unit); err != nil {
		return report.Usage(err)
	}
	if o.undo {
		for _, name := range []string{"keep", "option", "with-key", "tpm2-pcrs"} {
			if o.flags.Changed(name) {
				return report.Usagef("adopt: --undo takes no --%s", name)
			}
		}
		return undoAdoption(unit, o.device.Name, o.dryRun)
	}
	if words := []string{policy.KeyAuto, policy.KeyHost, policy.KeyTPM2, policy.KeyHostTPM2}; !slices.Contains(words, o.key) {
		return report.Usagef("--with-key=%s: expected %s", o.key, strings.Join(words, ", "))
	}
	mask, err := sealing.ParsePCRs("tpm2-pcrs", o.pcrs)
	if err != nil {
		return err
	}
	m, err := manager.New(context.Background())
	if err != nil {
		return err
	}
	defer m.Close()
	a, err := newAdoption(m, unit, o.names, o.flags.Changed("option"), policy.Seal{Key: o.key, PCRs: credential.PCRs(mask)})
	if err != nil {
		return err
	}
	defer a.close()
	a.print(o.keep)
	if o.dryRun {
		return nil
	}
	return a.run(o.device.Name, o.keep)
}

// adoption is what is to be done, and what has been.
type adoption struct {
	adopted
	m           *manager.Manager
	planner     *delivery.Planner
	policy      *policy.Policy
	policyText  []byte
	wrotePolicy bool
	reloaded    bool // systemd may have the policy in force
}

// newAdoption finds out what there is to do. It changes nothing.
func newAdoption(m *manager.Manager, unit string, options []string, all bool, seal policy.Seal) (a *adoption, err error) {
	planner, err := delivery.NewPlanner("/")
	if err != nil {
		return nil, err
	}
	u, err := planner.Load(unit)
	if made, madeErr := planner.Made(unit); err != nil && madeErr == nil {
		err = fmt.Errorf("another generator makes %s; write a policy, see bootseal-generator(8)", made.Fragment)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotAdoptable, err)
	}
	a = &adoption{adopted: adopted{unit: u.Name}, m: m, planner: planner}
	if _, err := os.Lstat(a.path()); err == nil {
		return nil, fmt.Errorf("%s: %w", a.unit, errAdopted)
	}
	a.policy = &policy.Policy{Path: a.policyPath(), Unit: a.unit, Delivery: policy.Auto, Seal: seal}
	err = a.checkAdoptable()
	if err == nil {
		err = a.collectFiles(u, options, all)
	}
	if err == nil {
		a.policyText, err = a.policy.Text()
	}
	if err == nil {
		err = planner.PlanPolicy(a.policy).Err
	}
	if err != nil {
		a.close()
		return nil, fmt.Errorf("%s: %w: %w", a.unit, errNotAdoptable, err)
	}
	return a, nil
}

// checkAdoptable tells why the unit is in no state to be adopted.
func (a *adoption) checkAdoptable() error {
	if strings.HasSuffix(a.unit, "@.service") {
		return errors.New("it is a template; name one of its instances")
	}
	if files, err := covering([]string{a.unit}); err == nil {
		return fmt.Errorf(`it has a policy, %s; seal the secret with "bootseal encrypt --unit=%s NAME", then "bootseal apply %s"`, files[0].Path, a.unit, a.unit)
	}
	if state := a.m.State(a.unit); state != "active" {
		return fmt.Errorf("it is %s; only a unit that runs can show that its secret is the right one", state)
	}
	if a.m.Property(a.unit, "Unit", "NeedDaemonReload") != false {
		return errors.New(`its files have changed since systemd read them; "systemctl daemon-reload", and restart it first`)
	}
	return nil
}

// collectFiles finds the files that the options name, of which all have to be there, or one.
func (a *adoption) collectFiles(u *units.Unit, options []string, all bool) error {
	places, err := u.OptionFiles(options)
	if err != nil {
		return err
	}
	lacking := slices.DeleteFunc(slices.Clone(options), func(name string) bool {
		return slices.ContainsFunc(places, func(f units.OptionFile) bool { return f.Option == name })
	})
	if len(places) == 0 || all && len(lacking) > 0 {
		return fmt.Errorf("there is no %s in its ExecStart=; name the options that take a file with a secret with --option=, or write a policy, see bootseal.policy(5)", strings.Join(lacking, ", "))
	}
	for _, place := range places {
		if err := a.add(place); err != nil {
			return err
		}
	}
	return nil
}

// add takes a file that an option names among what is to be sealed.
func (a *adoption) add(place units.OptionFile) error {
	name := credentialName(a.unit, place.Option)
	c := adoptedSecret{Name: name, Blob: policy.CredentialStore + "/" + name, File: place.File}
	for _, name := range []string{c.Blob, "/etc/credstore/" + name} {
		if _, err := os.Lstat(name); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is there already; move it away", name)
		}
	}
	if i := slices.IndexFunc(a.Credentials, func(other adoptedSecret) bool { return other.File == c.File }); i >= 0 {
		c.plain = a.Credentials[i].plain
	} else {
		var err error
		if c.plain, err = openPlain(c.File); err != nil {
			return err
		}
	}
	c.UID, c.GID, c.Mode = c.plain.uid, c.plain.gid, fmt.Sprintf("%04o", c.plain.mode)
	a.Credentials = append(a.Credentials, c)
	a.policy.Credentials = append(a.policy.Credentials, policy.Credential{Name: c.Name, Source: c.Blob, Option: place.Option, Replaces: c.File})
	st, err := c.plain.file.Stat()
	if err == nil && st.ModTime().After(a.m.Started(a.unit)) {
		err = fmt.Errorf("%s was changed after the unit had started; restart it, to see that the secret is the right one", c.File)
	}
	return err
}

// credentialName is the unit's name, and what tells the option from others:
// step-ca-ssh-host for step-ca's --ssh-host-password-file.
func credentialName(unit, option string) string {
	name := strings.TrimSuffix(unit, ".service")
	which := strings.TrimSuffix(strings.TrimLeft(option, "-"), "-file")
	which = strings.TrimSuffix(strings.TrimSuffix(which, "password"), "-")
	if which != "" {
		name += "-" + which
	}
	return name
}

// print shows what is going to be done.
func (a *adoption) print(keep bool) {
	fmt.Printf("Plan for %s:\n", a.unit)
	for i, c := range a.Credentials {
		fmt.Printf("  seal %s, which %s names, to %s\n", c.File, a.policy.Credentials[i].Option, c.Blob)
	}
	fmt.Printf("  write %s\n", a.policy.Path)
	for _, line := range strings.Split(strings.TrimSpace(string(a.policyText)), "\n") {
		fmt.Println(strings.TrimRight("      "+line, " "))
	}
	fmt.Printf("  reload systemd, restart %s and see that it stays up\n", a.unit)
	for _, f := range a.files() {
		if keep {
			fmt.Printf("  keep %s\n", f.path)
		} else {
			fmt.Printf("  remove %s\n", f.path)
		}
	}
}

// run seals before it changes anything, and puts all back where something fails
// after that. It cannot be interrupted; where it is killed, undoing works.
func (a *adoption) run(device string, keep bool) error {
	if err := a.seal(device); err != nil {
		return err
	}
	uninterrupted()
	if err := a.write(); err != nil {
		return err
	}
	if err := a.forward(device, keep); err != nil {
		return a.putBack(err)
	}
	fmt.Println("Keep a copy of each secret off this machine: once the TPM is cleared or replaced, a PCR that it is sealed to changes, or the disk is lost, it cannot be opened any more. These print them:")
	for _, c := range a.Credentials {
		fmt.Printf("  bootseal decrypt %s\n", c.Blob)
	}
	fmt.Printf("The way back is \"bootseal adopt --undo %s\".\n", a.unit)
	return nil
}

// seal makes the blobs, and opens them for a proof.
func (a *adoption) seal(device string) error {
	var err error
	for _, f := range a.files() {
		if f.content, err = f.read(); err != nil {
			return err
		}
	}
	for i := range a.Credentials {
		c := &a.Credentials[i]
		plain := &encryption.Plaintext{Name: c.Name, Timestamp: uint64(time.Now().UnixMicro()), NotAfter: encryption.Infinity, Payload: c.plain.content}
		text, t, err := sealing.Sealer{Device: device}.SealFor(a.policy, c.Blob, plain)
		if err != nil {
			return err
		}
		c.text, c.kind = text, sealKind(a.policy, t)
	}
	return nil
}

// write writes the record of what is going to be done.
func (a *adoption) write() error {
	text, err := json.MarshalIndent(a.adopted, "", "  ")
	if err != nil {
		return err
	}
	if err := atomicfile.MakeFolder(policy.Dirs[0], 0o755); err != nil {
		return err
	}
	return atomicfile.Create(a.path(), append(text, '\n'), 0o600)
}

func (a *adoption) forward(device string, keep bool) error {
	for i := range a.Credentials {
		c := &a.Credentials[i]
		if err := sealing.MakeStore(c.Blob); err != nil {
			return err
		}
		err := atomicfile.Create(c.Blob, c.text, 0o600)
		c.made = !errors.Is(err, fs.ErrExist)
		if err == nil {
			err = verify(c.Blob, c.text)
		}
		if err != nil {
			return err
		}
		sealing.NotePCRs(device, c.Blob, c.text)
		fmt.Printf("%s: sealed, %s, and opens\n", c.Blob, c.kind)
	}
	err := atomicfile.Create(a.policyPath(), a.policyText, 0o644)
	a.wrotePolicy = !errors.Is(err, fs.ErrExist)
	if err != nil {
		return err
	}
	fmt.Printf("%s: written\n", a.policyPath())
	// The delivery may depend on what the blobs are.
	plan := a.planner.Plan(policy.File{Unit: a.unit, Path: a.policyPath()})
	if plan.Err != nil {
		return plan.Err
	}
	a.reloaded = true
	if err := a.m.Reload(); err != nil {
		return err
	}
	if !inForce(plan) {
		return fmt.Errorf(`%s: the generator did not put the policy into force; see "journalctl -b -t bootseal-generator"`, a.unit)
	}
	if err := a.m.Restart(a.unit); err != nil {
		return because(a.m, a.unit, err)
	}
	fmt.Printf("%s: restarted with the sealed secret, and stays up\n", a.unit)
	if keep {
		return nil
	}
	for _, f := range a.files() {
		if err := f.remove(); err != nil {
			return err
		}
		fmt.Printf("%s: removed\n", f.path)
	}
	return nil
}

// because adds why a unit did not start, if that can be told. Where it has only just
// ended, its last words may still be on their way.
func because(m *manager.Manager, unit string, err error) error {
	m.AwaitEnd(unit)
	if cause := explain.Cause(unit); cause != "" {
		return fmt.Errorf("%w: %s", err, cause)
	}
	return err
}

// putBack makes all as it was before. The blobs go only once the plaintext is back.
func (a *adoption) putBack(cause error) error {
	for _, f := range a.files() {
		if !f.removed {
			continue
		}
		if _, err := f.restore(); err != nil {
			return errors.Join(cause, fmt.Errorf("putting back %s, which is sealed in %s: %w", f.path, a.policyPath(), err))
		}
	}
	var errs []error
	if a.wrotePolicy {
		errs = append(errs, removed(a.policyPath()))
	}
	if a.reloaded {
		errs = append(errs, a.m.Reload())
		// Until its restart the unit runs with the secret that it has.
		if err := a.m.Restart(a.unit); err != nil {
			errs = append(errs, because(a.m, a.unit, err))
		}
	}
	for _, c := range a.Credentials {
		if c.made {
			errs = append(errs, removed(c.Blob))
		}
	}
	errs = append(errs, removed(a.path()))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("%w; putting all back: %w", cause, err)
	}
	return fmt.Errorf("%w; %w", cause, errPutBack)
}

// removed removes a file that may be gone already, or never have been made.
func removed(file string) error {
	err := os.Remove(file)
	if _, gone := os.Lstat(file); errors.Is(gone, fs.ErrNotExist) {
		return nil
	}
	return err
}
