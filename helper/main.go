// Bootseal seals credentials to the machine and opens them again: at a prompt as
// systemd-creds(1) does, with the same options and the same files, and in units
// of a systemd that is too old to do it.
package main

import (
	"os"
	"path/filepath"

	"github.com/bootseal/bootseal/internal/report"
	"github.com/bootseal/bootseal/internal/secret"
)

// version is set by the build.
var version = "unknown"

func main() { os.Exit(run(os.Args)) }

// run returns the exit status. Called systemd-creds, this is that program, whose
// every failure has status 1.
func run(args []string) int {
	program, status := bootseal(), report.Failure
	if filepath.Base(args[0]) == nameOfSystemdCreds {
		program, status = systemdCreds(), report.Plainly
	}
	report.Program = program.Name
	warning, err := secret.Protect()
	if warning != "" {
		report.Warn("%s", warning)
	}
	if err == nil {
		err = program.Run(args[1:])
	}
	if err == nil {
		return 0
	}
	return status(err)
}
