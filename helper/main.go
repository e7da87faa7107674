// Bootseal seals credentials to the machine and opens them again: at a prompt as
// systemd-creds(1) does, with the same options and the same files, and in units
// of a systemd that is too old to do it.
package main

import (
	"fmt"
	"os"

	"github.com/bootseal/bootseal/internal/secret"
)

// version is set by the build.
var version = "unknown"

// verbs are what the first argument that is no option may be. Each gets the
// other arguments.
var verbs = map[string]func(args []string) error{
	"encrypt":  encrypt,
	"decrypt":  decrypt,
	"list":     list,
	"cat":      cat,
	"setup":    setup,
	"has-tpm2": hasTPM2,
	"help":     showHelp,
	"unseal":   unseal,
	"cleanup":  cleanup,
	"explain":  explain,
	"refuse":   refuse,
	"serve":    serve,
	"preview":  preview,
	"inspect":  inspect,
	"check":    check,
	"apply":    apply,
	"reseal":   reseal,
	"rotate":   rotate,
	"adopt":    adopt,
}

func main() {
	warning, err := secret.Protect()
	if err != nil {
		os.Exit(report(err))
	}
	if warning != "" {
		fmt.Fprintf(os.Stderr, "%s: warning: %s\n", program(), warning)
	}
	os.Exit(report(run(os.Args[1:])))
}
