package creds

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/term"

	"github.com/bootseal/bootseal/internal/cli"
	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/internal/options"
	"github.com/bootseal/bootseal/internal/report"
	"github.com/bootseal/bootseal/internal/sealing"
	"github.com/bootseal/bootseal/internal/secret"
	"github.com/bootseal/bootseal/internal/stdio"
)

// decrypting is the verb of systemd-creds(1).
type decrypting struct {
	name options.Name
	opening
}

// opening is how a credential is opened, and the secret printed.
type opening struct {
	dialect   options.Dialect
	device    options.Device
	signature options.Signature
	at        options.At
	null      options.Null
	scope     options.Scope
	output    options.Output
}

func (o *opening) groups() []options.Group {
	return []options.Group{&o.device, &o.signature, &o.at, &o.null, &o.scope, &o.output, &options.Batch{}}
}

func decrypt(d options.Dialect) *cli.Verb {
	o := &decrypting{opening: opening{dialect: d}}
	return options.Bind(&cli.Verb{
		Name: "decrypt", Forms: cli.Takes("INPUT [OUTPUT]", "Decrypt a credential file"),
		Flags: cli.NewFlags("decrypt"), Least: 1, Most: 2, Run: o.run,
	}, d, append([]options.Group{&o.name}, o.groups()...)...)
}

func (o *decrypting) run(args []string) error {
	input, output := args[0], "-"
	if len(args) > 1 {
		output = args[1]
	}
	if err := o.name.FromFile(input); err != nil {
		return err
	}
	text, err := stdio.Read(input, credential.MaxText)
	if errors.Is(err, secret.ErrTooLarge) {
		return fmt.Errorf("%s: %w", input, credential.ErrTooLarge)
	}
	if err != nil {
		return err
	}
	return o.decrypt(o.opener(), text, input, o.name.Value, output)
}

// opener is how the options want credentials to be opened.
func (o *opening) opener() sealing.Opener {
	at := o.at.Time
	if !o.dialect.Validates("NOT_AFTER") {
		at = time.UnixMicro(0)
	}
	return sealing.Opener{Device: o.device.Name, Signature: o.signature.File, Null: o.null.Accept, Scope: o.scope.Of, Now: at}
}

// decrypt opens the text of a credential file and writes the secret.
func (o *opening) decrypt(how sealing.Opener, text []byte, file, name, output string) error {
	if !o.dialect.Validates("NAME") {
		name = ""
	}
	s, err := sealing.Parse(text, file, name)
	if err != nil {
		return err
	}
	if s.Blob.Type == credential.TypeNull && how.Null != sealing.NullAccepted {
		report.Warn("%s is encrypted with the null key: everybody could have made it", file)
	}
	all, err := how.Open([]*sealing.File{s})
	if err != nil {
		return err
	}
	defer sealing.Wipe(all)
	return o.write(output, all[0].Payload)
}

// write presents a secret and writes it.
func (o *opening) write(output string, payload []byte) error {
	data, err := present(&o.output, payload, output == "-" && term.IsTerminal(int(os.Stdout.Fd())))
	if err != nil {
		return err
	}
	defer clear(data)
	return stdio.Write(output, data)
}
