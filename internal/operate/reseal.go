package operate

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bootseal/bootseal/internal/cli"
	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/internal/options"
	"github.com/bootseal/bootseal/internal/sealing"
	"github.com/bootseal/bootseal/policy"
)

// resealing seals credentials again, as their policies say now.
type resealing struct {
	options.Successor
	refuseNull bool
}

func resealVerb() *cli.Verb {
	o := &resealing{}
	v := &cli.Verb{
		Name: "reseal", Forms: cli.Takes("[UNIT...|FILE...]", "Seal again, as the policies say now"),
		Flags: cli.NewFlags("reseal"), Most: cli.Unlimited, Run: o.run,
	}
	v.Flags.BoolVar(&o.refuseNull, "refuse-null", false, "Do not seal again what has the null key")
	return options.Bind(v, options.Dialect{}, &o.Successor)
}

func (o *resealing) run(args []string) error {
	targets, err := resealTargets(args)
	if err != nil {
		return err
	}
	var all []*replacement
	for _, t := range targets {
		r, err := o.one(t.policy, t.credential)
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
		sealing.NotePCRs(o.Device.Name, r.file, r.new)
		if err := r.finish(); err != nil {
			return err
		}
	}
	return nil
}

type resealTarget struct {
	policy     *policy.Policy
	credential policy.Credential
}

// resealTargets finds the credentials of units, and those that are in a file.
func resealTargets(names []string) ([]resealTarget, error) {
	files, err := covering(nil)
	if err != nil {
		return nil, err
	}
	var all []resealTarget
	for _, file := range files {
		if file.Masked {
			continue
		}
		p, err := policy.Load("/", file)
		if err != nil && len(names) > 0 && !slices.ContainsFunc(names, func(name string) bool { return policy.UnitName(name) == file.Unit }) {
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
		unit := policy.UnitName(name)
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
func (o *resealing) one(p *policy.Policy, c policy.Credential) (*replacement, error) {
	r, err := newReplacement(c.Source)
	if err != nil {
		return nil, err
	}
	s, err := sealing.Parse(r.old, c.Source, c.Name)
	if err != nil {
		return nil, err
	}
	if s.Blob.Type == credential.TypeNull && p.Seal.Key != policy.KeyNull {
		return nil, fmt.Errorf("%s: %w; the policy %s has key = %q; if the secret is yours, encrypt it with \"bootseal encrypt --unit=%s %s\"", c.Source, sealing.ErrNullKey, p.Path, p.Seal.Key, p.Unit, c.Name)
	}
	null := sealing.NullAccepted
	if o.refuseNull {
		null = sealing.NullRefused
	}
	opened, err := sealing.ForAnyScope(o.Device.Name, o.File, null).Open([]*sealing.File{s})
	if err != nil {
		return nil, err
	}
	defer sealing.Wipe(opened)
	plain := o.Plaintext(c.Name, opened[0].Payload)
	if !o.Given {
		plain.NotAfter = opened[0].NotAfter
	}
	return r, r.seal(o.Sealer(), p, plain, s.Blob)
}
