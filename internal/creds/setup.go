package creds

import (
	"fmt"
	"github.com/bootseal/bootseal/internal/cli"
	"github.com/bootseal/bootseal/internal/machine"
	"github.com/bootseal/bootseal/internal/options"
	"github.com/bootseal/bootseal/internal/report"
	"github.com/bootseal/bootseal/internal/sealing"
	"github.com/bootseal/bootseal/internal/systemd"
	"os"
	"slices"
)

// setup is the verb of systemd-creds(1) that makes the host key.
func setup(d options.Dialect) *cli.Verb {
	return options.Bind(&cli.Verb{
		Name: "setup", Forms: cli.Takes("", "Make the host key, if there is none yet"),
		Flags: cli.NewFlags("setup"), Run: func([]string) error { return makeHostKey() },
	}, d, &options.Batch{})
}

func makeHostKey() error {
	key, err := sealing.MakeHostKey()
	if err != nil {
		return err
	}
	defer clear(key)
	fmt.Fprintf(os.Stderr, "%d byte credentials host key set up.\n", len(key))
	return nil
}

// hasTPM2 is the verb of systemd-analyze(1), until 255 of systemd-creds(1).
func hasTPM2(d options.Dialect) *cli.Verb {
	quiet := &options.Quiet{}
	return options.Bind(&cli.Verb{
		Name: "has-tpm2", Forms: cli.Takes("", "Tell what there is for TPM 2.0"),
		Details: "The exit status is the sum of the numbers of what is missing: 1 firmware, 2 driver, 4 systemd, 8 kernel, 16 libraries.",
		Flags:   cli.NewFlags("has-tpm2"), Run: func([]string) error { return tellTPM2(quiet.On) },
	}, d, quiet, &options.Batch{})
}

func tellTPM2(quiet bool) error {
	support, problem := machine.Support("/")
	missing := support.Missing()
	if !quiet {
		if problem != nil {
			report.Warn("%v", problem)
		}
		answer := "partial"
		switch missing {
		case 0:
			answer = "yes"
		case 1 | 2 | 4 | 8 | 16:
			answer = "no"
		}
		fmt.Println(answer)
		for _, word := range support.Words() {
			fmt.Println(word)
		}
		for _, library := range systemd.TPM2LibraryNames {
			sign := "+"
			if slices.Contains(support.MissingLibraries, library) {
				sign = "-"
			}
			fmt.Println("  " + sign + library)
		}
	}
	if missing != 0 {
		return report.Status(missing)
	}
	return nil
}
