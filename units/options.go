package units

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Option is a command line option, and the path that it is to have.
type Option struct {
	Name     string
	Replaces string // the file that stands where the path belongs; may be empty
	Variable string // the path by way of an environment variable
	Plain    string // the path without one
}

// path is how the option's value is written for c: the ":" prefix keeps systemd
// from replacing variables.
func (o Option) path(c command) string {
	if strings.Contains(c.prefix, ":") {
		return o.Plain
	}
	return o.Variable
}

// execution is one of the commands of a unit.
type execution struct {
	command
	reading
	setting Setting // the ExecStart= that it is from
	line    int     // index of that one
}

// errorf says where the command is.
func (e *execution) errorf(format string, args ...any) error {
	return fmt.Errorf("%s:%d: %w", e.setting.File, e.setting.Line, fmt.Errorf(format, args...))
}

// executions reads ExecStart= lines of u, but for those that systemd skips.
func (u *Unit) executions(lines []Setting) ([]*execution, error) {
	var all []*execution
	for i, s := range lines {
		commands, err := splitCommands(s.Value)
		if err != nil && ignored(s.Value) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", s.File, s.Line, err)
		}
		for _, c := range commands {
			all = append(all, &execution{c, u.read(c), s, i})
		}
	}
	return all, nil
}

// place is where an option stands in a command, with its value in the next word or
// joined to it.
type place struct {
	*execution
	option string
	at     int    // index of the word
	joined string // what goes before the value in the same word; may be empty
	value  string // as written
	role   role
	file   string // that the value names
	err    error  // why that is not known
}

// role tells how certain it is that a place is one of the option that is meant.
type role int

const (
	own     role = iota // an option of the program
	operand             // after a "--", where it may be none
	foreign             // of a wrapper, which takes no credential, or another one that begins like it
)

// places returns where options stand, but for what is the value of another of them.
func (u *Unit) places(commands []*execution, options ...string) []place {
	var all []place
	for _, e := range commands {
		after := false // a "--" that no wrapper takes
		for i := 1; i < len(e.words); i++ {
			word := e.words[i].value
			if i >= e.start && word == "--" {
				after = true
				continue
			}
			at := slices.IndexFunc(options, func(name string) bool { return word == name || strings.HasPrefix(word, name+"=") })
			if at < 0 {
				// -fVALUE may be -f with a value, or another option.
				at = slices.IndexFunc(options, func(name string) bool { return len(name) == 2 && strings.HasPrefix(word, name) })
			}
			if at < 0 {
				continue
			}
			p := place{execution: e, option: options[at], at: i}
			rest := word[len(p.option):]
			switch {
			case i < e.start || rest != "" && rest[0] != '=':
				p.role = foreign
			case after:
				p.role = operand
			}
			switch {
			case rest != "":
				p.value = strings.TrimPrefix(rest, "=")
				p.joined = word[:len(word)-len(p.value)]
			case i+1 < len(e.words):
				i++
				p.value = e.words[i].value
			}
			p.file, p.err = u.fileOf(e, p.value)
			all = append(all, p)
		}
	}
	return all
}

// alike tells whether all places name the same file, or have the same value where that
// is not known.
func alike(all []place) bool {
	return !slices.ContainsFunc(all, func(p place) bool {
		if first := all[0]; p.err == nil && first.err == nil {
			return p.file != first.file
		}
		return p.value != all[0].value
	})
}

// meant returns the places that o is for; none where it has yet to be added. Others
// are those that are to have the same option with another file.
func (o Option) meant(u *Unit, all []place, others bool) ([]place, error) {
	if named := slices.DeleteFunc(slices.Clone(all), func(p place) bool { return !u.names(p, o.Replaces) }); len(named) > 0 {
		return named, nil
	}
	all = slices.DeleteFunc(slices.Clone(all), func(p place) bool { return p.role == foreign })
	switch {
	case len(all) == 0 && !others:
		return nil, nil
	case len(all) == 0:
		return nil, fmt.Errorf("%s is to have several files, but stands nowhere in the unit's ExecStart=; add it there for each file that is a credential's replaces", o.Name)
	case !slices.ContainsFunc(all, func(p place) bool { return p.role == own }):
		return nil, all[0].errorf(`ExecStart= has %s only after "--", where it may be no option; if it is one, set the policy's replaces to the file that it names, or use the credential's path there, ${CREDENTIALS_DIRECTORY}`, o.Name)
	case alike(all) && !others:
		return all, nil
	}
	var values []string
	for _, p := range all {
		if value := fmt.Sprintf("%q", p.value); !slices.Contains(values, value) {
			values = append(values, value)
		}
	}
	found := all[0].errorf("ExecStart= has %s with %s", o.Name, strings.Join(values, " and "))
	if o.Replaces == "" {
		return nil, fmt.Errorf("%w; set the policy's replaces to the file that the credential stands for, to tell which is meant", found)
	}
	return nil, fmt.Errorf("%w, of which the policy's replaces, %s, is none; it tells which is meant, so set it to the file that the credential stands for", found, o.Replaces)
}

