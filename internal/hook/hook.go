// Package hook is what units run: unseal and cleanup, verify and explain, refuse. They work
// in the mount namespace of PID 1, and say what goes wrong in the unit's status line.
// They refuse credentials that are weaker than the unit's policy demands, and speak
// neither to systemd nor to the network.
package hook

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bootseal/bootseal/internal/cli"
	"github.com/bootseal/bootseal/internal/contract"
	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/internal/failure"
	"github.com/bootseal/bootseal/internal/plaintext"
	"github.com/bootseal/bootseal/internal/root"
	"github.com/bootseal/bootseal/internal/sealing"
	"github.com/bootseal/bootseal/internal/systemd"
	"github.com/bootseal/bootseal/policy"
)

// ErrBlocked says that a unit must not start because of its policy.
var ErrBlocked = failure.Blocked.New("blocked", "remove the cause, then run \"systemctl daemon-reload\" and start the unit again")

// Verbs are those that only unit files use.
func Verbs() []*cli.Verb {
	return []*cli.Verb{unseal(), cleanup(), verify(), explain(), refuse()}
}

// unseal is the ExecStartPre= hook.
func unseal() *cli.Verb {
	v := &cli.Verb{
		Name: contract.Unseal, Forms: cli.Takes("NAME[:PATH]...", "Put plaintext where the unit finds it"), InUnits: true,
		Details: "In ExecStartPre=+ of a unit. PATH is /etc/credstore.encrypted/NAME if not given.",
		Flags:   cli.NewFlags(contract.Unseal), Most: cli.Unlimited,
	}
	unit := v.Flags.String("unit", "", "The `UNIT` that gets the credentials, %n in a unit file")
	owner := v.Flags.String("user", "", "The `USER` that they belong to, User= of the unit")
	device := v.Flags.String("tpm2-device", "", "The TPM to use: `DEVICE` as in bootseal(1)")
	allowNull := v.Flags.Bool("allow-null", false, "Accept credentials that are sealed with the null key")
	v.Run = func(args []string) error {
		return inHost(*unit, func() error { return unsealFor(*unit, *owner, *device, *allowNull, args) })
	}
	return v
}

func unsealFor(unit, owner, device string, allowNull bool, args []string) error {
	if err := policy.CheckUnit(unit); err != nil {
		return fmt.Errorf("--unit=%s: %w", unit, err)
	}
	if err := contract.CheckCleanup(unit); err != nil {
		return err
	}
	all, err := readAll(args)
	if err != nil {
		return err
	}
	if err := enforce("/", unit, all); err != nil {
		return err
	}
	uid, err := userOfUnit(owner)
	if err != nil {
		return err
	}
	null := sealing.NullByMachine
	if allowNull {
		null = sealing.NullAccepted
	}
	how := sealing.ForBootingUnit(null)
	how.Device = device
	opened, err := how.Open(all)
	if err != nil {
		return err
	}
	defer sealing.Wipe(opened)
	files := make([]plaintext.File, len(all))
	for i, s := range all {
		files[i] = plaintext.File{Name: s.Name, Data: opened[i].Payload}
	}
	return plaintext.Place(unit, uid, files)
}

// cleanup is the ExecStopPost= hook that undoes unseal.
func cleanup() *cli.Verb {
	v := &cli.Verb{
		Name: contract.Cleanup, Forms: cli.Takes("", "Take the plaintext away again"), InUnits: true,
		Details: "In ExecStopPost=+ of a unit, and in bootseal-cleanup@.service.",
		Flags:   cli.NewFlags(contract.Cleanup), Most: cli.Unlimited,
	}
	unit := v.Flags.String("unit", "", "The `UNIT` that got the credentials, %n in a unit file")
	v.Run = func([]string) error {
		return inHost(*unit, func() error {
			if err := policy.CheckUnit(*unit); err != nil {
				return fmt.Errorf("--unit=%s: %w", *unit, err)
			}
			return plaintext.Remove(*unit)
		})
	}
	return v
}

