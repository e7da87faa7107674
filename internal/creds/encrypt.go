package creds

import (
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/bootseal/bootseal/internal/cli"
	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/internal/options"
	"github.com/bootseal/bootseal/internal/report"
	"github.com/bootseal/bootseal/internal/sealing"
	"github.com/bootseal/bootseal/internal/stdio"
	"github.com/bootseal/bootseal/policy"
)

// encrypting is the verb of systemd-creds(1), and with --unit= one that takes key,
// PCRs and output from the unit's policy.
type encrypting struct {
	dialect options.Dialect
	name    options.Name
	key     options.Key
	device  options.Device
	times   options.Times
	scope   options.Scope
	pretty  options.Pretty
	compat  options.Compat
	unit    unit
}

// unit is --unit=.
type unit struct {
	name  string
	given bool
	seal  []string // options given that it stands for
}

func (o *unit) Define(f *pflag.FlagSet) {
	f.StringVar(&o.name, "unit", "", "Encrypt for this `UNIT`, as its policy says, to where it says")
}

func (o *unit) Check(f *pflag.FlagSet, _ options.Dialect) error {
	o.given = f.Changed("unit")
	for _, name := range []string{"name", "with-key", "H", "T", "tpm2-pcrs", "tpm2-public-key", "tpm2-public-key-pcrs", "user", "uid", "pretty"} {
		if f.Changed(name) {
			o.seal = append(o.seal, name)
		}
	}
	return nil
}

func encrypt(d options.Dialect) *cli.Verb {
	o := &encrypting{dialect: d}
	v := &cli.Verb{
		Name: "encrypt", Forms: cli.Takes("INPUT OUTPUT", "Encrypt a plaintext file"),
		Flags: cli.NewFlags("encrypt"), Least: 1, Most: 2, Run: o.run,
	}
	groups := []options.Group{&o.name, &o.key, &o.device, &o.times, &o.scope, &o.pretty}
	if !d.SystemdCreds {
		v.Forms = slices.Concat(cli.Takes("--unit=UNIT NAME [INPUT]", "Encrypt as the unit's policy says"), v.Forms)
		groups = append(groups, &o.unit, &o.compat)
	}
	return options.Bind(v, d, append(groups, &options.Batch{})...)
}

func (o *encrypting) run(args []string) error {
	if o.unit.given {
		return o.forUnit(args)
	}
	if len(args) < 2 {
		return report.Usagef("encrypt: too few arguments; expected INPUT OUTPUT")
	}
	input, output := args[0], args[1]
	if err := o.name.FromFile(output); err != nil {
		return err
	}
	name := o.name.Value
	pretty := o.pretty.On && output == "-" && name != ""
	if pretty && strings.ContainsAny(name, "'\"\\%") {
		return report.Usagef("--name=%q: systemd reads a setting with quotes, backslashes or \"%%\" in the name back as another one", name)
	}
	blob, err := o.seal(input, o.sealer())
	if err != nil {
		return err
	}
	if name == "" && !o.name.Given {
		report.Warn("the credential has no name and will be accepted under any; --name= sets one, or an empty one without this warning")
	}
	text := credential.EncodeText(blob)
	switch {
	case pretty:
		text = credential.EncodePretty(name, blob)
	case o.pretty.On:
		text = credential.EncodePretty("", blob)
	}
	return o.write(output, text)
}

// forUnit puts NAME's blob where the policy of the unit looks for it.
func (o *encrypting) forUnit(args []string) error {
	if len(o.unit.seal) > 0 {
		return report.Usagef("encrypt: --unit= takes name, key and PCRs from the policy; expected no other option for them")
	}
	p, err := policy.ForUnit("/", policy.UnitName(o.unit.name))
	if err != nil {
		return err
	}
	name, input := args[0], "-"
	if len(args) > 1 {
		input = args[1]
	}
	i := slices.IndexFunc(p.Credentials, func(c policy.Credential) bool { return c.Name == name })
	if i < 0 {
		var names []string
		for _, c := range p.Credentials {
			names = append(names, c.Name)
		}
		return report.Usagef("%s has no credential %q; it has %s", p.Path, name, strings.Join(names, ", "))
	}
	o.name.Value = name
	sealer := o.sealer()
	sealer.Key, sealer.PCRs = p.Seal.Key, p.Seal.Mask()
	blob, err := o.seal(input, sealer)
	if err != nil {
		return err
	}
	file := p.Credentials[i].Source
	if err := sealing.MakeStore(file); err != nil {
		return err
	}
	return o.write(file, credential.EncodeText(blob))
}

func (o *encrypting) sealer() sealing.Sealer {
	return sealing.Sealer{
		Device: o.device.Name, Key: o.key.Word, PCRs: o.key.PCRs, PublicKey: o.key.PublicKey, PublicKeyPCRs: o.key.PublicKeyPCRs,
		Scope: o.scope.Of, Compat: o.compat.Version, Lenient: o.dialect.SystemdCreds,
	}
}

// seal encrypts the input and returns the blob.
func (o *encrypting) seal(input string, with sealing.Sealer) ([]byte, error) {
	plain := o.times.Plaintext(o.name.Value, nil)
	if o.times.Usec <= plain.Timestamp {
		return nil, report.Usagef("--not-after=%s is not after the timestamp of the credential", o.times.NotAfter.Text)
	}
	payload, err := stdio.Read(input, credential.MaxPayload)
	if err != nil {
		return nil, err
	}
	defer clear(payload)
	plain.Payload = payload
	return with.Seal(plain)
}

// write writes a blob where it was asked for.
func (o *encrypting) write(output string, text []byte) error {
	if err := stdio.Write(output, text); err != nil || output == "-" {
		return err
	}
	sealing.NotePCRs(o.device.Name, output, text)
	return nil
}
