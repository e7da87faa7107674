package units

import (
	"errors"
	"fmt"
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
