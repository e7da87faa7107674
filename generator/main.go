// Command bootseal-generator is a systemd.generator(7): from the policy files it
// writes the drop-ins that give services their sealed credentials.
package main

import (
	"fmt"
	"os"

	"github.com/bootseal/bootseal/internal/root"
	"github.com/spf13/pflag"
)

var version = "dev" // set by the build

const usage = `bootseal-generator [--root=DIR] NORMAL-DIR [EARLY-DIR LATE-DIR]

Write a drop-in for each service with a policy in /etc/bootseal. Run by systemd
at boot and at every "systemctl daemon-reload".

`

func main() {
	flags := pflag.NewFlagSet("bootseal-generator", pflag.ContinueOnError)
	dir := flags.String("root", "/", "take policies, units and all else from below this directory")
	showVersion := flags.Bool("version", false, "show the version and exit")
	flags.Usage = func() { fmt.Print(usage + flags.FlagUsages()) }
	switch err := flags.Parse(os.Args[1:]); {
	case err == pflag.ErrHelp:
		return
	case err == nil && *showVersion:
		fmt.Println("bootseal", version)
		return
	case err != nil || flags.NArg() != 1 && flags.NArg() != 3:
		fmt.Fprint(os.Stderr, "bootseal-generator: expected one directory, or the three of systemd.generator(7)\n")
		os.Exit(1)
	}
	log := newLog()
	if !concerned(root.Dir(*dir)) {
		return
	}
	if !generate(root.Dir(*dir), flags.Arg(0), log) {
		os.Exit(1)
	}
}
