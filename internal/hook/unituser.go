package hook

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
)

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
	} else if uid := dynamicUser(name); uid != "" {
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

// dynamicUsers has a file for each DynamicUser= that is in use, of root's: its name is
// the number, and the user's name is in it.
const dynamicUsers = "/run/systemd/dynamic-uid"

// dynamicUser returns the number of a dynamic user, or "". Older versions of systemd
// have a link from the name, too, but 262 has none.
func dynamicUser(name string) string {
	if uid, err := os.Readlink(filepath.Join(dynamicUsers, "direct:"+filepath.Base(name))); err == nil {
		return uid
	}
	entries, _ := os.ReadDir(dynamicUsers)
	found := ""
	for _, entry := range entries {
		if !entry.Type().IsRegular() {
			continue
		}
		if text, err := os.ReadFile(filepath.Join(dynamicUsers, entry.Name())); err != nil || strings.TrimSpace(string(text)) != name {
			continue
		}
		if found != "" {
			return "" // one of them is left over, and nothing tells which
		}
		found = entry.Name()
	}
	return found
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
