// Package options has the options that several verbs take, in groups. A verb is made
// of the groups that mean something to it.
package options

import (
	"os"

	"github.com/spf13/pflag"

	"github.com/bootseal/bootseal/internal/cli"
)

// A Dialect is whose command line it is.
type Dialect struct {
	// SystemdCreds says that it is that of systemd-creds(1) 262: every verb takes
	// all options, and options that mean nothing together are taken.
	SystemdCreds bool
}

// A Group is options with the values that they set.
type Group interface {
	Define(f *pflag.FlagSet)
	// check looks at the values once all are set, and turns words that mean the
	// same into one.
	Check(f *pflag.FlagSet, d Dialect) error
}

// asker is a group one of whose options can ask what its values can be.
type Asker interface {
	Ask(d Dialect, legend bool) (answered bool, err error)
}

// Bind gives a verb the options of the groups, which are checked before it runs.
func Bind(v *cli.Verb, d Dialect, groups ...Group) *cli.Verb {
	for _, g := range groups {
		g.Define(v.Flags)
	}
	if d.SystemdCreds {
		for _, other := range all() {
			flags, added := cli.NewFlags(""), false
			other.Define(flags)
			flags.VisitAll(func(flag *pflag.Flag) {
				if v.Flags.Lookup(flag.Name) == nil {
					v.Flags.AddFlag(flag)
					added = true
				}
			})
			if added {
				groups = append(groups, other)
			}
		}
	}
	v.Ask = func() (bool, error) {
		for _, g := range groups {
			if a, ok := g.(Asker); ok {
				if answered, err := a.Ask(d, !v.Flags.Changed("no-legend")); answered || err != nil {
					return answered, err
				}
			}
		}
		return false, nil
	}
	run := v.Run
	v.Run = func(args []string) error {
		for _, g := range groups {
			if err := g.Check(v.Flags, d); err != nil {
				return err
			}
		}
		return run(args)
	}
	return v
}

// all are the groups of systemd-creds(1).
func all() []Group {
	return []Group{&Name{}, &Key{}, &Device{}, &Signature{}, &Times{}, &Rows{}, &Output{}, &Null{}, &Scope{}, &Pretty{}, &System{}, &Quiet{}, &Batch{}}
}

// Validates tells whether a part of a credential is to be checked, which the
// environment of systemd-creds can say.
func (d Dialect) Validates(part string) bool {
	yes, set := boolean(os.Getenv("SYSTEMD_CREDENTIAL_VALIDATE_" + part))
	return yes || !set || !d.SystemdCreds
}
