package units

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestSplitCommands(t *testing.T) {
	for line, want := range map[string][]string{
		`/bin/a b  c`:                      {"/bin/a", "b", "c"},
		`-@/bin/a zero b`:                  {"/bin/a", "zero", "b"},
		`"/bin/a" 'b c' "d'e" f"g h"i`:     {"/bin/a", "b c", "d'e", "fg hi"},
		`/bin/a \x41\102\u00e4\s"\"" '\''`: {"/bin/a", "ABä \"", "'"},
		`/bin/a \; b`:                      {"/bin/a", ";", "b"},
		`/bin/a ";" b;c`:                   {"/bin/a", ";", "b;c"},
		`/bin/a b ; /bin/c ;`:              {"/bin/a", "b", ";", "/bin/c"},
		`/bin/a "" ''`:                     {"/bin/a", "", ""},
		`+!!/bin/a ${B} $C %n`:             {"/bin/a", "${B}", "$C", "%n"},
		"/bin/a\tb":                        {"/bin/a", "b"},
		`/bin/a \q b\ c b\;c \`:            {"/bin/a", `\q`, `b\ c`, `b\;c`, `\`},
		`/bin/a \x0 \x00 \777 \ud800`:      {"/bin/a", `\x0`, `\x00`, `\777`, `\ud800`},
		`/bin/a "two words"`:               {"/bin/a", "two words"},
	} {
		commands, err := splitCommands(line)
		var got []string
		for i, c := range commands {
			if i > 0 {
				got = append(got, ";")
			}
			for _, w := range c.words {
				got = append(got, w.value)
			}
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v; want %q", line, got, err, want)
		}
	}
	for _, line := range []string{"", " ;", `/bin/a "b`, `/bin/a 'b`} {
		if _, err := splitCommands(line); !errors.Is(err, ErrCommand) {
			t.Errorf("%q: %v; want %v", line, err, ErrCommand)
		}
	}
}

// quote is undone by reading.
func FuzzQuote(f *testing.F) {
	for _, seed := range []string{"", "a b", `"\`, ";", "it's", "ä%$"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if strings.ContainsRune(s, 0) {
			return
		}
		commands, err := splitCommands("/bin/a " + Quote(s))
		if err != nil || len(commands) != 1 || len(commands[0].words) != 2 || commands[0].words[1].value != s {
			t.Errorf("%q is written %s and read as %v, %v", s, Quote(s), commands, err)
		}
	})
}
