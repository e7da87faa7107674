package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bootseal/bootseal/internal/atomicfile"
	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/internal/encryption"
	"github.com/bootseal/bootseal/internal/root"
	"github.com/bootseal/bootseal/policy"
)

var (
	// errWeaker says that sealing again would bind to less than before.
	errWeaker = errors.New("not sealed again: it would be weaker")
	// errUnproven says that a new blob does not open to what was sealed.
	errUnproven = errors.New("the new credential does not hold what was sealed")
	// errBrokenOff says that the old credential of an earlier run is still there.
	errBrokenOff = errors.New("an earlier run was broken off")
	// errRolledBack says that all is as before.
	errRolledBack = errors.New("the old credential is back in its place")
)

// oldSuffix is added to the name of a blob until the new one has proven itself.
const oldSuffix = ".bootseal-old"

// replacement is a blob that takes another's place.
type replacement struct {
	file     string
	old, new []byte // as they stand in the file
	kind     string // for the user
}

// apply puts the new blob into the file, and the old one beside it.
func (r *replacement) apply() error {
	if err := atomicfile.Write(r.file+oldSuffix, r.old, 0o600); err != nil {
		return err
	}
	return errors.Join(atomicfile.Write(r.file, r.new, 0o600), verify(r.file, r.new))
}

// verify makes sure that what has been proven is what stands in the file.
func verify(file string, text []byte) error {
	found, err := root.Dir("/").ReadFile(file, credential.MaxText)
	if err != nil {
		return err
	}
	if !bytes.Equal(found, text) {
		return fmt.Errorf("%s: %w", file, errUnproven)
	}
	return nil
}

// undo puts the old blob back. Where that fails it is still kept beside it.
func (r *replacement) undo() error {
	if err := atomicfile.Write(r.file, r.old, 0o600); err != nil {
		return err
	}
	return r.finish()
}

// finish removes the old blob.
func (r *replacement) finish() error {
	if err := os.Remove(r.file + oldSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// newReplacement reads the blob of a credential.
func newReplacement(file string) (*replacement, error) {
	if _, err := os.Lstat(file + oldSuffix); err == nil {
		return nil, fmt.Errorf("%s: %w: %s is what was there before it; move it back, or remove it", file, errBrokenOff, file+oldSuffix)
	}
	text, err := root.Dir("/").ReadFile(file, credential.MaxText)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", file, errNoBlob)
	}
	return &replacement{file: file, old: text}, err
}

// seal makes the new blob as the policy's [seal] says.
func (r *replacement) seal(o *options, p *policy.Policy, plain *encryption.Plaintext, old *credential.Blob) error {
	text, t, err := o.sealFor(p, r.file, plain)
	if err != nil {
		return err
	}
	lost := old.Type.Parts() &^ t.Parts()
	if lost&(credential.PartPublicKey|credential.PartScope) != 0 || p.Seal.Key == policy.KeyAuto && lost&(credential.PartHost|credential.PartTPM2) != 0 {
		return fmt.Errorf("%s: %w: from %s to %s", r.file, errWeaker, old.Type, t)
	}
	r.new, r.kind = text, sealKind(p, t)
	return nil
}

// sealFor makes the text of a blob as the policy's [seal] says, and opens it for a
// proof. The file is where it is to go.
func (o *options) sealFor(p *policy.Policy, file string, plain *encryption.Plaintext) ([]byte, credential.Type, error) {
	data, err := o.sealPlaintext(p.Seal.Key, p.Seal.Mask(), plain)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", file, err)
	}
	text := credential.EncodeText(data)
	s, err := parseSealed(text, file, plain.Name)
	if err != nil {
		return nil, 0, err
	}
	opened, err := opening{device: o.device, signature: o.signature, allowNull: p.Seal.Key == policy.KeyNull, now: time.Now()}.open([]*sealed{s})
	if err != nil {
		return nil, 0, err
	}
	defer wipe(opened)
	if !bytes.Equal(opened[0].Payload, plain.Payload) {
		return nil, 0, fmt.Errorf("%s: %w", file, errUnproven)
	}
	return text, s.blob.Type, nil
}

