package units

import (
	"path"
	"slices"
	"strings"
	"testing"
)

// credential is an option that points at a credential of that name, in the place of
// a file.
func credential(name, option, replaces string) Option {
	return Option{option, replaces, "${CREDENTIALS_DIRECTORY}/" + name, "%d/" + name}
}

var token = credential("t", "--token", "")

// setOptions sets options in the ExecStart= lines of a unit with these settings.
func setOptions(settings string, options ...Option) (string, error) {
	u := &Unit{Name: "app@one.service"}
	u.settings, _ = Parse([]byte("[Service]\n"+settings), "f")
	lines, err := u.SetOptions(u.List("Service", "ExecStart"), options)
	return strings.Join(lines, "\n"), err
}

func TestSetOptions(t *testing.T) {
	for line, want := range map[string]string{
		`/bin/a --token x`:                     `/bin/a --token ${CREDENTIALS_DIRECTORY}/t`,
		`/bin/a --token=x --other`:             `/bin/a --token=${CREDENTIALS_DIRECTORY}/t --other`,
		`/bin/a "--token=a b" -v`:              `/bin/a --token=${CREDENTIALS_DIRECTORY}/t -v`,
		`/bin/a --token "a b"  "c d"`:          `/bin/a --token ${CREDENTIALS_DIRECTORY}/t  "c d"`,
		`/bin/a --token x --token=x`:           `/bin/a --token ${CREDENTIALS_DIRECTORY}/t --token=${CREDENTIALS_DIRECTORY}/t`,
		`/bin/a --token x --token .//x`:        `/bin/a --token ${CREDENTIALS_DIRECTORY}/t --token ${CREDENTIALS_DIRECTORY}/t`,
		`/bin/a --token $X --token "$X"`:       `/bin/a --token ${CREDENTIALS_DIRECTORY}/t --token ${CREDENTIALS_DIRECTORY}/t`,
		`/bin/a --token`:                       `/bin/a --token ${CREDENTIALS_DIRECTORY}/t`,
		`:/bin/a --token x`:                    `:/bin/a --token %d/t`,
		`@:-/bin/a zero --token x`:             `@:-/bin/a zero --token %d/t`,
		`/bin/a --token x ; /bin/b --token x`:  `/bin/a --token ${CREDENTIALS_DIRECTORY}/t ; /bin/b --token ${CREDENTIALS_DIRECTORY}/t`,
		`/bin/a --token x ; :/bin/b --token x`: `/bin/a --token ${CREDENTIALS_DIRECTORY}/t ; :/bin/b --token %d/t`,
		`/bin/a \x2d-token x %i $$ "q\"q"`:     `/bin/a \x2d-token ${CREDENTIALS_DIRECTORY}/t %i $$ "q\"q"`,
		`/bin/a --token x -- --token x`:        `/bin/a --token ${CREDENTIALS_DIRECTORY}/t -- --token ${CREDENTIALS_DIRECTORY}/t`,
		`/bin/sh -c 'exec "$@"' a --token x`:   `/bin/sh -c 'exec "$@"' a --token ${CREDENTIALS_DIRECTORY}/t`,
		// What stands after a wrapper's "--" is a command, too.
		`/sbin/runuser -u x -- /bin/a --token /a`:            `/sbin/runuser -u x -- /bin/a --token ${CREDENTIALS_DIRECTORY}/t`,
		`/usr/bin/env A=1 -- x`:                              ``,
		`/usr/bin/env -- A=1 a --token=/a`:                   `/usr/bin/env -- A=1 a --token=${CREDENTIALS_DIRECTORY}/t`,
		`/usr/bin/nice -n 5 -- setsid -- a --token /a`:       `/usr/bin/nice -n 5 -- setsid -- a --token ${CREDENTIALS_DIRECTORY}/t`,
		`/sbin/start-stop-daemon -S -x /bin/a -- --token /a`: `/sbin/start-stop-daemon -S -x /bin/a -- --token ${CREDENTIALS_DIRECTORY}/t`,
		`/bin/su x -- /opt/start --token /a`:                 `/bin/su x -- /opt/start --token ${CREDENTIALS_DIRECTORY}/t`,
		`@/usr/bin/nice zero -n 5 -- a --token /a`:           `@/usr/bin/nice zero -n 5 -- a --token ${CREDENTIALS_DIRECTORY}/t`,
		`/bin/a --token /a ; /bin/tini -- /bin/b --token=/a`: `/bin/a --token ${CREDENTIALS_DIRECTORY}/t ; /bin/tini -- /bin/b --token=${CREDENTIALS_DIRECTORY}/t`,
	} {
		got, err := setOptions("ExecStart="+line, token)
		if (got != want || err != nil) && (want != "" || err == nil) {
			t.Errorf("%s:\n%s, %v; want\n%s", line, got, err, want)
		}
	}
}

