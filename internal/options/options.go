// Package options has the options that several verbs take, in groups. A verb is made
// of the groups that mean something to it.
package options

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/bootseal/bootseal/internal/cli"
	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/internal/encryption"
	"github.com/bootseal/bootseal/internal/report"
	"github.com/bootseal/bootseal/internal/sealing"
	"github.com/bootseal/bootseal/internal/systemd"
	"github.com/bootseal/bootseal/internal/table"
	"github.com/bootseal/bootseal/internal/timestamp"
	"github.com/bootseal/bootseal/internal/tpmdevice"
	"github.com/bootseal/bootseal/policy"
)

// JSONOff is the word of --json= for plain output.
const JSONOff = "off"

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

// Device is --tpm2-device=.
type Device struct{ Name string }

func (o *Device) Define(f *pflag.FlagSet) {
	f.StringVar(&o.Name, "tpm2-device", "", "The TPM: a path, device:PATH, swtpm:path=PATH, swtpm:host=HOST,port=PORT, auto, or list (`DEVICE`: $SYSTEMD_TPM2_DEVICE, or /dev/tpmrm0)")
}

func (o *Device) Check(*pflag.FlagSet, Dialect) error { return nil }

func (o *Device) Ask(Dialect, bool) (bool, error) {
	if o.Name != "list" {
		return false, nil
	}
	return true, listTPMs()
}

// Name is --name=.
type Name struct {
	Value string
	Given bool
}

func (o *Name) Define(f *pflag.FlagSet) {
	f.StringVar(&o.Value, "name", "", "The `NAME` in the credential; from the file name if not given, empty for none")
}

func (o *Name) Check(f *pflag.FlagSet, _ Dialect) error {
	o.Given = f.Changed("name")
	if o.Value != "" && !credential.ValidName(o.Value) {
		return report.Usagef("--name=%q: expected 1 to 255 printable ASCII characters without \":\" and \"/\"", o.Value)
	}
	return nil
}

// FromFile takes the name of a file where none was given, unless that is "-".
func (o *Name) FromFile(file string) error {
	if o.Given || file == "-" {
		return nil
	}
	if o.Value = filepath.Base(file); !credential.ValidName(o.Value) {
		return report.Usagef("%s: the file name is not a credential's name; give one with --name=", file)
	}
	return nil
}

// Key is what to encrypt with.
type Key struct {
	Word          string  // of --with-key=
	PCRs          uint64  // a mask
	PublicKey     string  // a file
	PublicKeyPCRs *uint64 // a mask, nil if not given

	pcrs, publicKeyPCRs string
}

func (o *Key) Define(f *pflag.FlagSet) {
	f.StringVar(&o.Word, "with-key", policy.KeyAuto, "`KEY` is host, tpm2, host+tpm2, tpm2-with-public-key, host+tpm2-with-public-key, null; auto: the host key and the TPM, whichever there are (default); auto-initrd: the TPM, or null without one")
	f.BoolFuncP("H", "H", "The same as --with-key=host", func(string) error { o.Word = policy.KeyHost; return nil })
	f.BoolFuncP("T", "T", "The same as --with-key=tpm2, with the public key if there is one", func(string) error { o.Word = sealing.KeyTPM2Best; return nil })
	f.StringVar(&o.pcrs, "tpm2-pcrs", "", "The PCRs to seal to, 0 to 23 or by name, as in `PCR+PCR...`. None if not given: systemd before 258 took PCR 7, and lost the secrets with every Secure Boot update")
	f.StringVar(&o.PublicKey, "tpm2-public-key", "", "Seal to PCR values that this key signs, PEM in `FILE` (tpm2-pcr-public-key.pem in /etc/systemd, /run/systemd, /usr/lib/systemd)")
	f.StringVar(&o.publicKeyPCRs, "tpm2-public-key-pcrs", "", "The PCRs whose values it signs, `PCR+PCR...` (11)")
}

