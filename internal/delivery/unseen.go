package delivery

import (
	"fmt"
	"path"
	"strings"

	"github.com/bootseal/bootseal/policy"
	"github.com/bootseal/bootseal/units"
)

// maxSeen bounds what is read to see whether a file is there, in bytes.
const maxSeen = 1 << 20

// unseen is for a unit that has no file here, for the reason given: another generator
// may make it, at the same time. It refuses a policy for which the unit's own settings
// would have to be known.
func (pl *Planner) unseen(p *policy.Policy, reason error) (*units.Unit, error) {
	maker := pl.maker(p.Unit)
	if maker == "" {
		maker = "if another generator makes it, it is not there yet"
	}
	for _, c := range p.Credentials {
		key := "replaces"
		switch {
		case c.Option != "":
			key = "option"
		case c.Replaces == "":
			continue
		}
		return nil, fmt.Errorf("%w; %s, and what is not there yet cannot be changed by the %s of credential %s: expected a policy without", reason, maker, key, c.Name)
	}
	return pl.tree.Unseen(p.Unit)
}

// maker tells which generator makes a unit, and what its own files can do; "" if that
// is not known.
func (pl *Planner) maker(unit string) string {
	name := strings.TrimSuffix(unit, ".service")
	for _, folder := range []string{"/etc/containers/systemd", "/run/containers/systemd", "/usr/local/share/containers/systemd", "/usr/share/containers/systemd"} {
		for _, kind := range []string{".container", ".kube"} {
			file := path.Join(folder, name+kind)
			if _, err := pl.dir.ReadFile(file, maxSeen); err == nil {
				return fmt.Sprintf("podman makes it from %s, which can itself have Secret= or [Service] LoadCredentialEncrypted=", file)
			}
		}
	}
	if _, err := pl.dir.ReadFile("/etc/init.d/"+name, maxSeen); err == nil {
		return "systemd makes it from /etc/init.d/" + name
	}
	return ""
}
