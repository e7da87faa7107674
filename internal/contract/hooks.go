package contract

import (
	"fmt"
	"strings"

	"github.com/bootseal/bootseal/internal/failure"
)

// The hooks: verbs of bootseal that units run. Their options are those of
// bootseal-unseal(8).
const (
	Unseal  = "unseal"  // ExecStartPre=: put the plaintexts there
	Cleanup = "cleanup" // ExecStopPost=: take them away again
	Verify  = "verify"  // ExecStartPre=: keep the unit from starting without its credentials
	Explain = "explain" // ExecStopPost=: say why systemd could not open a credential
	Refuse  = "refuse"  // ExecStartPre=: keep the unit from starting, and say why
)

// theUnit is the option for the unit that runs the hook, systemd.unit(5).
const theUnit = " --unit=%n"

// UnsealCommand is the value of an ExecStartPre=, with all privileges. What is given
// is written as words of a command line already, systemd.service(5): the unit's User=,
// or "", and [CredentialArgument] of each credential.
func UnsealCommand(user string, allowNull bool, credentials []string) string {
	options := theUnit
	if user != "" {
		options += " --user=" + user
	}
	if allowNull {
		options += " --allow-null"
	}
	return "+" + HelperPath + " " + Unseal + options + " " + strings.Join(credentials, " ")
}

// CleanupCommand is the value of an ExecStopPost=, with all privileges.
func CleanupCommand() string { return "+" + HelperPath + " " + Cleanup + theUnit }

// VerifyCommand is the value of an ExecStartPre=, with all privileges. Its credentials
// are those of [UnsealCommand].
func VerifyCommand(credentials []string) string {
	return "+" + HelperPath + " " + Verify + theUnit + " " + strings.Join(credentials, " ")
}

// CleanupTemplate is installed. Its instance for a unit waits until that has stopped, and
// runs [Cleanup] then: also where the unit has lost the [CleanupCommand] that it started
// with, or cannot run it.
const CleanupTemplate = "bootseal-cleanup@.service"

// WantsCleanup is the value of a Wants= that has a unit start its instance of
// [CleanupTemplate].
const WantsCleanup = "bootseal-cleanup@%n.service"

// CheckCleanup refuses a unit whose name leaves no room for that of its instance of
// [CleanupTemplate], which systemd would leave out.
func CheckCleanup(unit string) error {
	const most = 255 - len(CleanupTemplate)
	if len(unit) > most {
		return fmt.Errorf("the unit's name has %d characters, too many for bootseal-cleanup@UNIT.service, which takes its plaintext away; expected at most %d", len(unit), most)
	}
	return nil
}

// ExplainCommand is the value of an ExecStopPost= that may fail, with all privileges.
// Its credentials are those of [UnsealCommand].
func ExplainCommand(credentials []string) string {
	return "-+" + HelperPath + " " + Explain + theUnit + " " + strings.Join(credentials, " ")
}

// RefuseCommand is the value of an ExecStartPre=, with all privileges. The reason is
// one word of a command line already.
func RefuseCommand(reason string) string { return "+" + HelperPath + " " + Refuse + " " + reason }

// CredentialArgument is how hooks are told of a credential: its name and the absolute
// path of the file that it is sealed in.
func CredentialArgument(name, source string) string { return name + ":" + source }

// CutCredential undoes [CredentialArgument]. At a prompt the path may be missing.
func CutCredential(argument string) (name, source string, given bool) {
	return strings.Cut(argument, ":")
}

// HookStatus tells whether a hook that fails may exit with status n: a program of Go's
// with 1 and 2, bootseal with those of its kinds of failures, and what systemd could not
// start with 200 and more.
func HookStatus(n int) bool {
	return n == 1 || n == 2 || n >= failure.First && n <= failure.Last || n >= 200
}
