// Package cli reads command lines for verbs, each with options of its own, from
// which its help is made. It knows of no verb.
package cli

import (
	"errors"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/bootseal/bootseal/internal/report"
)

// A Verb is the first argument that is no option, and what belongs to it.
type Verb struct {
	Name    string
	Forms   []Form
	Details string // what there is to say beyond the forms, for its own help
	// InUnits says that unit files run it, so that it is none for a prompt.
	InUnits bool
	// Raw says that its arguments are no options, whatever they look like.
	Raw         bool
	Flags       *pflag.FlagSet
	Least, Most int // arguments
	// Ask answers an option that asks what its values can be; nil is no such option.
	Ask func() (answered bool, err error)
	// Run gets the arguments without options. All options have been set.
	Run func(args []string) error
	// Failed turns every error of the verb, also a wrong usage, into what is
	// reported; nil leaves it as it is.
	Failed func(error) error
}

// A Form is what arguments a verb takes, as in "UNIT NAME [INPUT]", and what it does
// with them, in half a line.
type Form struct{ Arguments, Summary string }

// Takes is the only form of a verb.
func Takes(arguments, summary string) []Form { return []Form{{arguments, summary}} }

// Unlimited is for a verb that takes any number of arguments.
const Unlimited = 1 << 20

// NewFlags makes an empty set of options.
func NewFlags(verb string) *pflag.FlagSet {
	f := pflag.NewFlagSet(verb, pflag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.SortFlags = false
	f.Usage = func() {}
	return f
}

// Refuse gives a verb options of others that it does not take, to say why. A name with
// one letter is written "p/pretty".
func Refuse(f *pflag.FlagSet, why string, names ...string) {
	for _, name := range names {
		letter, long, both := strings.Cut(name, "/")
		if !both {
			letter, long = "", name
		}
		f.AddFlag(&pflag.Flag{Name: long, Shorthand: letter, Value: refused{errors.New(why)}, NoOptDefVal: noArgument, Hidden: true})
	}
}

// refused is an option of another verb, and why it is none of this one.
type refused struct{ error }

func (r refused) Set(string) error { return r }
func (r refused) String() string   { return "" }
func (r refused) Type() string     { return "" }

// onlyGiven is an option that takes no argument. With one, pflag would let
// --user=NAME be --user, and --allow-null=no be --allow-null.
type onlyGiven struct{ pflag.Value }

const noArgument = "\x00" // can be no part of the command line

func (v onlyGiven) Set(argument string) error {
	if argument != noArgument {
		return errors.New("it takes no argument")
	}
	return v.Value.Set("true")
}

// strict keeps options that take no argument from taking one.
func strict(f *pflag.FlagSet) {
	f.VisitAll(func(flag *pflag.Flag) {
		if flag.NoOptDefVal == "true" {
			flag.Value, flag.NoOptDefVal = onlyGiven{flag.Value}, noArgument
		}
	})
}

// Program is a set of verbs under one name.
type Program struct {
	Name    string
	Version string
	Help    func(io.Writer) error // of all verbs
	Default string                // the verb where none is given; "" is none
	// Abbreviated says that long options may be cut short, as getopt_long(3) has it.
	Abbreviated bool
	// Verbs makes them, with options that have not been set.
	Verbs func() []*Verb
}

// Run finds the verb, before, between or after the options, and runs it.
func (p *Program) Run(args []string) error {
	// Which words are options' arguments only the options of all verbs tell.
	any := NewFlags(p.Name)
	help := any.BoolP("help", "h", false, "")
	version := any.Bool("version", false, "")
	for _, v := range p.Verbs() {
		v.Flags.VisitAll(func(flag *pflag.Flag) {
			if _, not := flag.Value.(refused); !not && any.Lookup(flag.Name) == nil {
				any.AddFlag(&pflag.Flag{Name: flag.Name, Shorthand: flag.Shorthand, Value: ignored{}, NoOptDefVal: flag.NoOptDefVal})
			}
		})
	}
	any.SetInterspersed(false)
	if p.Abbreviated {
		args = unabbreviated(any, args)
	}
	if err := any.Parse(args); err != nil {
		return report.Usagef("%w", err)
	}
	before, rest := args[:len(args)-any.NArg()], any.Args()
	switch {
	case *help:
		return p.Help(os.Stdout)
	case *version:
		return p.printVersion()
	case len(rest) > 0 && rest[0] == "help":
		return p.help(rest[1:])
	case len(rest) == 0:
		if answered, err := p.ask(before); answered || err != nil {
			return err
		}
		if p.Default == "" {
			return report.Usagef("no verb given")
		}
		rest = []string{p.Default}
	}
	v := p.find(rest[0], rest[1:])
	if v == nil {
		return report.Usagef("unknown verb %q", rest[0])
	}
	err := p.run(v, append(slices.Clone(before), rest[1:]...))
	if err != nil && v.Failed != nil {
		err = v.Failed(err)
	}
	return err
}

func (p *Program) printVersion() error {
	_, err := io.WriteString(os.Stdout, p.Version+"\n")
	return err
}

// ignored stands for an option whose verb is not known yet.
type ignored struct{}

func (ignored) Set(string) error { return nil }
func (ignored) String() string   { return "" }
func (ignored) Type() string     { return "" }

// find returns a new verb of that name. Unit files may run another one than is for
// a prompt: theirs begins with --unit=.
func (p *Program) find(name string, args []string) *Verb {
	inUnit := len(args) > 0 && strings.HasPrefix(args[0], "--unit=")
	var found *Verb
	for _, v := range p.Verbs() {
		if v.Name == name && (found == nil || v.InUnits == inUnit) {
			found = v
		}
	}
	return found
}

// ask has a question answered that needs no verb, as --tpm2-device=list.
func (p *Program) ask(args []string) (answered bool, err error) {
	for _, v := range p.Verbs() {
		if v.Ask == nil || v.Flags.Parse(args) != nil {
			continue
		}
		if answered, err = v.Ask(); answered || err != nil {
			return answered, err
		}
	}
	return false, nil
}

func (p *Program) run(v *Verb, args []string) error {
	if v.Raw {
		if len(args) == 1 && (args[0] == "--help" || args[0] == "-h") {
			return WriteHelp(os.Stdout, p.Name, v)
		}
		return v.Run(args)
	}
	version := v.Flags.Bool("version", false, "")
	v.Flags.Lookup("version").Hidden = true
	strict(v.Flags)
	var not refused
	switch err := v.Flags.Parse(args); {
	case errors.Is(err, pflag.ErrHelp):
		return WriteHelp(os.Stdout, p.Name, v)
	case errors.As(err, &not):
		return report.Usagef("%s: %w", v.Name, not.error)
	case err != nil:
		return report.Usagef("%s: %w", v.Name, err)
	case *version:
		return p.printVersion()
	}
	if v.Ask != nil {
		if answered, err := v.Ask(); answered || err != nil {
			return err
		}
	}
	switch args = v.Flags.Args(); {
	case v.Least == 1 && v.Most == 1 && len(args) != 1:
		return report.Usagef("%s: expected one %s", v.Name, v.arguments())
	case len(args) < v.Least:
		return report.Usagef("%s: too few arguments; expected %s", v.Name, v.arguments())
	case len(args) > v.Most:
		return report.Usagef("%s: too many arguments; expected %s", v.Name, v.arguments())
	}
	return v.Run(args)
}

func (v *Verb) arguments() string {
	var all []string
	for _, form := range v.Forms {
		all = append(all, strings.ReplaceAll(form.Arguments, "|", " or "))
	}
	if all = slices.DeleteFunc(all, func(a string) bool { return a == "" }); len(all) == 0 {
		return "none"
	}
	return strings.Join(all, " or ")
}

func (p *Program) help(names []string) error {
	if len(names) == 0 {
		return p.Help(os.Stdout)
	}
	v := p.find(names[0], nil)
	if v == nil {
		return report.Usagef("unknown verb %q", names[0])
	}
	return WriteHelp(os.Stdout, p.Name, v)
}

// unabbreviated writes out long options of which only the beginning is there.
func unabbreviated(f *pflag.FlagSet, args []string) []string {
	all := slices.Clone(args)
	for i, arg := range all {
		if arg == "--" {
			break
		}
		beginning, isLong := strings.CutPrefix(arg, "--")
		beginning, value, hasValue := strings.Cut(beginning, "=")
		if !isLong || f.Lookup(beginning) != nil {
			continue
		}
		var fitting []string
		f.VisitAll(func(flag *pflag.Flag) {
			if strings.HasPrefix(flag.Name, beginning) {
				fitting = append(fitting, flag.Name)
			}
		})
		if len(fitting) == 1 {
			all[i] = "--" + fitting[0]
			if hasValue {
				all[i] += "=" + value
			}
		}
	}
	return all
}