// Where an option stands with several files, replaces tells which are meant.
func TestRepeatedOptions(t *testing.T) {
	one := []Option{credential("t", "--config", "/etc/app/secret")}
	two := append(slices.Clone(one), credential("u", "--config", "/etc/app/other"))
	short := []Option{credential("t", "-f", "/etc/app/secret")}
	const path, other = "${CREDENTIALS_DIRECTORY}/t", "${CREDENTIALS_DIRECTORY}/u"
	for _, c := range []struct {
		settings string
		options  []Option
		want     string
	}{
		{"ExecStart=/bin/a --config main --config /etc/app/secret", one, "/bin/a --config main --config " + path},
		{"ExecStart=/bin/a --config=/etc/app/secret --config=main", one, "/bin/a --config=" + path + " --config=main"},
		{"ExecStart=/bin/a --config  \"main x\" '--config=/etc//app/./secret' \\x41", one, "/bin/a --config  \"main x\" --config=" + path + " \\x41"},
		{"WorkingDirectory=/etc/app\nExecStart=/bin/a --config main --config ./secret", one, "/bin/a --config main --config " + path},
		{"WorkingDirectory=-/etc/%p/x\nExecStart=/bin/a --config main --config ../secret", one, "/bin/a --config main --config " + path},
		{"ExecStart=/bin/a --config %E/%p/main --config %E/%p/secret", one, "/bin/a --config %E/%p/main --config " + path},
		{"ExecStart=/bin/a --config ${X}/y --config %m --config /etc/app/secret", one, "/bin/a --config ${X}/y --config %m --config " + path},
		{"ExecStart=/bin/a --config main\nExecStart=/bin/b --config /etc/app/secret\nExecStart=/bin/c", one, "/bin/a --config main\n/bin/b --config " + path + "\n/bin/c"},
		{"ExecStart=/bin/a --config main ; /bin/b --config /etc/app/secret --config=/etc/app/secret", one, "/bin/a --config main ; /bin/b --config " + path + " --config=" + path},
		{"ExecStart=/bin/a --config /etc/app/secret -- --config x", one, "/bin/a --config " + path + " -- --config x"},
		{"ExecStart=/bin/a --config main -- --config /etc/app/secret", one, "/bin/a --config main -- --config " + path},
		{"ExecStart=/bin/a -- --config=/etc/app/secret", one, "/bin/a -- --config=" + path},
		{"ExecStart=/bin/a -- --config main --config /etc/app/secret", one, "/bin/a -- --config main --config " + path},
		{"ExecStart=/bin/a --config elsewhere", one, "/bin/a --config " + path},
		{"ExecStart=/bin/a --config elsewhere ; /bin/b --config=elsewhere", one, "/bin/a --config " + path + " ; /bin/b --config=" + path},
		{"ExecStart=/bin/a --config main --config /etc/app/other --config /etc/app/secret", two, "/bin/a --config main --config " + other + " --config " + path},
		{"ExecStart=/bin/a --config=/etc/app/secret\nExecStart=:/bin/b --config /etc/app/other", two, "/bin/a --config=" + path + "\n:/bin/b --config %d/u"},
		{"RootDirectory=/etc\nExecStart=/bin/a --config main --config /app/secret", one, "/bin/a --config main --config " + path},
		{"RootDirectory=/srv\nExecStart=/bin/a --config main --config /etc/app/secret", one, "/bin/a --config main --config " + path},
		{"ExecStart=/bin/a --config main --config=/etc/app/$$", []Option{credential("t", "--config", "/etc/app/$")}, "/bin/a --config main --config=" + path},
		{"ExecStart=/bin/nice -n 5 /bin/a -n main -n /s", []Option{credential("t", "-n", "/s")}, "/bin/nice -n 5 /bin/a -n main -n " + path},
		{"ExecStart=/bin/nice -n 5 /bin/a -n /s", []Option{credential("t", "-n", "")}, "/bin/nice -n 5 /bin/a -n " + path},
		{"ExecStart=/bin/nice -n 5 /bin/a", []Option{credential("t", "-n", "")}, "/bin/nice -n 5 /bin/a -n " + path},
		{"ExecStart=/bin/setpriv --seccomp-filter /s /bin/a", []Option{credential("t", "--seccomp-filter", "/s")}, "/bin/setpriv --seccomp-filter " + path + " /bin/a"},
		{"ExecStart=/bin/a -f/etc/app/secret -foo", short, "/bin/a -f" + path + " -foo"},
		{"ExecStart=/bin/a -foo x -f y", []Option{credential("t", "-f", ""), credential("u", "-foo", "")}, "/bin/a -foo " + other + " -f " + path},
		{"ExecStart=/bin/a -f main -f/etc/app/secret", short, "/bin/a -f main -f" + path},

		{"ExecStart=/bin/a --config main --config secret", []Option{credential("t", "--config", "")},
			`error: f:2: ExecStart= has --config with "main" and "secret"; set the policy's replaces to the file that the credential stands for, to tell which is meant`},
		{"ExecStart=/bin/a --config main --config secret", one,
			`error: f:2: ExecStart= has --config with "main" and "secret", of which the policy's replaces, /etc/app/secret, is none; it tells`},
		{"\nExecStart=/bin/a --config main\nExecStart=/bin/b --config=/b\n", []Option{credential("t", "--config", "")}, `error: f:3: ExecStart= has --config with "main" and "/b"; set`},
		{"ExecStart=/opt/wrap --config a -- /bin/b --config b", []Option{credential("t", "--config", "")}, `error: f:2: ExecStart= has --config with "a" and "b"; set`},
		{"ExecStart=/bin/a --config secret --config main\nWorkingDirectory=~", one, `error: f:2: ExecStart= has --config with`},
		{"ExecStart=/bin/env -C /etc/app a --config secret --config main\nWorkingDirectory=/etc/app", one, `error: f:2: ExecStart= has --config with`},
		{"ExecStart=/sbin/chroot /srv a --config /etc/app/secret --config main", one, `error: f:2: ExecStart= has --config with`},
		{"ExecStart=/bin/a --config /etc/app/secret", two, `error: f:2: ExecStart= has --config with "/etc/app/secret", of which the policy's replaces, /etc/app/other, is none`},
		{"ExecStart=/bin/a --config main", two, `error: f:2: ExecStart= has --config with "main", of which the policy's replaces, /etc/app/secret, is none`},
		{"ExecStart=/bin/a", two, `error: --config is to have several files, but stands nowhere in the unit's ExecStart=; add it there`},
		{"ExecStart=/opt/wrap -- /bin/a --config x", one, `error: f:2: ExecStart= has --config only after "--", where it may be no option; if it is one, set the policy's replaces`},
		{"ExecStart=/opt/wrap -- /bin/a --config=x", []Option{credential("t", "--config", "")}, `error: f:2: ExecStart= has --config only after "--"`},
	} {
		got, err := setOptions(c.settings, c.options...)
		if text, wanted := strings.CutPrefix(c.want, "error: "); wanted && (err == nil || !strings.HasPrefix(err.Error(), text)) || !wanted && (got != c.want || err != nil) {
			t.Errorf("%s, replaces %q:\n%s, %v; want\n%s", c.settings, c.options[0].Replaces, got, err, c.want)
		}
	}
}

