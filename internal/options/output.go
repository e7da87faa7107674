package options

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/bootseal/bootseal/internal/report"
	"github.com/bootseal/bootseal/internal/table"
)

// JSONOff is the word of --json= for plain output.
const JSONOff = "off"

// Pretty is --pretty.
type Pretty struct{ On bool }

func (o *Pretty) Define(f *pflag.FlagSet) {
	f.BoolVarP(&o.On, "pretty", "p", false, "Encrypt to a SetCredentialEncrypted= setting")
}

func (o *Pretty) Check(*pflag.FlagSet, Dialect) error { return nil }

// System is --system.
type System struct{ On bool }

func (o *System) Define(f *pflag.FlagSet) {
	f.BoolVar(&o.On, "system", false, "Those that were passed to the machine")
}

func (o *System) Check(*pflag.FlagSet, Dialect) error { return nil }

// Quiet is --quiet.
type Quiet struct{ On bool }

func (o *Quiet) Define(f *pflag.FlagSet) {
	f.BoolVarP(&o.On, "quiet", "q", false, "Only the exit status")
}

func (o *Quiet) Check(*pflag.FlagSet, Dialect) error { return nil }

// Batch is what scripts give systemd's commands: here is neither pager nor question.
type Batch struct{}

func (o *Batch) Define(f *pflag.FlagSet) {
	f.Bool("no-pager", false, "Accepted; there is no pager")
	f.Bool("no-ask-password", false, "Accepted; there is no question")
}

func (o *Batch) Check(*pflag.FlagSet, Dialect) error { return nil }

// The words that --transcode= and --json= take; the first of --transcode= does nothing.
var (
	Transcodings = []string{"off", "base64", "unbase64", "hex", "unhex"}
	jsonForms    = []string{"pretty", "short", JSONOff}
)

// Output is how plaintext is printed.
type Output struct{ Newline, Transcode, JSON string }

func (o *Output) Define(f *pflag.FlagSet) {
	f.StringVar(&o.Newline, "newline", "auto", "End plaintext with a newline: `auto|yes|no` (auto: on a terminal)")
	f.StringVar(&o.Transcode, "transcode", Transcodings[0], "Print plaintext in another encoding, or decode it: `base64|unbase64|hex|unhex`")
	f.StringVar(&o.JSON, "json", JSONOff, "Print plaintext that is JSON on one line or indented: `short|pretty|off`")
}

func (o *Output) Ask(d Dialect, legend bool) (bool, error) {
	return o.Transcode == "help" && words(d, legend, "Supported transcode types:", Transcodings) ||
		o.JSON == "help" && words(d, false, "", jsonForms), nil
}

func (o *Output) Check(*pflag.FlagSet, Dialect) error {
	if o.Newline == "" {
		o.Newline = "auto"
	}
	if yes, ok := boolean(o.Newline); ok {
		o.Newline = map[bool]string{true: "yes", false: "no"}[yes]
	}
	if yes, ok := boolean(o.Transcode); ok && !yes {
		o.Transcode = Transcodings[0]
	}
	if err := oneOf("newline", o.Newline, []string{"auto", "yes", "no"}); err != nil {
		return err
	}
	if err := oneOf("transcode", o.Transcode, Transcodings); err != nil {
		return err
	}
	return oneOf("json", o.JSON, jsonForms)
}

// Rows is how a table is printed.
type Rows struct {
	JSON     string
	NoLegend bool
}

func (o *Rows) Define(f *pflag.FlagSet) {
	f.StringVar(&o.JSON, "json", JSONOff, "Print the table as JSON, on one line or indented: `short|pretty|off`")
	f.BoolVar(&o.NoLegend, "no-legend", false, "Print the table without heading")
}

func (o *Rows) Ask(d Dialect, _ bool) (bool, error) {
	return o.JSON == "help" && words(d, false, "", jsonForms), nil
}

func (o *Rows) Check(*pflag.FlagSet, Dialect) error { return oneOf("json", o.JSON, jsonForms) }

// Table is how verbs of our own print a table.
type Table struct{ table.Format }

func (o *Table) Define(f *pflag.FlagSet) {
	o.Color = table.Colored(os.Stdout)
	f.StringVar(&o.JSON, "json", JSONOff, "Print the table as JSON, on one line or indented: `short|pretty|off`")
	f.BoolVar(&o.NoLegend, "no-legend", false, "Print the table without heading")
}

func (o *Table) Check(*pflag.FlagSet, Dialect) error {
	if !slices.Contains(table.Formats, o.JSON) {
		return report.Usagef("--json=%s: expected short, pretty or off", o.JSON)
	}
	return nil
}

// words prints what an option can be. It is always true.
func words(d Dialect, legend bool, heading string, list []string) bool {
	if d.SystemdCreds && legend && heading != "" {
		fmt.Println(heading)
	}
	fmt.Println(strings.Join(list, "\n"))
	return true
}

func oneOf(name, value string, list []string) error {
	if !slices.Contains(list, value) {
		return report.Usagef("--%s=%s: expected %s", name, value, strings.Join(list, ", "))
	}
	return nil
}

// boolean reads the words that systemd takes for yes and no.
func boolean(word string) (yes, ok bool) {
	switch strings.ToLower(word) {
	case "1", "yes", "y", "true", "t", "on":
		return true, true
	case "0", "no", "n", "false", "f", "off":
		return false, true
	}
	return false, false
}
