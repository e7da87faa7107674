package units

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// ErrCommand says that systemd would not accept a command line.
var ErrCommand = errors.New("not a command line that systemd accepts")

// word is one argument of a command line: its value without quotes and escapes,
// and where it stands in the line.
type word struct {
	value      string
	start, end int
}

// command is one of the commands of an ExecStart= line.
type command struct {
	prefix string // special executable prefixes, systemd.service(5)
	words  []word // words[0] is the executable, without prefix
}

// splitCommands reads the value of an ExecStart= as systemd.service(5) says:
// arguments between blanks, with quotes and escapes; a lone ";" ends a command.
func splitCommands(line string) ([]command, error) {
	var (
		all     []command
		current command
	)
	for i := 0; ; {
		for i < len(line) && strings.IndexByte(blanks, line[i]) >= 0 {
			i++
		}
		if i == len(line) {
			break
		}
		if isWord(line[i:], ";") {
			if len(current.words) > 0 {
				all = append(all, current)
			}
			current = command{}
			i++
			continue
		}
		w := word{";", i, i + 2}
		if !isWord(line[i:], `\;`) {
			var err error
			if w, err = nextWord(line, i); err != nil {
				return nil, err
			}
		}
		i = w.end
		if len(current.words) == 0 {
			executable := strings.TrimLeft(w.value, "-@:+!|")
			current.prefix = strings.TrimSuffix(w.value, executable)
			w.value = executable
		}
		current.words = append(current.words, w)
	}
	if len(current.words) > 0 {
		all = append(all, current)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%w: it is empty", ErrCommand)
	}
	return all, nil
}

// ignored tells whether systemd goes on without this line if it is malformed: with
// the "-" prefix, or where not even its first word can be read.
func ignored(line string) bool {
	if _, err := nextWord(line, 0); err != nil {
		return true
	}
	return strings.Contains(line[:len(line)-len(strings.TrimLeft(line, `-@:+!|"'`))], "-")
}

// Skips tells whether systemd goes on without this line, as it is malformed: it is not
// one of the unit's commands then.
func Skips(line string) bool {
	_, err := splitCommands(line)
	return err != nil && ignored(line)
}

// isWord tells whether s begins with the word w, as it is written.
func isWord(s, w string) bool {
	rest, ok := strings.CutPrefix(s, w)
	return ok && (rest == "" || strings.IndexByte(blanks, rest[0]) >= 0)
}

// nextWord reads the word that begins at start.
func nextWord(line string, start int) (word, error) {
	var (
		value []byte
		quote byte
		i     = start
	)
	for ; i < len(line); i++ {
		c := line[i]
		switch {
		case c == '\\':
			decoded, n := unescapeC(line[i:])
			value = append(value, decoded...)
			i += n - 1
		case quote != 0:
			if c == quote {
				quote = 0
			} else {
				value = append(value, c)
			}
		case c == '"' || c == '\'':
			quote = c
		case strings.IndexByte(blanks, c) >= 0:
			return word{string(value), start, i}, nil
		default:
			value = append(value, c)
		}
	}
	if quote != 0 {
		return word{}, fmt.Errorf("%w: a quote is not closed", ErrCommand)
	}
	return word{string(value), start, i}, nil
}

// unescapeC decodes the escape sequence that s begins with, systemd.syntax(7),
// and returns how many bytes it takes. Of an unknown one, both characters stay.
func unescapeC(s string) (decoded []byte, n int) {
	if len(s) < 2 {
		return []byte(s), len(s)
	}
	if i := strings.IndexByte(`abfnrtv\"'s`, s[1]); i >= 0 {
		return []byte{"\a\b\f\n\r\t\v\\\"' "[i]}, 2
	}
	number := func(from, digits, base int) (rune, bool) {
		if len(s) < from+digits {
			return 0, false
		}
		v, err := strconv.ParseUint(s[from:from+digits], base, 32)
		return rune(v), err == nil && v != 0
	}
	switch c := s[1]; {
	case c == 'x':
		if v, ok := number(2, 2, 16); ok {
			return []byte{byte(v)}, 4
		}
	case c == 'u' || c == 'U':
		digits := 4
		if c == 'U' {
			digits = 8
		}
		if v, ok := number(2, digits, 16); ok && utf8.ValidRune(v) {
			return utf8.AppendRune(nil, v), 2 + digits
		}
	case '0' <= c && c <= '7':
		if v, ok := number(1, 3, 8); ok && v <= 0xff {
			return []byte{byte(v)}, 4
		}
	}
	return []byte(s[:2]), 2
}