// A template's paths are those of no instance.
func TestTemplateOptions(t *testing.T) {
	u := &Unit{Name: "app@.service"}
	lines := []Setting{{Section: "Service", Name: "ExecStart", Value: "/bin/a --config /etc/%i/s --config /etc/%p/s --config /etc/s"}}
	for replaces, want := range map[string]string{
		"/etc/s":     "/bin/a --config /etc/%i/s --config /etc/%p/s --config ${CREDENTIALS_DIRECTORY}/t",
		"/etc/app/s": "/bin/a --config /etc/%i/s --config ${CREDENTIALS_DIRECTORY}/t --config /etc/s",
	} {
		got, err := u.SetOptions(lines, []Option{credential("t", "--config", replaces)})
		if err != nil || got[0] != want {
			t.Errorf("%s: %q, %v; want %s", replaces, got, err, want)
		}
	}
}

// An option that stands nowhere goes to the end of the line.
func TestAppendOption(t *testing.T) {
	for line, want := range map[string]string{
		`/bin/a b ;`:           `/bin/a b --token ${CREDENTIALS_DIRECTORY}/t ;`,
		`:/bin/a`:              `:/bin/a --token %d/t`,
		`@/bin/a --token b`:    `@/bin/a --token b --token ${CREDENTIALS_DIRECTORY}/t`,
		`/bin/a --tokens x`:    `/bin/a --tokens x --token ${CREDENTIALS_DIRECTORY}/t`,
		`/bin/a x--token=  `:   `/bin/a x--token= --token ${CREDENTIALS_DIRECTORY}/t`,
		`--token x`:            `--token x --token ${CREDENTIALS_DIRECTORY}/t`,
		`/bin/a "b c" \; ; ; `: `/bin/a "b c" \; --token ${CREDENTIALS_DIRECTORY}/t ; ; `,
	} {
		if got, err := setOptions("ExecStart="+line, token); strings.TrimRight(got, " ") != strings.TrimRight(want, " ") || err != nil {
			t.Errorf("%s:\n%s, %v; want\n%s", line, got, err, want)
		}
	}
	if got, err := setOptions("ExecStart=/bin/a", token, credential("k", "--key", "")); got != "/bin/a --token ${CREDENTIALS_DIRECTORY}/t --key ${CREDENTIALS_DIRECTORY}/k" || err != nil {
		t.Errorf("two options: %s, %v", got, err)
	}
	for settings, want := range map[string]string{
		"ExecStart=/bin/a ; /bin/b":          "f:2: --token is in none of the unit's 2 ExecStart= commands; add it to the one that takes it",
		"ExecStart=/bin/a\nExecStart=/bin/b": "f:2: --token is in none of the unit's 2 ExecStart= commands; add it to the one that takes it",
		"":                                   "the unit has no ExecStart= that could take --token",
		"ExecStart=/bin/sh -c 'exec a --token x'":       "f:2: ExecStart= runs a shell, in whose script --token cannot be set; use the credential's path there, ${CREDENTIALS_DIRECTORY}",
		"ExecStart=/sbin/runuser -u x a":                `f:2: ExecStart= leaves open which program gets --token at the end of the line: runuser: without "--" before the command it takes options for its own; write it into the unit's ExecStart= where it belongs`,
		"ExecStart=/bin/a -- b":                         `f:2: ExecStart= leaves open which program gets --token at the end of the line: a: what stands after "--" may be of another program, or no option; write it`,
		"ExecStart=/bin/podman run x":                   "f:2: ExecStart= starts a program with podman: its command gets other files than the unit's, where the credential is not; let the unit start it by itself, or leave option out",
		"ExecStart=/bin/env -S 'a --token x'":           "f:2: ExecStart= has --token in a text that a program splits into words; write them out there",
		"ExecStart=/bin/a --key x\nExecStart=/bin/b \"": "f:3: not a command line",
	} {
		if got, err := setOptions(settings, token); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s:\n%s, %v; want\n%s", settings, got, err, want)
		}
	}
}