func (o *Key) Ask(d Dialect, legend bool) (bool, error) {
	return o.Word == "help" && words(d, legend, "Supported key types:", sealing.KeyWords()), nil
}

func (o *Key) Check(f *pflag.FlagSet, d Dialect) error {
	keys := 0
	for _, name := range []string{"with-key", "H", "T"} {
		if f.Changed(name) {
			keys++
		}
	}
	if keys > 1 && !d.SystemdCreds {
		return report.Usagef("%s: more than one of -H, -T and --with-key=; for both keys give --with-key=host+tpm2", f.Name())
	}
	if o.Word == "" {
		o.Word = policy.KeyAuto
	}
	if err := oneOf("with-key", o.Word, append(sealing.KeyWords(), sealing.KeyTPM2Best)); err != nil {
		return err
	}
	var err error
	if o.PCRs, err = sealing.ParsePCRs("tpm2-pcrs", o.pcrs); err != nil {
		return err
	}
	mask, err := sealing.ParsePCRs("tpm2-public-key-pcrs", o.publicKeyPCRs)
	if f.Changed("tpm2-public-key-pcrs") {
		o.PublicKeyPCRs = &mask
	}
	return err
}

// Signature is --tpm2-signature=.
type Signature struct{ File string }

func (o *Signature) Define(f *pflag.FlagSet) {
	f.StringVar(&o.File, "tpm2-signature", "", "The signatures of PCR values, to decrypt with, in `FILE` (tpm2-pcr-signature.json in the folders of --tpm2-public-key=)")
}

func (o *Signature) Check(*pflag.FlagSet, Dialect) error { return nil }

// At is --timestamp=.
type At struct {
	Time time.Time

	text string
}

func (o *At) Define(f *pflag.FlagSet) {
	f.StringVar(&o.text, "timestamp", "now", "The `TIME` of encryption, or at which not-after is checked when decrypting (now)")
}

func (o *At) Check(*pflag.FlagSet, Dialect) (err error) {
	if o.Time, err = timestamp.Parse(o.text, time.Now()); err != nil {
		return report.Usagef("--timestamp=%s: %w", o.text, err)
	}
	return nil
}

// NotAfter is --not-after=.
type NotAfter struct {
	Text  string // as it was given
	Usec  uint64 // since the epoch; encryption.Infinity if not given
	Given bool
}

func (o *NotAfter) Define(f *pflag.FlagSet) {
	f.StringVar(&o.Text, "not-after", "", "The `TIME` at which it expires")
}

func (o *NotAfter) Check(f *pflag.FlagSet, _ Dialect) error {
	o.Usec = encryption.Infinity
	if o.Given = f.Changed("not-after"); !o.Given {
		return nil
	}
	if o.Text == "" {
		return report.Usagef("--not-after=: %w; leave the option out for a credential that does not expire", timestamp.ErrSyntax)
	}
	end, err := timestamp.Parse(o.Text, time.Now())
	if err != nil {
		return report.Usagef("--not-after=%s: %w", o.Text, err)
	}
	o.Usec = uint64(end.UnixMicro())
	return nil
}

// Times are when a credential was made, and when it expires.
type Times struct {
	At
	NotAfter
}

func (o *Times) Define(f *pflag.FlagSet) {
	o.At.Define(f)
	o.NotAfter.Define(f)
}

func (o *Times) Check(f *pflag.FlagSet, d Dialect) error {
	if err := o.At.Check(f, d); err != nil {
		return err
	}
	return o.NotAfter.Check(f, d)
}

// Plaintext is a secret with the times.
func (o *Times) Plaintext(name string, payload []byte) *encryption.Plaintext {
	return &encryption.Plaintext{Name: name, Timestamp: uint64(o.Time.UnixMicro()), NotAfter: o.Usec, Payload: payload}
}

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

// Null says whether the null key is accepted.
type Null struct{ Accept sealing.Null }

