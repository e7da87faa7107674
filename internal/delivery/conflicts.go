package delivery

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/bootseal/bootseal/internal/contract"
	"github.com/bootseal/bootseal/policy"
	"github.com/bootseal/bootseal/units"
)

// maxEnvironment is how much is read of an EnvironmentFile=, in bytes.
const maxEnvironment = 8 << 20

// directory is the variable that names the folder of all credentials.
const directory = "CREDENTIALS_DIRECTORY"

// variables lists what p sets in the environment.
func variables(p *policy.Policy) []string {
	all := []string{directory}
	for _, c := range p.Credentials {
		if c.Environment != "" {
			all = append(all, c.Environment)
		}
	}
	return all
}

// settable refuses variables that the unit takes back when it starts.
func settable(u *units.Unit, list []string) error {
	for _, name := range list {
		for _, s := range u.List("Service", "UnsetEnvironment") {
			if slices.Contains(strings.Fields(s.Value), name) {
				return fmt.Errorf("%s:%d: UnsetEnvironment= takes %s away from the unit; remove it there", s.File, s.Line, name)
			}
		}
	}
	return nil
}

// filesSet refuses variables that an EnvironmentFile= of the unit sets, too: it
// goes before Environment=. One that cannot be read now cannot be looked at.
func (pl *Planner) filesSet(p *policy.Policy, u *units.Unit) error {
	for _, s := range u.List("Service", "EnvironmentFile") {
		for _, file := range pl.glob(u.Expand(strings.TrimPrefix(s.Value, "-"))) {
			if pl.automount(file) {
				continue
			}
			text, err := pl.dir.ReadFile(file, maxEnvironment)
			if err != nil {
				continue
			}
			for line := range strings.Lines(string(text)) {
				name, _, _ := strings.Cut(line, "=")
				if name = strings.Trim(name, " \t\n\r"); slices.Contains(variables(p), name) {
					return fmt.Errorf("%s, which is an EnvironmentFile= in %s, sets %s, too, and goes before the policy; remove it there", file, s.File, name)
				}
			}
		}
	}
	return nil
}

// glob lists the files that a pattern stands for, glob(7), with wildcards in the
// file's name only; the pattern itself if it has none.
func (pl *Planner) glob(pattern string) []string {
	folder, base := path.Split(pattern)
	if !strings.ContainsAny(base, "*?[") {
		return []string{pattern}
	}
	var files []string
	if pl.automount(folder) {
		return nil
	}
	entries, _ := pl.dir.ReadDir(folder)
	for _, entry := range entries {
		if ok, err := path.Match(base, entry.Name()); ok && err == nil {
			files = append(files, folder+entry.Name())
		}
	}
	return files
}

// replaced says which drop-in takes the place of ours: one of the same name in a
// folder that goes before the generators' own.
func replaced(u *units.Unit) error {
	for _, file := range u.DropIns {
		if path.Base(file) == contract.DropInName && units.OutranksGenerator(file) {
			return fmt.Errorf("%s takes the place of the drop-in with that name that bootseal generates; remove it", file)
		}
	}
	return nil
}

// undoes finds the setting among after that takes back what text sets.
func undoes(after []units.Setting, u *units.Unit, p *policy.Policy, text string) error {
	ours, _ := units.Parse([]byte(text), contract.DropInName)
	variables := variables(p)
	set := func(name string) bool {
		return slices.ContainsFunc(ours, func(s units.Setting) bool { return s.Section == "Service" && s.Name == name })
	}
	// sets tells whether a value has one of our variables, with that after it.
	sets := func(value, after string) bool {
		return slices.ContainsFunc(variables, func(name string) bool { return strings.Contains(value, name+after) })
	}
	for _, s := range after {
		undone := false
		switch s.Name {
		case "LoadCredential", "LoadCredentialEncrypted":
			// An empty one of either kind resets both.
			undone = (set("LoadCredential") || set("LoadCredentialEncrypted")) && (s.Value == "" || isCredential(u, s, p))
		case "SetCredential", "SetCredentialEncrypted":
			undone = s.Value != "" && isCredential(u, s, p)
		case "ExecStart", "ExecStartPost", "ExecReload", "ExecStop":
			undone = set(s.Name)
		case "ExecStartPre", "ExecStopPost", "TemporaryFileSystem", "DeviceAllow":
			undone = s.Value == "" && set(s.Name)
		case "UnsetEnvironment":
			undone = s.Value == "" && set(s.Name) || sets(s.Value, "")
		case "BindPaths", "BindReadOnlyPaths":
			undone = s.Value == "" && set("BindReadOnlyPaths")
		case "Environment":
			undone = set("Environment") && s.Value == "" || sets(s.Value, "=")
		case "PrivateMounts":
			undone = set("PrivateMounts") && (units.IsFalse(s.Value) || s.Value == "")
		default:
			undone = (strings.HasPrefix(s.Name, "Condition") || strings.HasPrefix(s.Name, "Assert")) && u.Needs(s, p.Replaced())
		}
		if undone {
			return fmt.Errorf("%s:%d: %s=%s takes back what the policy sets; rename that file so that it sorts before %s", s.File, s.Line, s.Name, s.Value, contract.DropInName)
		}
	}
	return nil
}

// isCredential tells whether a LoadCredential= or the like is of one of the
// policy's credentials.
func isCredential(u *units.Unit, s units.Setting, p *policy.Policy) bool {
	name, _, _ := strings.Cut(s.Value, ":")
	return slices.ContainsFunc(p.Credentials, func(c policy.Credential) bool { return c.Name == u.Expand(name) })
}

// onlyOurs takes away what the unit itself says of the policy's credentials, which
// systemd would use for a blob that is missing, and of the variable that names
// their folder, which goes before systemd's. Commands after ExecStart= have that from
// systemd on some versions only.
func (d *dropIn) onlyOurs(o *order) {
	u := o.unit
	own := u.List("Service", "SetCredential", "SetCredentialEncrypted")
	rest := slices.DeleteFunc(slices.Clone(own), func(s units.Setting) bool { return isCredential(u, s, o.policy) })
	if len(rest) < len(own) {
		d.set("SetCredential", "")
		for _, s := range rest {
			d.set(s.Name, s.Value)
		}
	}
	if d.folder != o.systemds() || u.Sets(directory) || o.policy.SharedMounts && o.find(lateCommands, o.mayRead) != nil {
		d.set("Environment", directory+"="+d.folder)
	}
}