// Setting an option changes that option's value and no other word, or adds both at the
// end.
func FuzzSetOptions(f *testing.F) {
	for _, seed := range []string{`/bin/a --token x`, `-@/bin/a "--token=\"x" ; :/b --token`, `/bin/a \x41 '--token' "a b"`, `nice -- /bin/a ;`,
		`/bin/a --token /s -- --token=/s`, `/bin/sh -e x --token a --token=/./s`, `/bin/env "-S a b" -- c`, `@/bin/su x -s y u -- z`, `/bin/a --token /r --token /s`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		if strings.ContainsAny(line, "\n\r\x00") {
			return
		}
		s, r := credential("s", token.Name, "/s"), credential("r", token.Name, "/r")
		for _, options := range [][]Option{{token}, {s}, {s, r}} {
			holdSetOptions(t, line, options)
		}
	})
}

func holdSetOptions(t *testing.T, line string, options []Option) {
	before, err := splitCommands(line)
	u := &Unit{Name: "app.service"}
	lines, err2 := u.SetOptions([]Setting{{Section: "Service", Name: "ExecStart", Value: line}}, options)
	if err != nil && err2 == nil {
		t.Fatalf("%q: %v, but no refusal", line, err)
	}
	if err2 != nil {
		return
	}
	after, err := splitCommands(lines[0])
	if err != nil || len(after) != len(before) {
		t.Fatalf("%q becomes %q: %v", line, lines[0], err)
	}
	changes := 0
	for i, c := range after {
		values := []string{options[0].path(c), options[len(options)-1].path(c)}
		words := c.words
		if c.prefix != before[i].prefix || len(words) < len(before[i].words) {
			t.Fatalf("%q becomes %q", line, lines[0])
		}
		for j, w := range before[i].words {
			joined, isJoined := strings.CutPrefix(words[j].value, token.Name+"=")
			switch {
			case w.value == words[j].value:
			case isJoined && strings.HasPrefix(w.value, token.Name+"=") && slices.Contains(values, joined):
				changes++
			case j > 1 && words[j-1].value == token.Name && slices.Contains(values, words[j].value):
				changes++
			default:
				t.Fatalf("%q becomes %q: word %q is %q", line, lines[0], w.value, words[j].value)
			}
		}
		for j := len(before[i].words); j < len(words); j++ {
			if words[j].value != token.Name && !(words[j-1].value == token.Name && slices.Contains(values, words[j].value)) {
				t.Fatalf("%q becomes %q: there is %q at the end", line, lines[0], words[j].value)
			}
			changes++
		}
	}
	if changes == 0 && !strings.Contains(line, "CREDENTIALS_DIRECTORY") && !strings.Contains(line, "%") {
		t.Fatalf("%q is left as it is", line)
	}
}

// What adopt finds for an option is what is replaced then.
func FuzzOptionFiles(f *testing.F) {
	for _, seed := range []string{`/bin/a --token /x --token=//x`, `/bin/a --token /a -- --token /b`, `/bin/nice -- a --token b`, `/sbin/chroot / a --token /b`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		if strings.ContainsAny(line, "\n\r\x00") {
			return
		}
		u := &Unit{Name: "app.service", settings: []Setting{{Section: "Service", Name: "ExecStart", Value: line}}}
		files, err := u.OptionFiles([]string{token.Name})
		if err != nil || len(files) == 0 {
			return
		}
		o := token
		o.Replaces = files[0].File
		if path.Clean(o.Replaces) != o.Replaces || !path.IsAbs(o.Replaces) {
			t.Fatalf("%q: %s is no plain path", line, o.Replaces)
		}
		lines, err := u.SetOptions(u.settings, []Option{o})
		if err != nil {
			t.Fatalf("%q has %s, but %v", line, o.Replaces, err)
		}
		u.settings[0].Value = lines[0]
		if files, err := u.OptionFiles([]string{token.Name}); err == nil && !strings.Contains(line, ":") {
			t.Fatalf("%q becomes %q, which has %v", line, lines[0], files)
		}
	})
}
