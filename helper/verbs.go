package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/bootseal/bootseal/internal/check"
	"github.com/bootseal/bootseal/internal/cli"
	"github.com/bootseal/bootseal/internal/creds"
	"github.com/bootseal/bootseal/internal/explain"
	"github.com/bootseal/bootseal/internal/failure"
	"github.com/bootseal/bootseal/internal/hook"
	"github.com/bootseal/bootseal/internal/inspect"
	"github.com/bootseal/bootseal/internal/operate"
	"github.com/bootseal/bootseal/internal/options"
	"github.com/bootseal/bootseal/internal/server"
)

// nameOfSystemdCreds is the name under which this program is systemd-creds(1) as
// of systemd 262: its verbs and options, and exit status 1 whatever went wrong.
const nameOfSystemdCreds = "systemd-creds"

// bootseal is the program under its own name.
func bootseal() *cli.Program {
	return &cli.Program{Name: "bootseal", Version: "bootseal " + version, Verbs: verbs, Help: help}
}

func verbs() []*cli.Verb {
	return slices.Concat(
		operate.Verbs(), []*cli.Verb{check.Verb(), explain.Verb(), inspect.Verb()}, creds.Verbs(options.Dialect{}),
		hook.Verbs(), []*cli.Verb{server.Verb()})
}

// help is what fits on one screen.
func help(w io.Writer) error {
	var out strings.Builder
	out.WriteString("bootseal [OPTIONS...] VERB [ARGUMENTS...]    Options: bootseal help VERB\n\n")
	for _, v := range verbs() {
		if v.InUnits {
			continue
		}
		for _, form := range v.Forms {
			out.WriteString(cli.Line(strings.TrimSpace(v.Name+" "+form.Arguments), form.Summary))
		}
	}
	status := "Exit status: " + cli.Unbroken("0  ") + "success"
	for _, k := range failure.Kinds() {
		status += ", " + cli.Unbroken(fmt.Sprintf("%d  ", k.Status)) + k.Meaning
	}
	out.WriteString("\n" + cli.Paragraph(status))
	_, err := io.WriteString(w, out.String())
	return err
}

// systemdCreds is the program under the name of systemd's. Its version begins with
// that whose options there are, which scripts look for.
func systemdCreds() *cli.Program {
	p := &cli.Program{
		Name: nameOfSystemdCreds, Version: "systemd 262 (bootseal " + version + ")",
		Default: "list", Abbreviated: true,
		Verbs: func() []*cli.Verb { return creds.Verbs(options.Dialect{SystemdCreds: true}) },
	}
	p.Help = func(w io.Writer) error {
		var out strings.Builder
		out.WriteString("systemd-creds [OPTIONS...] [VERB] [ARGUMENTS...]\n\nShow, encrypt and decrypt credentials; this is bootseal under another name.\n\nVerbs:\n")
		all := p.Verbs()
		for _, v := range all {
			out.WriteString(cli.Entry(strings.TrimRight("  "+v.Name+" "+v.Forms[0].Arguments, " "), v.Forms[0].Summary))
		}
		out.WriteString(cli.Entry("  help", "Show this help") + "\nINPUT and OUTPUT may be - for standard input and output.\n\nOptions:\n" +
			cli.Entry("  -h, --help", "Show this help") + cli.Entry("      --version", "Show the version") + cli.Options(all[0].Flags))
		_, err := io.WriteString(w, out.String())
		return err
	}
	return p
}
