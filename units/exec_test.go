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

var token = Option{"--token", "${CREDENTIALS_DIRECTORY}/t", "%d/t"}

func TestSetOptions(t *testing.T) {
	for line, want := range map[string]string{
		`/bin/a --token x`:                    `/bin/a --token ${CREDENTIALS_DIRECTORY}/t`,
		`/bin/a --token=x --other`:            `/bin/a --token=${CREDENTIALS_DIRECTORY}/t --other`,
		`/bin/a "--token=a b" -v`:             `/bin/a --token=${CREDENTIALS_DIRECTORY}/t -v`,
		`/bin/a --token "a b"  "c d"`:         `/bin/a --token ${CREDENTIALS_DIRECTORY}/t  "c d"`,
		`/bin/a --token x --token=y`:          `/bin/a --token ${CREDENTIALS_DIRECTORY}/t --token=${CREDENTIALS_DIRECTORY}/t`,
		`/bin/a --token`:                      `/bin/a --token ${CREDENTIALS_DIRECTORY}/t`,
		`:/bin/a --token x`:                   `:/bin/a --token %d/t`,
		`@:-/bin/a zero --token x`:            `@:-/bin/a zero --token %d/t`,
		`/bin/a --token x ; /bin/b --token y`: `/bin/a --token ${CREDENTIALS_DIRECTORY}/t ; /bin/b --token ${CREDENTIALS_DIRECTORY}/t`,
		`/bin/a \x2d-token x %i $$ "q\"q"`:    `/bin/a \x2d-token ${CREDENTIALS_DIRECTORY}/t %i $$ "q\"q"`,
	} {
		found := map[string]bool{}
		got, err := SetOptions(line, []Option{token}, found)
		if got != want || err != nil || !found["--token"] {
			t.Errorf("%s:\n%s, %v; want\n%s", line, got, err, want)
		}
	}
	for _, line := range []string{`/bin/a --tokens x`, `/bin/a -- --token x`, `--token x`, `/bin/a x--token=`} {
		found := map[string]bool{}
		if got, err := SetOptions(line, []Option{token}, found); got != line || err != nil || found["--token"] {
			t.Errorf("%s: %s, %v; want it unchanged", line, got, err)
		}
	}
}

func TestAppendOption(t *testing.T) {
	for line, want := range map[string]string{
		`/bin/a b`:       `/bin/a b --token ${CREDENTIALS_DIRECTORY}/t`,
		`/bin/a b ;`:     `/bin/a b --token ${CREDENTIALS_DIRECTORY}/t ;`,
		`/bin/a -v -- b`: `/bin/a -v --token ${CREDENTIALS_DIRECTORY}/t -- b`,
		`:/bin/a`:        `:/bin/a --token %d/t`,
		`/bin/a sh`:      `/bin/a sh --token ${CREDENTIALS_DIRECTORY}/t`,
		`/bin/a -c sh b`: `/bin/a -c sh b --token ${CREDENTIALS_DIRECTORY}/t`,
	} {
		if got, err := AppendOption(line, token); got != want || err != nil {
			t.Errorf("%s: %s, %v; want %s", line, got, err, want)
		}
	}
	for _, line := range []string{`/bin/a ; /bin/b`, `/bin/sh -c 'exec a --token x'`, `"-/usr/bin/bash" -c a`,
		`/usr/bin/env A=1 bash -ec 'exec a'`, `/usr/sbin/runuser -u a -- /bin/sh -c b`, `|a; b`,
		`/usr/bin/wrap -- /bin/a --token x`, `/usr/bin/wrap -- /bin/a --token=x`} {
		if got, err := AppendOption(line, token); err == nil {
			t.Errorf("%s: %s; want a refusal", line, got)
		}
	}
}

// Setting an option changes that option's value and no other word.
func FuzzSetOptions(f *testing.F) {
	for _, seed := range []string{`/bin/a --token x`, `-@/bin/a "--token=\"x" ; :/b --token`, `/bin/a \x41 '--token' "a b"`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		if strings.ContainsAny(line, "\n\r\x00") {
			return
		}
		before, err := splitCommands(line)
		got, err2 := SetOptions(line, []Option{token}, map[string]bool{})
		if (err == nil) != (err2 == nil) {
			t.Fatalf("%q: %v, but %v", line, err, err2)
		}
		if err != nil {
			return
		}
		after, err := splitCommands(got)
		if err != nil || len(after) != len(before) {
			t.Fatalf("%q becomes %q: %v", line, got, err)
		}
		for i, c := range after {
			var want []string
			value := token.path(before[i])
			options := true
			for j := 0; j < len(before[i].words); j++ {
				w := before[i].words[j].value
				options = options && (j == 0 || w != "--")
				switch {
				case options && j > 0 && w == token.Name:
					want = append(want, w, value)
					j++
				case options && j > 0 && strings.HasPrefix(w, token.Name+"="):
					want = append(want, token.Name+"="+value)
				default:
					want = append(want, w)
				}
			}
			var have []string
			for _, w := range c.words {
				have = append(have, w.value)
			}
			if !slices.Equal(want, have) || c.prefix != before[i].prefix {
				t.Fatalf("%q becomes %q, words %q; want %q", line, got, have, want)
			}
		}
	})
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
