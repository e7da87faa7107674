package sealing

import (
	"fmt"
	"os"
	"os/user"
	"strconv"

	"github.com/bootseal/bootseal/internal/encryption"
	"github.com/bootseal/bootseal/internal/machine"
	"github.com/bootseal/bootseal/internal/report"
	"github.com/bootseal/bootseal/internal/root"
)

// Self is what --uid= takes for the caller.
const Self = "self"

// ScopeOf returns the scope that only the user of this name or number is in, on
// this machine. Like systemd it knows of root and nobody without asking.
func ScopeOf(name string) (*encryption.Scope, error) {
	id, err := machine.ID(root.Dir("/"))
	if err != nil {
		return nil, err
	}
	if name == Self {
		name = strconv.Itoa(os.Getuid())
	}
	switch name {
	case "0", "root":
		return &encryption.Scope{UID: 0, User: "root", MachineID: id}, nil
	case "65534", "nobody":
		return &encryption.Scope{UID: 65534, User: "nobody", MachineID: id}, nil
	}
	u, err := user.Lookup(name)
	if _, number := strconv.ParseUint(name, 10, 32); number == nil {
		u, err = user.LookupId(name)
	}
	if err != nil {
		return nil, report.Usagef("--uid=%s: there is no such user in /etc/passwd", name)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("/etc/passwd: user %q has the number %q", u.Username, u.Uid)
	}
	return &encryption.Scope{UID: uint32(uid), User: u.Username, MachineID: id}, nil
}
