package policy

import (
	"bytes"
	"fmt"
)

// maxNesting is how deep keys and brackets of a policy may nest; two would do.
const maxNesting = 8

// checkNesting refuses what nests deeper. The decoder takes minutes over a few
// kilobytes of "a.a.a…" or "{a={a={…", and systemd waits for the generator.
func checkNesting(text []byte) error {
	line, dots, brackets := 1, 0, 0
	for rest := text; len(rest) > 0; {
		n := 1
		switch rest[0] {
		case '#':
			if n = bytes.IndexByte(rest, '\n'); n < 0 {
				n = len(rest)
			}
		case '"', '\'':
			n = stringEnd(rest)
		case '.':
			dots++
		case '[', '{':
			brackets++
			dots = 0
		case ']', '}':
			brackets = max(brackets-1, 0)
			dots = 0
		case '=', ',', '\n':
			dots = 0
		}
		if dots >= maxNesting || brackets > maxNesting {
			return &Error{Where: fmt.Sprintf("line %d", line), Err: fmt.Errorf("it nests more than %d deep; expected tables written [[credential]] and [seal]", maxNesting)}
		}
		line += bytes.Count(rest[:n], []byte("\n"))
		rest = rest[n:]
	}
	return nil
}

// stringEnd is how long the string is that text begins with. One that is not
// closed ends with its line, where the decoder stops, too.
func stringEnd(text []byte) int {
	quote := text[:1]
	triple := bytes.Repeat(quote, 3)
	long := bytes.HasPrefix(text, triple)
	i := 1
	if long {
		i = 3
	}
	for i < len(text) {
		switch {
		case text[i] == '\\' && quote[0] == '"':
			i++
		case long && bytes.HasPrefix(text[i:], triple):
			i += 3
			for range 2 { // two more belong to the text
				if bytes.HasPrefix(text[i:], quote) {
					i++
				}
			}
			return i
		case !long && text[i] == quote[0]:
			return i + 1
		case !long && text[i] == '\n':
			return i
		}
		i++
	}
	return len(text)
}
