package operate

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/bootseal/bootseal/internal/cli"
	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/internal/failure"
	"github.com/bootseal/bootseal/internal/manager"
	"github.com/bootseal/bootseal/internal/options"
	"github.com/bootseal/bootseal/internal/report"
	"github.com/bootseal/bootseal/internal/sealing"
	"github.com/bootseal/bootseal/internal/stdio"
	"github.com/bootseal/bootseal/policy"
)

// errRolledBack says that all is as before.
var errRolledBack = failure.Other.New("the old credential is back in its place", "the service did not like the new secret; \"bootseal explain\" may know why")

// rotating gives a unit a new secret, and takes it back where the unit does not
// stay up with it.
type rotating struct{ options.Successor }

func rotateVerb() *cli.Verb {
	o := &rotating{}
	return options.Bind(&cli.Verb{
		Name: "rotate", Forms: cli.Takes("UNIT NAME [INPUT]", "Seal a new secret and restart the unit"),
		Details: "If it does not stay up, the old secret comes back.",
		Flags:   cli.NewFlags("rotate"), Least: 2, Most: 3, Run: o.run,
	}, options.Dialect{}, &o.Successor)
}

func (o *rotating) run(args []string) error {
	files, err := covering(args[:1])
	if err != nil {
		return err
	}
	p, err := policy.ForUnit("/", policy.UnitName(args[0]))
	if err != nil {
		return err
	}
	i := slices.IndexFunc(p.Credentials, func(c policy.Credential) bool { return c.Name == args[1] })
	if i < 0 {
		return report.Usagef("%s has no credential %q", p.Path, args[1])
	}
	input := "-"
	if len(args) > 2 {
		input = args[2]
	}
	r, err := o.rotation(p, p.Credentials[i], input)
	if err != nil {
		return err
	}
	m, err := manager.New(context.Background())
	if err != nil {
		return err
	}
	defer m.Close()
	all, _ := policy.Find("/")
	names, err := m.Loaded(files[0], all)
	if err != nil {
		return err
	}
	names = slices.DeleteFunc(names, func(name string) bool { return m.State(name) != "active" })
	if err := replaceAll([]*replacement{r}); err != nil {
		return err
	}
	sealing.NotePCRs(o.Device.Name, r.file, r.new)
	// How it is delivered may depend on what it is sealed with now.
	if err := m.Reload(); err != nil {
		return rollBack(m, r, nil, err)
	}
	for i, name := range names {
		if err := m.Restart(name); err != nil {
			return rollBack(m, r, names[:i+1], err)
		}
		fmt.Printf("%s: restarted with the new secret\n", name)
	}
	if len(names) == 0 {
		fmt.Printf("%s: does not run; it gets the new secret at its next start\n", policy.UnitName(args[0]))
	}
	return r.finish()
}

// rotation makes the new blob from a new secret.
func (o *rotating) rotation(p *policy.Policy, c policy.Credential, input string) (*replacement, error) {
	r, err := newReplacement(c.Source)
	if err != nil {
		return nil, err
	}
	old, err := sealing.Parse(r.old, c.Source, c.Name)
	if err != nil {
		return nil, err
	}
	payload, err := stdio.Read(input, credential.MaxPayload)
	if err != nil {
		return nil, err
	}
	defer clear(payload)
	return r, r.seal(o.Sealer(), p, o.Plaintext(c.Name, payload), old.Blob)
}

// rollBack puts the old blob back and starts the units with it again.
func rollBack(m *manager.Manager, r *replacement, names []string, cause error) error {
	if err := r.undo(); err != nil {
		return errors.Join(cause, fmt.Errorf("putting back %s, which is kept as %s: %w", r.file, r.file+oldSuffix, err))
	}
	errs := []error{fmt.Errorf("%w; %w", cause, errRolledBack), m.Reload()}
	for _, name := range names {
		errs = append(errs, m.Restart(name))
	}
	return errors.Join(errs...)
}
