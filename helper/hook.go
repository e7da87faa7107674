package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/bootseal/bootseal/internal/contract"
	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/internal/root"
	"github.com/bootseal/bootseal/policy"
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
	flags := flagSet("unseal")
	unit := flags.String("unit", "", "the unit that gets the credentials, %n in a unit file")
	owner := flags.String("user", "", "the user that the credentials belong to, User= of the unit")
	flags.StringVar(&o.device, "tpm2-device", "", "the TPM to use")
	flags.BoolVar(&o.allowNull, "allow-null", false, "accept credentials that are sealed with the null key")
	if err := parseFlags(flags, args); err != nil {
		return err
	}
	return inHost(func() error {
		if err := policy.CheckUnit(*unit); err != nil {
			return fmt.Errorf("--unit=%s: %w", *unit, err)
		}
		all, err := readAll(flags.Args())
		if err != nil {
			return err
		}
		if err := enforce("/", *unit, all); err != nil {
			return err
		}
		uid, err := userOfUnit(*owner)
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
		return place(*unit, uid, files)
	})
}

// cleanup is the ExecStopPost= hook that undoes unseal.
func cleanup(args []string) error {
	flags := flagSet("cleanup")
	unit := flags.String("unit", "", "the unit that got the credentials, %n in a unit file")
	if err := parseFlags(flags, args); err != nil {
		return err
	}
	return inHost(func() error {
		if err := policy.CheckUnit(*unit); err != nil {
			return fmt.Errorf("--unit=%s: %w", *unit, err)
		}
		return remove(*unit)
	})
}

// explainHook is the ExecStopPost= hook of units whose credentials systemd itself
// opens: of those that failed to start for it, systemd does not say which file
// or PCR was the cause, so this tries again and does.
func explainHook(args []string) error {
	flags := flagSet("explain")
	flags.String("unit", "", "the unit that did not start, %n in a unit file")
	if err := parseFlags(flags, args); err != nil {
		return err
	}
	status := os.Getenv("EXIT_STATUS")
	// Of an ExecStartPre= or ExecCondition= systemd only tells that it has failed.
	before := status == "" && os.Getenv("SERVICE_RESULT") == "exit-code"
	if status != exitCredentials && !before {
		return nil
	}
	return inHost(func() error {
		all, err := readAll(flags.Args())
		if err != nil {
			return err
		}
		opened, err := opening{anyScope: true, now: time.Now()}.open(all)
		if err != nil {
			return err
		}
		wipe(opened)
		if before {
			return nil
		}
		return errors.New("systemd could not open the unit's credentials, though they can be opened now; look for its reason in the journal")
	})
}

// refuse is the ExecStartPre= of units that are blocked.
func refuse(args []string) error {
	if len(args) == 1 && (args[0] == "--help" || args[0] == "-h") {
		return printHelp(os.Stdout)
	}
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
		name, path, given := contract.CutCredential(arg)
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

// enforce makes sure that the blobs which the unit's policy names are sealed as
// its [seal] demands now: they may have been exchanged since the generator ran.
// Without a policy there are no demands.
func enforce(dir root.Dir, unit string, all []*sealed) error {
	p, err := policy.ForUnit(dir, unit)
	if errors.Is(err, policy.ErrNoPolicy) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, s := range all {
		for _, c := range p.Credentials {
			if c.Name != s.name || c.Source != s.file {
				continue
			}
			// What has been checked is what gets opened.
			if s.blob, err = policy.ReadBlob(dir, p, c); err != nil {
				return fmt.Errorf("%w: %w", errBlocked, err)
			}
		}
	}
	return nil
}

// userOfUnit returns the number of the user name, who is to own the unit's
// credentials. Without a name it is that in $USER, which systemd sets to the
// unit's User= even for a command with full privileges, or else root.
func userOfUnit(name string) (int, error) {
	if name == "" && os.Getenv("INVOCATION_ID") != "" {
		name = os.Getenv("USER")
	}
	if name == "" || name == "root" {
		return 0, nil
	}
	// Where root is not in /etc/passwd, os/user takes $USER for root's name.
	if err := os.Unsetenv("USER"); err != nil {
		return 0, err
	}
	number := name
	if _, err := strconv.ParseUint(name, 10, 32); err == nil {
		// It needs no entry.
	} else if u, err := user.Lookup(name); err == nil {
		number = u.Uid
	} else if uid, err := os.Readlink("/run/systemd/dynamic-uid/direct:" + filepath.Base(name)); err == nil {
		number = uid
	} else if number, err = getent(name); err != nil {
		return 0, fmt.Errorf("finding the unit's User=: there is no user %q in /etc/passwd, no dynamic one, and none elsewhere: %w", name, err)
	}
	uid, err := strconv.ParseUint(number, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("finding the unit's User=: user %q has the number %q", name, number)
	}
	return int(uid), nil
}

// lookupTime bounds the search for a user, which may go over the network.
const lookupTime = 10 * time.Second

// getent asks the C library for a user's number, as getent(1) prints it: of users
// in LDAP and the like only the modules in nsswitch.conf(5) know.
func getent(name string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), lookupTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/usr/bin/getent", "passwd", "--", name)
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return "", fmt.Errorf("getent passwd gave no answer within %v", lookupTime)
	}
	if err != nil {
		return "", fmt.Errorf("getent passwd: %w", err)
	}
	field := strings.Split(string(out), ":")
	if len(field) < 3 {
		return "", errors.New("getent passwd: expected an entry as in passwd(5)")
	}
	return field[2], nil
}
