package units

import (
	"slices"
	"strings"
	"testing"
)

func TestOptionFiles(t *testing.T) {
	options := []string{"--password-file", "--ssh-host-password-file"}
	for text, want := range map[string][]string{
		"ExecStart=/bin/ca ca.json --password-file password.txt\nWorkingDirectory=/etc/step-ca":            {"--password-file /etc/step-ca/password.txt"},
		"ExecStart=/bin/ca --password-file=../b/p\nWorkingDirectory=-/var/lib/%i/":                         {"--password-file /var/lib/b/p"},
		"ExecStart=/bin/ca --password-file p":                                                              {"--password-file /p"},
		"ExecStart=/bin/ca --ssh-host-password-file \"/a b\" --password-file '/c%%d'":                      {"--password-file /c%d", "--ssh-host-password-file /a b"},
		"ExecStart=/bin/ca --password-file /etc/%p/%i.txt":                                                 {"--password-file /etc/ca/one.txt"},
		"ExecStart=:/bin/ca --password-file /$a":                                                           {"--password-file /$a"},
		"ExecStart=/bin/ca --password-file /old\nExecStart=\nExecStart=/bin/ca --password-file /new":       {"--password-file /new"},
		"ExecStart=/bin/ca --password-file /a ; /bin/cb --password-file=/a":                                {"--password-file /a"},
		"ExecStart=-/bin/ca \"--password-file\nExecStart=/bin/ca":                                          nil,
		"ExecStart=/bin/ca -- --password-file /a":                                                          nil,
		"ExecStart=/bin/ca --token --password-file /a\nExecStartPre=/bin/x --ssh-host-password-file=/b":    {"--password-file /a"},
		"ExecStart=/bin/ca --ssh-host-password-file --password-file /a\nWorkingDirectory=/w":               {"--ssh-host-password-file /w/--password-file"},
		"ExecStart=/bin/sh -c '/bin/ca --password-file /a'":                                                nil,
		"ExecStart=/bin/ca --password-file ${STEPPATH}/p\nEnvironment=STEPPATH=/a":                         {"error: f:2: --password-file ${STEPPATH}/p: a path with a variable"},
		"ExecStart=/bin/ca --password-file %d/p":                                                           {"error: f:2: --password-file %d/p: a path with a specifier"},
		"ExecStart=/bin/ca --password-file p\nWorkingDirectory=%S/x":                                       {"--password-file /var/lib/x/p"},
		"ExecStart=/bin/ca --password-file p\nWorkingDirectory=%m/x":                                       {"error: f:2: --password-file p: relative to WorkingDirectory=, a path with a specifier"},
		"ExecStart=/bin/ca --password-file p\nWorkingDirectory=~":                                          {"error: f:2: --password-file p: relative to the home"},
		"ExecStart=/bin/ca --password-file":                                                                {"error: f:2: --password-file : no file"},
		"ExecStart=/bin/ca --password-file /a\nExecStart=/bin/ca --password-file /b":                       {"error: f:3: --password-file /b: another file than the /a"},
		"ExecStart=/bin/ca --password-file /a\nRootDirectory=/srv":                                         {"error: ca@one.service has a RootDirectory="},
		"ExecStart=/bin/ca \"--password-file":                                                              {"error: f:2: not a command line"},
		"ExecStart=/bin/ca --password-file /a\nRootDirectory=/srv\nRootDirectory=\nWorkingDirectory=/x/%f": {"--password-file /a"},
	} {
		u := &Unit{Name: "ca@one.service"}
		u.settings, _ = Parse([]byte("[Service]\n"+text), "f")
		files, err := u.OptionFiles(options)
		var got []string
		for _, f := range files {
			got = append(got, f.Option+" "+f.File)
		}
		if err != nil {
			got = []string{"error: " + err.Error()}
		}
		matches := slices.EqualFunc(got, want, func(got, want string) bool {
			return got == want || strings.HasPrefix(want, "error: ") && strings.HasPrefix(got, want)
		})
		if !matches {
			t.Errorf("%s:\n%q; want %q", text, got, want)
		}
	}
}
