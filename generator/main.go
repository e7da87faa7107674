// Command bootseal-generator is a systemd.generator(7): from the policy files it
// writes the drop-ins that give services their sealed credentials.
//
// PID 1 waits for it at every boot and reload, so it is kept light: it links no package
// for the network or for command lines, and no cipher.
package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/bootseal/bootseal/internal/root"
)

var version = "dev" // set by the build

const usage = `bootseal-generator [--root=DIR] NORMAL-DIR [EARLY-DIR LATE-DIR]

Write a drop-in for each service with a policy in /etc/bootseal. Run by systemd
at boot and at every "systemctl daemon-reload".

      --root string   take policies, units and all else from below this directory (default "/")
      --version       show the version and exit
`

func main() {
	line, err := parse(os.Args[1:])
	switch {
	case err == nil && line.help:
		fmt.Print(usage)
		return
	case err == nil && line.version:
		fmt.Println("bootseal", version)
		return
	case err != nil:
		fmt.Fprintln(os.Stderr, "bootseal-generator:", err)
		os.Exit(1)
	}
	log := newLog()
	if !concerned(root.Dir(line.root)) {
		return
	}
	if !generate(root.Dir(line.root), line.normal, log) {
		os.Exit(1)
	}
}

// errUsage says that the command line is another one.
var errUsage = errors.New("expected one directory, or the three of systemd.generator(7)")

// commandLine is what the generator was asked for.
type commandLine struct {
	root          string // stands for "/"
	normal        string // the first of the folders
	help, version bool
}

// parse reads the arguments. It fails with errUsage.
func parse(args []string) (line commandLine, err error) {
	line.root = "/"
	var folders []string
	for i := 0; i < len(args); i++ {
		name, value, joined := strings.Cut(args[i], "=")
		switch {
		case args[i] == "--":
			folders = append(folders, args[i+1:]...)
			i = len(args)
		case args[i] == "--help", args[i] == "-h":
			line.help = true
			return line, nil
		case args[i] == "--version":
			line.version = true
		case name == "--root" && joined:
			line.root = value
		case name == "--root" && i+1 < len(args):
			i++
			line.root = args[i]
		case len(args[i]) > 1 && args[i][0] == '-':
			return line, errUsage
		default:
			folders = append(folders, args[i])
		}
	}
	if line.version {
		return line, nil
	}
	if len(folders) != 1 && len(folders) != 3 {
		return line, errUsage
	}
	line.normal = folders[0]
	return line, nil
}
