package units

import (
	"path"
	"strings"
)

// Program is one that a command line runs.
type Program struct {
	Prefix string // special executable prefixes, systemd.service(5)
	Name   string // of its file, without the folders
}

// Programs lists those of an Exec…= line. A line that systemd does not accept has none.
func Programs(line string) (all []Program) {
	commands, err := splitCommands(line)
	if err != nil {
		return nil
	}
	for _, c := range commands {
		all = append(all, Program{c.prefix, path.Base(c.words[0].value)})
	}
	return all
}

// Words splits a value that is a list of words, with quotes and escapes, systemd.syntax(7).
// What cannot be split is left out.
func Words(value string) (all []string) {
	for i := 0; i < len(value); {
		if strings.IndexByte(blanks, value[i]) >= 0 {
			i++
			continue
		}
		w, err := nextWord(value, i)
		if err != nil {
			return all
		}
		all = append(all, w.value)
		i = w.end
	}
	return all
}
