package delivery

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/bootseal/bootseal/internal/contract"
	"github.com/bootseal/bootseal/internal/root"
	"github.com/bootseal/bootseal/policy"
	"github.com/bootseal/bootseal/units"
)

// What is read for the EnvironmentFile= settings of one unit. A service may own the
// folder that they lead to and have anything in it, and PID 1 waits for the generator:
// so much takes it a few milliseconds. A system has a handful of such files for a unit,
// of some kilobytes. Where there is more, the unit is refused.
const (
	maxEntries      = 4096    // of the folders that are listed for patterns
	maxFiles        = 64      // that are there
	maxEnvironment  = 1 << 20 // bytes of one file
	maxEnvironments = 4 << 20 // bytes of all
)

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
	ours := map[string]bool{}
	for _, name := range variables(p) {
		ours[name] = true
	}
	l := &look{pl: pl}
	for _, s := range u.List("Service", "EnvironmentFile") {
		err := l.each(u.Expand(strings.TrimPrefix(s.Value, "-")), func(file string, text []byte) error {
			if name := firstSet(text, ours); name != "" {
				return fmt.Errorf("%s, which is an EnvironmentFile= in %s, sets %s, too, and goes before the policy; remove it there", file, s.File, name)
			}
			return nil
		})
		if errors.Is(err, errUnseen) {
			return fmt.Errorf("%s:%d: EnvironmentFile=%s: %w", s.File, s.Line, s.Value, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// firstSet returns the first of those variables that text sets, systemd.exec(5), or "".
func firstSet(text []byte, variables map[string]bool) string {
	for len(text) > 0 {
		line := text
		if end := bytes.IndexAny(text, "\n\r"); end >= 0 {
			line, text = text[:end], text[end+1:]
		} else {
			text = nil
		}
		name, _, _ := bytes.Cut(line, []byte("="))
		if name = bytes.Trim(name, " \t"); variables[string(name)] {
			return string(name)
		}
	}
	return ""
}

// errUnseen says that a file cannot be looked at, though it, or others, are there.
var errUnseen = errors.New("this cannot be looked at for variables that the policy sets, too")

// look is how much has been looked at for one unit.
type look struct {
	pl      *Planner
	entries int   // listed
	files   int   // read
	bytes   int64 // of them
}

// each hands the content of the files that a pattern stands for to use.
func (l *look) each(pattern string, use func(file string, text []byte) error) error {
	files, err := l.glob(pattern)
	if err != nil {
		return err
	}
	for _, file := range files {
		if l.pl.automount(file) {
			continue
		}
		text, err := l.pl.dir.ReadFile(file, min(maxEnvironment, maxEnvironments-l.bytes))
		if root.IsMissing(err) || errors.Is(err, root.ErrNotRegular) || errors.Is(err, fs.ErrPermission) {
			continue
		}
		if l.files++; l.files > maxFiles {
			return fmt.Errorf("%w: the unit has more than %d such files; have it name those that it needs", errUnseen, maxFiles)
		}
		switch {
		case errors.Is(err, root.ErrTooLarge):
			return fmt.Errorf("%w: %s is larger than the %d KiB of one file, or the %d KiB of all of the unit's, that are read; make it smaller, or have the unit name others", errUnseen, file, maxEnvironment>>10, maxEnvironments>>10)
		case err != nil:
			return fmt.Errorf("%w: %w", errUnseen, err)
		}
		l.bytes += int64(len(text))
		if err := use(file, text); err != nil {
			return err
		}
	}
	return nil
}

// glob lists the files that a pattern stands for, glob(7), in order; what has no
// wildcard stands for itself.
func (l *look) glob(pattern string) ([]string, error) {
	if !path.IsAbs(pattern) {
		return nil, nil // systemd ignores it
	}
	paths := []string{"/"}
	for i, part := range strings.Split(pattern, "/")[1:] {
		var next []string
		for _, folder := range paths {
			if i > 0 {
				folder += "/"
			}
			if !strings.ContainsAny(part, `*?[\`) {
				next = append(next, folder+part)
				continue
			}
			if l.pl.automount(folder) {
				continue
			}
			names, err := l.pl.dir.ListFolder(folder, maxEntries-l.entries)
			switch {
			case root.IsMissing(err) || errors.Is(err, fs.ErrPermission):
				continue
			case errors.Is(err, root.ErrTooMany):
				return nil, fmt.Errorf("%w: there are more than %d entries in %s, or in all folders of such patterns; have the unit name a folder without other files", errUnseen, maxEntries, folder)
			case err != nil:
				return nil, fmt.Errorf("%w: %w", errUnseen, err)
			}
			l.entries += len(names)
			for _, name := range names {
				if matches(part, name) {
					next = append(next, folder+name)
				}
			}
		}
		paths = next
	}
	slices.Sort(paths)
	return paths, nil
}

// matches tells whether a name fits a pattern, glob(7).
func matches(pattern, name string) bool {
	if name[0] == '.' && pattern[0] != '.' && !strings.HasPrefix(pattern, `\.`) {
		return false
	}
	ok, err := path.Match(strings.ReplaceAll(pattern, "[!", "[^"), name)
	return ok || err != nil && pattern == name
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