// edit is a change to a line.
type edit struct {
	start, end int
	text       string
}

// edit points the option at p to a path.
func (p place) edit(path string) edit {
	w := p.words[p.at]
	switch value := Quote(path); {
	case p.joined != "":
		return edit{w.start, w.end, p.joined + value}
	case p.at+1 < len(p.words):
		next := p.words[p.at+1]
		return edit{next.start, next.end, value}
	default:
		return edit{w.end, w.end, " " + value}
	}
}

// SetOptions returns the values of ExecStart= lines of u, but for those that systemd
// skips, with the options pointing to their paths. Where an option stands with
// different files, those are replaced which it names as its own; one that stands
// nowhere is added to the end of the line. What is not certain is refused, and
// everything else stays as it was written.
func (u *Unit) SetOptions(lines []Setting, options []Option) ([]string, error) {
	commands, err := u.executions(lines)
	if err != nil {
		return nil, err
	}
	edits := make([][]edit, len(lines))
	var names []string
	for _, o := range options {
		names = append(names, o.Name)
	}
	places := u.places(commands, names...)
	for _, o := range options {
		same := slices.DeleteFunc(slices.Clone(places), func(p place) bool { return p.option != o.Name })
		others := slices.ContainsFunc(options, func(other Option) bool { return other.Name == o.Name && other != o })
		meant, err := o.meant(u, same, others)
		if err != nil {
			return nil, err
		}
		for _, p := range meant {
			edits[p.line] = append(edits[p.line], p.edit(o.path(p.command)))
		}
		if len(meant) == 0 {
			if err := appendable(commands, o.Name); err != nil {
				return nil, err
			}
			e := commands[0]
			end := e.words[len(e.words)-1].end
			edits[e.line] = append(edits[e.line], edit{end, end, " " + o.Name + " " + Quote(o.path(e.command))})
		}
	}
	var all []string
	for i, s := range lines {
		if slices.ContainsFunc(commands, func(e *execution) bool { return e.line == i }) {
			line, err := apply(s.Value, edits[i])
			if err != nil {
				return nil, fmt.Errorf("%s:%d: %w", s.File, s.Line, err)
			}
			all = append(all, line)
		}
	}
	return all, nil
}

// apply makes changes to a line.
func apply(line string, edits []edit) (string, error) {
	slices.SortStableFunc(edits, func(a, b edit) int { return cmp.Compare(a.start, b.start) })
	var b strings.Builder
	last := 0
	for _, e := range edits {
		if e.start < last {
			return "", errors.New("ExecStart= has a file that is replaces of two of the policy's credentials; correct them")
		}
		b.WriteString(line[last:e.start] + e.text)
		last = e.end
	}
	return b.String() + line[last:], nil
}

// appendable tells why an option cannot be added to the end of a unit's command.
func appendable(commands []*execution, name string) error {
	if len(commands) == 0 {
		return fmt.Errorf("the unit has no ExecStart= that could take %s", name)
	}
	e := commands[0]
	switch {
	case len(commands) > 1:
		return e.errorf("%s is in none of the unit's %d ExecStart= commands; add it to the one that takes it", name, len(commands))
	case (len(e.setting.Value)-len(strings.TrimRight(e.setting.Value, `\`)))%2 == 1:
		return e.errorf("ExecStart= ends in a backslash, to which nothing can be added; remove it there")
	case errors.Is(e.stuck, errText):
		return e.errorf("ExecStart= runs a shell, in whose script %s cannot be set; use the credential's path there, ${CREDENTIALS_DIRECTORY}", name)
	case errors.Is(e.stuck, errRoot):
		return e.errorf("ExecStart= starts a program with %w, where the credential is not; let the unit start it by itself, or leave option out of the policy", e.stuck)
	case e.stuck != nil:
		return e.errorf("ExecStart= leaves open which program gets %s at the end of the line: %w; write it into the unit's ExecStart= where it belongs", name, e.stuck)
	case slices.ContainsFunc(e.args[:e.made], func(arg string) bool { return arg == name || strings.HasPrefix(arg, name+"=") }):
		return e.errorf("ExecStart= has %s in a text that a program splits into words; write them out there", name)
	}
	return nil
}
