package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

// nameOfSystemdCreds is the name under which this program is systemd-creds(1) as
// of systemd 262: its verbs and options, and exit status 1 whatever went wrong.
const nameOfSystemdCreds = "systemd-creds"

var verbsOfSystemdCreds = []string{"list", "cat", "encrypt", "decrypt", "setup", "has-tpm2", "help"}

func asSystemdCreds() bool { return filepath.Base(os.Args[0]) == nameOfSystemdCreds }

// program is what messages begin with.
func program() string {
	if asSystemdCreds() {
		return nameOfSystemdCreds
	}
	return "bootseal"
}

// printVersion begins, as systemd-creds, with the version whose options there
// are, which scripts look for.
func printVersion() error {
	text := "bootseal " + version
	if asSystemdCreds() {
		text = "systemd 262 (" + text + ")"
	}
	_, err := fmt.Println(text)
	return err
}

// unabbreviated writes out long options of which only the beginning is there, as
// getopt_long(3) lets them be.
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

// showHelp is the verb help.
func showHelp([]string) error { return printHelp(os.Stdout) }
