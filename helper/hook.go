package main

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/policy"
	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/pflag"
)

// The verbs that units run. What goes wrong in them is also said in the "Status"
// line of systemctl status, which outlives the journal's lines when the unit is
// restarted a few times.

// errBlocked says that a unit must not start because of its policy.
var errBlocked = errors.New("blocked")

// exitCredentials is the status of a process whose credentials systemd could not
// set up, EXIT_CREDENTIALS of systemd.exec(5).
const exitCredentials = "243"

// unseal is the ExecStartPre= hook.
func unseal(args []string) error {
	var o opening
	flags := pflag.NewFlagSet("unseal", pflag.ContinueOnError)
	unit := flags.String("unit", "", "the unit that gets the credentials, %n in a unit file")
	flags.StringVar(&o.device, "tpm2-device", "", "the TPM to use")
	flags.BoolVar(&o.allowNull, "allow-null", false, "accept credentials that are sealed with the null key")
	if err := flags.Parse(args); err != nil {
		return err
	}
	return said(func() error {
		if err := policy.CheckUnit(*unit); err != nil {
			return fmt.Errorf("--unit=%s: %w", *unit, err)
		}
		all, err := readAll(flags.Args())
		if err != nil {
			return err
		}
		uid, err := userOfUnit()
		if err != nil {
			return err
		}
		o.now, o.anyScope, o.booting = time.Now(), true, true
		opened, err := o.open(all)
		if err != nil {
			return err
		}
		defer wipe(opened)
		files := make([]secretFile, len(all))
		for i, s := range all {
			files[i] = secretFile{s.name, opened[i].Payload}
		}
		return inHost(func() error { return place(*unit, uid, files) })
	}())
}

// cleanup is the ExecStopPost= hook that undoes unseal.
func cleanup(args []string) error {
	flags := pflag.NewFlagSet("cleanup", pflag.ContinueOnError)
	unit := flags.String("unit", "", "the unit that got the credentials, %n in a unit file")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := policy.CheckUnit(*unit); err != nil {
		return fmt.Errorf("--unit=%s: %w", *unit, err)
	}
	return said(inHost(func() error { return remove(*unit) }))
}

// explainHook is the ExecStopPost= hook of units whose credentials systemd itself
// opens: of those that failed to start for it, systemd does not say which file
// or PCR was the cause, so this tries again and does.
func explainHook(args []string) error {
	flags := pflag.NewFlagSet("explain", pflag.ContinueOnError)
	flags.String("unit", "", "the unit that did not start, %n in a unit file")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if os.Getenv("EXIT_STATUS") != exitCredentials {
		return nil
	}
	return said(func() error {
		all, err := readAll(flags.Args())
		if err != nil {
			return err
		}
		opened, err := opening{anyScope: true, now: time.Now()}.open(all)
		if err != nil {
			return err
		}
		wipe(opened)
		return errors.New("systemd could not open the unit's credentials, though they can be opened now; look for its reason in the journal")
	}())
}

// refuse is the ExecStartPre= of units that are blocked.
func refuse(args []string) error {
	return said(fmt.Errorf("%w: %s", errBlocked, strings.Join(args, " ")))
}

// said puts an error, and what to do about it, into the unit's status line.
func said(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	if hint := outcomeOf(err).hint; hint != "" {
		text += "; " + hint
	}
	// Outside of a unit there is no status line; standard error is left.
	_, _ = daemon.SdNotify(false, "STATUS="+strings.ReplaceAll(text, "\n", " "))
	return err
}

// readAll reads the credentials NAME[:PATH].
func readAll(args []string) ([]*sealed, error) {
	if len(args) == 0 {
		return nil, errors.New("no credential given; expected NAME:PATH")
	}
	all := make([]*sealed, len(args))
	for i, arg := range args {
		name, path, given := strings.Cut(arg, ":")
		if !given {
			path = filepath.Join(policy.CredentialStore, name)
		}
		if !credential.ValidName(name) || !filepath.IsAbs(path) {
			return nil, fmt.Errorf("%q is no credential; expected NAME or NAME:PATH with an absolute path", arg)
		}
		var err error
		if all[i], err = readSealed(path, name); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// userOfUnit returns the user id that owns the unit's credentials. systemd sets
// $USER to the unit's User= even for a command with full privileges.
func userOfUnit() (int, error) {
	name := os.Getenv("USER")
	if name == "" || os.Getenv("INVOCATION_ID") == "" {
		return 0, nil
	}
	if u, err := user.Lookup(name); err == nil {
		name = u.Uid
	} else if uid, err := os.Readlink("/run/systemd/dynamic-uid/direct:" + filepath.Base(name)); err == nil {
		name = uid
	}
	uid, err := strconv.ParseUint(name, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("finding the unit's User=: there is no user %q in /etc/passwd, and no dynamic one", name)
	}
	return int(uid), nil
}
