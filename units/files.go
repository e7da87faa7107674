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
	files := map[string]string{}
	for _, s := range u.List("Service", "ExecStart") {
		commands, err := splitCommands(s.Value)
		if err != nil && ignored(s.Value) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", s.File, s.Line, err)
		}
		for _, c := range commands {
			for _, p := range c.find(func(name string) bool { return slices.Contains(options, name) }) {
				file, err := u.fileOf(c, c.value(p))
				if err == nil && files[p.name] != "" && files[p.name] != file {
					err = fmt.Errorf("another file than the %s elsewhere in the unit", files[p.name])
				}
				if err != nil {
					return nil, fmt.Errorf("%s:%d: %s %s: %w", s.File, s.Line, p.name, c.value(p), err)
				}
				files[p.name] = file
			}
		}
	}
	var all []OptionFile
	for _, name := range options {
		if files[name] != "" {
			all = append(all, OptionFile{name, files[name]})
		}
	}
	return all, nil
}

// fileOf is the path of a file that a command names.
func (u *Unit) fileOf(c command, value string) (string, error) {
	if strings.Contains(value, "$") && !strings.Contains(c.prefix, ":") {
		return "", errors.New("a path with a variable; write it out in the unit")
	}
	file, err := u.expandAll(value)
	switch {
	case err != nil:
		return "", err
	case file == "":
		return "", errors.New("no file; expected a path")
	case path.IsAbs(file):
		return path.Clean(file), nil
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

// expandAll is Expand for a value in which no other specifier may be.
func (u *Unit) expandAll(value string) (string, error) {
	if strings.Contains(u.Expand(strings.ReplaceAll(value, "%%", "")), "%") {
		return "", errors.New("a path with a specifier whose value is not known before the unit starts; write it out in the unit")
	}
	return u.Expand(value), nil
}