func (o *Null) Define(f *pflag.FlagSet) {
	f.BoolFunc("allow-null", "Accept the null key, also under Secure Boot", func(string) error { o.Accept = sealing.NullAccepted; return nil })
	f.BoolFunc("refuse-null", "Accept no null key", func(string) error { o.Accept = sealing.NullRefused; return nil })
}

func (o *Null) Check(*pflag.FlagSet, Dialect) error { return nil }

// Scope says for whom.
type Scope struct {
	Of *encryption.Scope // nil is the system

	user string
}

func (o *Scope) Define(f *pflag.FlagSet) {
	f.BoolFunc("user", "For oneself instead of for the system; needs the host key", func(string) error {
		if o.user == "" {
			o.user = sealing.Self
		}
		return nil
	})
	f.StringVar(&o.user, "uid", "", "For this `USER` instead of for the system")
}

func (o *Scope) Check(*pflag.FlagSet, Dialect) (err error) {
	if o.user != "" {
		o.Of, err = sealing.ScopeOf(o.user)
	}
	return err
}

// Compat is --compat=.
type Compat struct{ Version int } // 0 is the systemd that runs

func (o *Compat) Define(f *pflag.FlagSet) {
	f.IntVar(&o.Version, "compat", 0, "Encrypt so that systemd of this `VERSION` and newer ones can decrypt (the one that runs, 250 at least)")
}

func (o *Compat) Check(f *pflag.FlagSet, _ Dialect) error {
	if f.Changed("compat") && (!systemd.EncryptedCredentials.In(o.Version) || o.Version > 9999) {
		return report.Usagef("--compat=%d: expected a version of systemd, %d or newer: older ones know no encrypted credentials", o.Version, systemd.EncryptedCredentials.From)
	}
	return nil
}

// Successor is what belongs to sealing in a policy's place, as reseal and rotate do:
// the policy has the say in everything else, of which options are refused.
type Successor struct {
	Device
	Compat
	Times
	Signature
}

func (o *Successor) Define(f *pflag.FlagSet) {
	o.Device.Define(f)
	o.Signature.Define(f)
	o.Times.Define(f)
	o.Compat.Define(f)
	cli.Refuse(f, "key, PCRs and name are the policy's", "name", "with-key", "H", "T", "tpm2-pcrs", "tpm2-public-key", "tpm2-public-key-pcrs", "user", "uid", "pretty", "unit", "allow-null")
}

func (o *Successor) Check(f *pflag.FlagSet, d Dialect) error {
	if err := o.Compat.Check(f, d); err != nil {
		return err
	}
	return o.Times.Check(f, d)
}

func (o *Successor) Ask(d Dialect, legend bool) (bool, error) { return o.Device.Ask(d, legend) }

// Sealer seals with them.
func (o *Successor) Sealer() sealing.Sealer {
	return sealing.Sealer{Device: o.Device.Name, Signature: o.File, Compat: o.Version}
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

// Validates tells whether a part of a credential is to be checked, which the
// environment of systemd-creds can say.
func (d Dialect) Validates(part string) bool {
	yes, set := boolean(os.Getenv("SYSTEMD_CREDENTIAL_VALIDATE_" + part))
	return yes || !set || !d.SystemdCreds
}

// listTPMs answers --tpm2-device=list.
func listTPMs() error {
	all, err := tpmdevice.List("/")
	if err != nil {
		return err
	}
	if len(all) == 0 {
		fmt.Fprintln(os.Stderr, "No TPM 2.0 devices")
		return nil
	}
	devices := table.Table{Columns: []string{"PATH", "DEVICE", "DRIVER"}}
	for _, d := range all {
		devices.Add(table.Text(d.Path), table.Text(d.Device), table.Text(d.Driver))
	}
	return devices.Print(os.Stdout, table.Format{JSON: JSONOff, Color: table.Colored(os.Stdout)})
}