// sealKind says what a blob is sealed with.
func sealKind(p *policy.Policy, t credential.Type) string {
	if len(p.Seal.PCRs) > 0 {
		return fmt.Sprintf("%s, PCR %s", t, joinPCRs(p.Seal.PCRs))
	}
	return t.String()
}

// reseal seals credentials again, as their policies say now.
func reseal(args []string) error {
	const most = 1 << 16
	o, err := parse("reseal", args, 0, most)
	if err != nil {
		return err
	}
	if o.sealGiven || o.unitGiven {
		return usagef("reseal: key, PCRs and name are the policy's")
	}
	if o.allowNull {
		return usagef("reseal: whether the null key is accepted is the policy's, as key = \"null\"")
	}
	targets, err := resealTargets(o.arguments)
	if err != nil {
		return err
	}
	var all []*replacement
	for _, t := range targets {
		r, err := o.resealOne(t.policy, t.credential)
		if err != nil {
			return err
		}
		all = append(all, r)
	}
	if err := replaceAll(all); err != nil {
		return err
	}
	for _, r := range all {
		fmt.Printf("%s: sealed again, %s\n", r.file, r.kind)
		o.notePCRs(r.file, r.new)
		if err := r.finish(); err != nil {
			return err
		}
	}
	return nil
}

// uninterrupted keeps this process from ending half-way, also where nobody reads
// any more what it prints.
func uninterrupted() { signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGPIPE) }

// replaceAll puts all new blobs in place, or none. It cannot be interrupted.
func replaceAll(all []*replacement) error {
	uninterrupted()
	for i, r := range all {
		if err := r.apply(); err != nil {
			return errors.Join(fmt.Errorf("%s: %w", r.file, err), undoAll(all[:i+1]))
		}
	}
	return nil
}

func undoAll(all []*replacement) error {
	var errs []error
	for _, r := range all {
		errs = append(errs, r.undo())
	}
	return errors.Join(errs...)
}

type resealTarget struct {
	policy     *policy.Policy
	credential policy.Credential
}

// resealTargets finds the credentials of units, and those that are in a file.
func resealTargets(names []string) ([]resealTarget, error) {
	files, err := covered(root.Dir("/"), nil)
	if err != nil {
		return nil, err
	}
	var all []resealTarget
	for _, file := range files {
		if file.Masked {
			continue
		}
		p, err := policy.Load("/", file)
		if err != nil && len(names) > 0 && !slices.ContainsFunc(names, func(name string) bool { return unitName(name) == file.Unit }) {
			continue // another unit's
		}
		if err != nil {
			return nil, err
		}
		for _, c := range p.Credentials {
			all = append(all, resealTarget{p, c})
		}
	}
	if len(names) == 0 {
		return all, nil
	}
	var chosen []resealTarget
	for _, name := range names {
		unit := unitName(name)
		matches := func(t resealTarget) bool { return t.policy.Unit == unit || t.policy.Unit == policy.Template(unit) }
		if strings.Contains(name, "/") {
			path, err := filepath.Abs(name)
			if err != nil {
				return nil, err
			}
			matches = func(t resealTarget) bool { return t.credential.Source == path }
		}
		found := false
		for _, t := range all {
			if !matches(t) {
				continue
			}
			found = true
			if !slices.ContainsFunc(chosen, func(other resealTarget) bool { return other.credential.Source == t.credential.Source }) {
				chosen = append(chosen, t)
			}
		}
		if !found {
			return nil, fmt.Errorf("%s: %w names it", name, policy.ErrNoPolicy)
		}
	}
	return chosen, nil
}

