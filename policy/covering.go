package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/bootseal/bootseal/internal/root"
)

// UnitName adds the suffix that may be left out, as for systemctl(1).
func UnitName(name string) string {
	if strings.Contains(name, ".") {
		return name
	}
	return name + ".service"
}

// Named tells whether the unit, or the template that it is an instance of, is among
// names. Without names every unit is.
func Named(names []string, unit string) bool {
	return len(names) == 0 || slices.ContainsFunc(names, func(name string) bool {
		name = UnitName(name)
		return name == unit || name == Template(unit)
	})
}

// Covering finds the policy files of the units, an instance's own or its
// template's, or without units all of them. What is wrong with other files is told
// beside.
func Covering(dir root.Dir, names []string) (files []File, beside []error, err error) {
	all, beside := Find(dir)
	if len(names) == 0 {
		if len(all) == 0 {
			return nil, beside, fmt.Errorf("%w in %s", ErrNoPolicy, strings.Join(Dirs, ", "))
		}
		return all, beside, nil
	}
	for _, name := range names {
		name = UnitName(name)
		if err := CheckUnit(name); err != nil {
			return nil, beside, err
		}
		i := slices.IndexFunc(all, func(f File) bool { return f.Unit == name })
		if i < 0 {
			i = slices.IndexFunc(all, func(f File) bool { return f.Unit == Template(name) })
		}
		if i < 0 {
			return nil, beside, fmt.Errorf("%s: %w: expected %s/%s.toml", name, ErrNoPolicy, Dirs[0], name)
		}
		files = append(files, all[i])
	}
	return files, beside, nil
}
