package options

import (
	"fmt"
	"os"
	"path/filepath"
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

func (o *At) Check(*pflag.FlagSet, Dialect) error { return o.parse(time.Now()) }

func (o *At) parse(now time.Time) (err error) {
	if o.Time, err = timestamp.Parse(o.text, now); err != nil {
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

func (o *NotAfter) parse(f *pflag.FlagSet, now time.Time) error {
	o.Usec = encryption.Infinity
	if o.Given = f.Changed("not-after"); !o.Given {
		return nil
	}
	if o.Text == "" {
		return report.Usagef("--not-after=: %w; leave the option out for a credential that does not expire", timestamp.ErrSyntax)
	}
	end, err := timestamp.Parse(o.Text, now)
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

func (o *Times) Check(f *pflag.FlagSet, _ Dialect) error {
	now := time.Now() // one and the same for both
	if err := o.At.parse(now); err != nil {
		return err
	}
	return o.NotAfter.parse(f, now)
}

// Plaintext is a secret with the times.
func (o *Times) Plaintext(name string, payload []byte) *encryption.Plaintext {
	return &encryption.Plaintext{Name: name, Timestamp: uint64(o.Time.UnixMicro()), NotAfter: o.Usec, Payload: payload}
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
	cli.Refuse(f, "key, PCRs and name are the policy's", "name", "with-key", "H/H", "T/T", "tpm2-pcrs", "tpm2-public-key", "tpm2-public-key-pcrs", "user", "uid", "p/pretty", "unit")
	cli.Refuse(f, "whether the null key is accepted is the policy's, as key = \"null\"", "allow-null")
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
