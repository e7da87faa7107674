// Package units reads systemd's unit files as systemd does, with their drop-ins, and
// the command lines in them, which it can also change; the static units that are
// installed lie beside it. It knows nothing of policies, and refuses what systemd would
// give up on.
package units

import (
	"bytes"
	"strings"
	"unicode/utf8"
)

// Setting is one assignment of a unit file, systemd.syntax(7).
type Setting struct {
	Section string
	Name    string
	Value   string // without surrounding blanks; continuation lines joined
	File    string
	Line    int // of the first line, from 1
}

// maxLine is the longest logical line that systemd reads, in bytes.
const maxLine = 1 << 20

const blanks = " \t\n\r"

// Parse reads the text of a unit file or drop-in. What systemd warns about and
// ignores is ignored: lines without "=" or outside of a section. A malformed
// section header, a line that is not UTF-8 or an overlong one ends the reading,
// as it makes systemd give up on the file; ok is false then.
func Parse(text []byte, file string) (settings []Setting, ok bool) {
	var (
		begun   bool // a line that is no comment has been seen
		section string
		logical []byte // what the lines up to here make up
		start   int
	)
	end := func() bool {
		line := strings.Trim(string(logical), blanks)
		logical = logical[:0]
		switch {
		case line == "":
			return true
		case !utf8.ValidString(line):
			return false
		case line[0] == '[':
			section = strings.TrimSuffix(line[1:], "]")
			return line[len(line)-1] == ']'
		}
		name, value, found := strings.Cut(line, "=")
		if name = strings.Trim(name, blanks); found && name != "" && section != "" {
			settings = append(settings, Setting{section, name, strings.Trim(value, blanks), file, start})
		}
		return true
	}
	for number := 1; len(text) > 0; number++ {
		var line []byte
		line, text = cutLine(text)
		if text := bytes.TrimLeft(line, blanks); len(text) > 0 && (text[0] == '#' || text[0] == ';') {
			continue
		}
		if !begun {
			line, begun = bytes.TrimPrefix(line, []byte("\xef\xbb\xbf")), true
		}
		if len(logical) == 0 {
			start = number
		}
		if len(logical)+len(line) > maxLine {
			return settings, false
		}
		logical = append(logical, line...)
		if continued(logical) {
			logical[len(logical)-1] = ' '
			continue
		}
		if !end() {
			return settings, false
		}
	}
	return settings, end()
}

// cutLine splits text after its first line. Line feed, carriage return and NUL
// end a line, each at most once, so that CR LF is one end.
func cutLine(text []byte) (line, rest []byte) {
	i := bytes.IndexAny(text, "\n\r\x00")
	if i < 0 {
		return text, nil
	}
	line = text[:i]
	for first := i; i < len(text) && bytes.IndexByte([]byte("\n\r\x00"), text[i]) >= 0 && bytes.IndexByte(text[first:i], text[i]) < 0; {
		i++
	}
	return line, text[i:]
}

// continued tells whether a line ends in a backslash that is not itself escaped.
func continued(line []byte) bool {
	return (len(line)-len(bytes.TrimRight(line, `\`)))%2 == 1
}
