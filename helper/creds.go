package main

import (
	"fmt"
	"os"
	"path/filepath"
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

// showHelp is the verb help.
func showHelp([]string) error { return printHelp(os.Stdout) }