// place is where an option stands in a command: its value is the next word, or
// joined to it.
type place struct {
	name   string
	at     int // index of the word
	joined bool
}

// find returns the places of the options that are meant.
func (c command) find(meant func(name string) bool) (all []place) {
	for i := 1; i < len(c.words) && c.words[i].value != "--"; i++ {
		name, _, joined := strings.Cut(c.words[i].value, "=")
		if !meant(name) {
			continue
		}
		all = append(all, place{name, i, joined})
		if !joined {
			i++
		}
	}
	return all
}

// value is that of an option, "" where there is none.
func (c command) value(p place) string {
	switch {
	case p.joined:
		return c.words[p.at].value[len(p.name)+1:]
	case p.at+1 < len(c.words):
		return c.words[p.at+1].value
	}
	return ""
}

// Option is a command line option, and the path that it is to have.
type Option struct {
	Name     string
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

// SetOptions returns the command line with the options pointing to their paths
// where they stand as "--option value" or "--option=value", and notes in found
// which ones did. Everything else stays as it was written.
func SetOptions(line string, options []Option, found map[string]bool) (string, error) {
	commands, err := splitCommands(line)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	last := 0
	replace := func(start, end int, text string) {
		b.WriteString(line[last:start] + text)
		last = end
	}
	for _, c := range commands {
		for _, p := range c.find(func(name string) bool {
			return slices.ContainsFunc(options, func(o Option) bool { return o.Name == name })
		}) {
			o := options[slices.IndexFunc(options, func(o Option) bool { return o.Name == p.name })]
			found[o.Name] = true
			w := c.words[p.at]
			switch value := Quote(o.path(c)); {
			case p.joined:
				replace(w.start, w.end, o.Name+"="+value)
			case p.at+1 < len(c.words):
				replace(c.words[p.at+1].start, c.words[p.at+1].end, value)
			default:
				replace(w.end, w.end, " "+value)
			}
		}
	}
	return b.String() + line[last:], nil
}

// shells are the programs that take a script as an argument, in which an option
// has no place of its own.
var shells = []string{"sh", "bash", "dash", "ash", "ksh", "mksh", "zsh", "busybox"}

// runsShell tells whether a shell reads the command's arguments as a script: it is
// one itself, the "|" prefix asks for one, or it starts one with -c.
func (c command) runsShell() bool {
	for i, w := range c.words {
		if !slices.Contains(shells, path.Base(w.value)) {
			continue
		}
		if i == 0 {
			return true
		}
		if i+1 < len(c.words) {
			if next := c.words[i+1].value; strings.HasPrefix(next, "-") && strings.HasSuffix(next, "c") {
				return true
			}
		}
	}
	return strings.Contains(c.prefix, "|")
}

// AppendOption adds an option to the end of a command line, or before the "--"
// that ends the options.
func AppendOption(line string, o Option) (string, error) {
	commands, err := splitCommands(line)
	if err != nil {
		return "", err
	}
	c := commands[0]
	if len(commands) > 1 {
		return "", fmt.Errorf("%s is in none of the %d commands of the unit's ExecStart=; add it to the one that takes it", o.Name, len(commands))
	}
	if c.runsShell() {
		return "", fmt.Errorf("the unit's ExecStart= runs a shell, in whose script %s cannot be set; use the credential's path there, ${CREDENTIALS_DIRECTORY}", o.Name)
	}
	text := o.Name + " " + Quote(o.path(c))
	if i := slices.IndexFunc(c.words, func(w word) bool { return w.value == "--" }); i > 0 {
		if slices.ContainsFunc(c.words[i:], func(w word) bool { return w.value == o.Name || strings.HasPrefix(w.value, o.Name+"=") }) {
			return "", fmt.Errorf(`in the unit's ExecStart= %s comes after "--", where it may be no Option; use the credential's path there, ${CREDENTIALS_DIRECTORY}`, o.Name)
		}
		return line[:c.words[i].start] + text + " " + line[c.words[i].start:], nil
	}
	end := c.words[len(c.words)-1].end
	return line[:end] + " " + text + line[end:], nil
}

// Quote writes a word so that systemd reads it back unchanged. Specifiers and
// variables in it stay in force.
func Quote(s string) string {
	if s != "" && s != ";" && !strings.ContainsAny(s, " \t\n\r\"'\\") {
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// EscapeSpecifiers keeps systemd from reading specifiers in a fixed text.
func EscapeSpecifiers(s string) string { return strings.ReplaceAll(s, "%", "%%") }

// EscapeWord keeps systemd from replacing anything in an argument.
func EscapeWord(s string) string {
	return Quote(strings.ReplaceAll(EscapeSpecifiers(s), "$", "$$"))
}