// verify is the ExecStartPre= hook of units that systemd would start without a
// credential: it would take the failure to open one for a success of ExecStart=. From 252
// on it has opened them all before it can run this.
func verify() *cli.Verb {
	v := &cli.Verb{
		Name: contract.Verify, Forms: cli.Takes("NAME[:PATH]...", "Keep a unit from starting without its credentials"), InUnits: true,
		Details: "In ExecStartPre=+ of a unit.",
		Flags:   cli.NewFlags(contract.Verify), Most: cli.Unlimited,
	}
	unit := v.Flags.String("unit", "", "The `UNIT` that gets the credentials, %n in a unit file")
	v.Run = func(args []string) error {
		if theirs(args) {
			return nil
		}
		return inHost(*unit, func() error {
			all, err := readAll(args)
			if err != nil {
				return err
			}
			if err := enforce("/", *unit, all); err != nil {
				return err
			}
			return sealing.ForBootingUnit(sealing.NullByMachine).Try(all)
		})
	}
	return v
}

// theirs tells whether systemd has opened the credentials for this process.
func theirs(args []string) bool {
	folder := os.Getenv("CREDENTIALS_DIRECTORY")
	return folder != "" && !slices.ContainsFunc(args, func(arg string) bool {
		name, _, _ := contract.CutCredential(arg)
		_, err := os.Stat(filepath.Join(folder, name))
		return err != nil
	})
}

// explain is the ExecStopPost= hook of units whose credentials systemd itself
// opens: of those that failed to start for it, systemd does not say which file
// or PCR was the cause, so this tries again and does.
func explain() *cli.Verb {
	v := &cli.Verb{
		Name: contract.Explain, Forms: cli.Takes("NAME[:PATH]...", "Say why systemd could not open credentials"), InUnits: true,
		Details: "In ExecStopPost=+ of a unit.",
		Flags:   cli.NewFlags(contract.Explain), Most: cli.Unlimited,
	}
	unit := v.Flags.String("unit", "", "The `UNIT` that did not start, %n in a unit file")
	v.Run = func(args []string) error {
		status := os.Getenv("EXIT_STATUS")
		// Of an ExecStartPre= or ExecCondition= systemd only tells that it has failed.
		result := os.Getenv("SERVICE_RESULT")
		before := status == "" && (result == "exit-code" || result == "exec-condition")
		if status != systemd.ExitCredentials && !before {
			return nil
		}
		return inHost(*unit, func() error {
			all, err := readAll(args)
			if err != nil {
				return err
			}
			if err := sealing.ForUnit(sealing.NullByMachine).Try(all); err != nil || before {
				return err
			}
			return errors.New("systemd could not open the unit's credentials, though they can be opened now; look for its reason in the journal")
		})
	}
	return v
}

// refuse is the ExecStartPre= of units that are blocked.
func refuse() *cli.Verb {
	return &cli.Verb{
		Name: contract.Refuse, Forms: cli.Takes("REASON...", "Keep a unit from starting, and say why"), InUnits: true, Raw: true,
		Details: "In ExecStartPre=+ of a unit.",
		Flags:   cli.NewFlags(contract.Refuse),
		Run: func(args []string) error {
			return said("", fmt.Errorf("%w: %s", ErrBlocked, strings.Join(args, " ")))
		},
	}
}

// readAll reads the credentials NAME[:PATH].
func readAll(args []string) ([]*sealing.File, error) {
	if len(args) == 0 {
		return nil, errors.New("no credential given; expected NAME:PATH")
	}
	all := make([]*sealing.File, len(args))
	for i, arg := range args {
		name, path, given := contract.CutCredential(arg)
		if !given {
			path = filepath.Join(policy.CredentialStore, name)
		}
		if !credential.ValidName(name) || !filepath.IsAbs(path) {
			return nil, fmt.Errorf("%q is no credential; expected NAME or NAME:PATH with an absolute path", arg)
		}
		var err error
		if all[i], err = sealing.Read(path, name); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// enforce makes sure that the blobs which the unit's policy names are sealed as
// its [seal] demands now: they may have been exchanged since the generator ran.
// Without a policy there are no demands.
func enforce(dir root.Dir, unit string, all []*sealing.File) error {
	p, err := policy.ForUnit(dir, unit)
	if errors.Is(err, policy.ErrNoPolicy) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, s := range all {
		for _, c := range p.Credentials {
			if c.Name != s.Name || c.Source != s.Path {
				continue
			}
			// What has been checked is what gets opened.
			if s.Blob, err = policy.ReadBlob(dir, p, c); err != nil {
				return fmt.Errorf("%w: %w", ErrBlocked, err)
			}
		}
	}
	return nil
}
