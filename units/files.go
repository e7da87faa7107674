package units

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// OptionFile is a file that an option of a command names.
type OptionFile struct {
	Option string
	File   string // absolute path
}

// OptionFiles finds the files that those options name in the ExecStart= of u, in
// the order of the options. It fails where a path cannot be told from the unit's
// files alone: what the running service says of itself is not to be trusted.
func (u *Unit) OptionFiles(options []string) ([]OptionFile, error) {
	for _, name := range []string{"RootDirectory", "RootImage"} {
		if u.Last("Service", name) != "" {
			return nil, fmt.Errorf("%s has a %s=, below which its files are", u.Name, name)
		}
	}
	commands, err := u.executions(u.List("Service", "ExecStart"))
	if err != nil {
		return nil, err
	}
	var all []OptionFile
	found := u.places(commands, options...)
	for _, name := range options {
		places := slices.DeleteFunc(slices.Clone(found), func(p place) bool { return p.option != name || p.role == foreign })
		if !slices.ContainsFunc(places, func(p place) bool { return p.role == own }) {
			continue
		}
		for _, p := range places {
			err := p.err
			if err == nil && p.file != places[0].file {
				err = fmt.Errorf("another file than the %s elsewhere in the unit; write a policy, of which replaces tells which is meant", places[0].file)
			}
			if err != nil {
				return nil, p.errorf("%s %s: %w", name, p.value, err)
			}
		}
		all = append(all, OptionFile{name, places[0].file})
	}
	return all, nil
}

// names tells whether the value at p is that file, which may be below the unit's root
// directory as well as in it.
func (u *Unit) names(p place, file string) bool {
	root := u.Last("Service", "RootDirectory")
	return file != "" && p.err == nil && (p.file == file || root != "" && path.Join(u.Expand(root), p.file) == file)
}

// fileOf is the path of a file that a command names.
func (u *Unit) fileOf(e *execution, value string) (string, error) {
	if !strings.Contains(e.prefix, ":") {
		if strings.Contains(strings.ReplaceAll(value, "$$", ""), "$") {
			return "", errors.New("a path with a variable; write it out in the unit")
		}
		value = strings.ReplaceAll(value, "$$", "$")
	}
	if errors.Is(e.stuck, errRoot) {
		return "", e.stuck
	}
	file, err := u.expandAll(value)
	switch {
	case err != nil:
		return "", err
	case file == "":
		return "", errors.New("no file; expected a path")
	case path.IsAbs(file):
		return path.Clean(file), nil
	case e.moved:
		return "", errors.New("relative to a folder that the command changes to; write the path out in the unit")
	}
	folder, err := u.expandAll(strings.TrimPrefix(u.Last("Service", "WorkingDirectory"), "-"))
	switch {
	case err != nil:
		return "", fmt.Errorf("relative to WorkingDirectory=, %w", err)
	case folder == "~":
		return "", errors.New("relative to the home of the unit's user; write the path out in the unit")
	}
	return path.Join("/", folder, file), nil
}

// expandAll is Expand for a value in which no other specifier may be, nor in a template
// one that tells its instances apart.
func (u *Unit) expandAll(value string) (string, error) {
	bare := strings.ReplaceAll(value, "%%", "")
	instance := slices.ContainsFunc([]string{"%i", "%I", "%f", "%n", "%N"}, func(s string) bool { return strings.Contains(bare, s) })
	if strings.Contains(u.Expand(bare), "%") || instance && strings.HasSuffix(u.Name, "@"+service) {
		return "", errors.New("a path with a specifier whose value is not known before the unit starts; write it out in the unit")
	}
	return u.Expand(value), nil
}