// resealOne makes the new blob of a credential from the old one. Everybody can
// seal with the null key: under another policy, sealing again would vouch for a
// secret that came from anywhere.
func (o *options) resealOne(p *policy.Policy, c policy.Credential) (*replacement, error) {
	r, err := newReplacement(c.Source)
	if err != nil {
		return nil, err
	}
	s, err := parseSealed(r.old, c.Source, c.Name)
	if err != nil {
		return nil, err
	}
	if s.blob.Type == credential.TypeNull && p.Seal.Key != policy.KeyNull {
		return nil, fmt.Errorf("%s: %w; the policy %s has key = %q; if the secret is yours, encrypt it with \"bootseal encrypt --unit=%s %s\"", c.Source, errNullKey, p.Path, p.Seal.Key, p.Unit, c.Name)
	}
	now := time.Now()
	opened, err := opening{device: o.device, signature: o.signature, anyScope: true, allowNull: !o.refuseNull, refuseNull: o.refuseNull, now: now}.open([]*sealed{s})
	if err != nil {
		return nil, err
	}
	defer wipe(opened)
	timestamp, notAfter, err := o.times(now)
	if err != nil {
		return nil, err
	}
	if o.notAfter == "" {
		notAfter = opened[0].NotAfter
	}
	plain := &encryption.Plaintext{Name: c.Name, Timestamp: timestamp, NotAfter: notAfter, Payload: opened[0].Payload}
	return r, r.seal(o, p, plain, s.blob)
}

// rotate gives a unit a new secret, and takes it back where the unit does not
// stay up with it.
func rotate(args []string) error {
	o, err := parse("rotate", args, 2, 3)
	if err != nil {
		return err
	}
	if o.sealGiven || o.unitGiven {
		return usagef("rotate: key, PCRs and name are the policy's")
	}
	files, err := covered(root.Dir("/"), o.arguments[:1])
	if err != nil {
		return err
	}
	p, err := policy.ForUnit("/", unitName(o.arguments[0]))
	if err != nil {
		return err
	}
	i := slices.IndexFunc(p.Credentials, func(c policy.Credential) bool { return c.Name == o.arguments[1] })
	if i < 0 {
		return usagef("%s has no credential %q", p.Path, o.arguments[1])
	}
	input := "-"
	if len(o.arguments) > 2 {
		input = o.arguments[2]
	}
	r, err := o.rotation(p, p.Credentials[i], input)
	if err != nil {
		return err
	}
	m, err := newManager(context.Background())
	if err != nil {
		return err
	}
	defer m.close()
	all, _ := policy.Find("/")
	names, err := m.loaded(files[0], all)
	if err != nil {
		return err
	}
	names = slices.DeleteFunc(names, func(name string) bool { return m.state(name) != "active" })
	if err := replaceAll([]*replacement{r}); err != nil {
		return err
	}
	o.notePCRs(r.file, r.new)
	// How it is delivered may depend on what it is sealed with now.
	if err := m.reload(); err != nil {
		return m.rollBack(r, nil, err)
	}
	for i, name := range names {
		if err := m.restart(name); err != nil {
			return m.rollBack(r, names[:i+1], err)
		}
		fmt.Printf("%s: restarted with the new secret\n", name)
	}
	if len(names) == 0 {
		fmt.Printf("%s: does not run; it gets the new secret at its next start\n", unitName(o.arguments[0]))
	}
	return r.finish()
}

// rotation makes the new blob from a new secret.
func (o *options) rotation(p *policy.Policy, c policy.Credential, input string) (*replacement, error) {
	r, err := newReplacement(c.Source)
	if err != nil {
		return nil, err
	}
	old, err := parseSealed(r.old, c.Source, c.Name)
	if err != nil {
		return nil, err
	}
	timestamp, notAfter, err := o.times(time.Now())
	if err != nil {
		return nil, err
	}
	payload, err := readInput(input, credential.MaxPayload)
	if err != nil {
		return nil, err
	}
	defer clear(payload)
	return r, r.seal(o, p, &encryption.Plaintext{Name: c.Name, Timestamp: timestamp, NotAfter: notAfter, Payload: payload}, old.blob)
}

// rollBack puts the old blob back and starts the units with it again.
func (m *manager) rollBack(r *replacement, names []string, cause error) error {
	if err := r.undo(); err != nil {
		return errors.Join(cause, fmt.Errorf("putting back %s, which is kept as %s: %w", r.file, r.file+oldSuffix, err))
	}
	errs := []error{fmt.Errorf("%w; %w", cause, errRolledBack), m.reload()}
	for _, name := range names {
		errs = append(errs, m.restart(name))
	}
	return errors.Join(errs...)
}
