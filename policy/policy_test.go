package policy

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/bootseal/bootseal/internal/root"
)

func write(t testing.TB, dir root.Dir, name, content string) {
	t.Helper()
	path := filepath.Join(string(dir), name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

const one = "[[credential]]\nname = \"a\"\n"

func TestLoad(t *testing.T) {
	dir := root.Dir(t.TempDir())
	write(t, dir, "/etc/bootseal/app.service.toml", `
delivery = "native"

[[credential]]
name     = "token"
source   = "/srv/token.cred"
option   = "--token-file"
environment = "TOKEN_FILE"
replaces = "/etc/app/token"

[[credential]]
name = "tls.key"

[seal]
key  = "host+tpm2"
pcrs = [14, 7]
`)
	p, err := ForUnit(dir, "app.service")
	if err != nil {
		t.Fatal(err)
	}
	want := Policy{
		Path: "/etc/bootseal/app.service.toml", Unit: "app.service", Delivery: Native,
		Credentials: []Credential{
			{"token", "/srv/token.cred", "--token-file", "TOKEN_FILE", "/etc/app/token"},
			{"tls.key", "/etc/credstore.encrypted/tls.key", "", "", ""},
		},
		Seal: Seal{"host+tpm2", []int{7, 14}},
	}
	if fmt.Sprint(*p) != fmt.Sprint(want) {
		t.Errorf("%+v; want %+v", *p, want)
	}
}

func TestText(t *testing.T) {
	for _, want := range []Policy{
		{Delivery: Auto, Seal: Seal{Key: KeyAuto}, Credentials: []Credential{{Name: "a", Source: CredentialStore + "/a"}}},
		{Delivery: Socket, Seal: Seal{KeyTPM2, []int{7, 14}}, Credentials: []Credential{
			{"a", `/srv/a "b" c\d`, "--token-file", "TOKEN_FILE", "/etc/app/é"},
			{"b", CredentialStore + "/b", "", "", ""},
			{"c", CredentialStore + "/c", "--token-file", "", "/etc/app/other"},
		}},
	} {
		text, err := want.Text()
		if err != nil {
			t.Error(err)
			continue
		}
		if got, err := parse(text); err != nil || fmt.Sprint(*got) != fmt.Sprint(want) {
			t.Errorf("%+v, %v from:\n%s\nwant %+v", got, err, text, want)
		}
	}
	for _, c := range []Credential{{Name: "a b", Source: "/a"}, {Name: "a", Source: "/a\nb"}, {Name: "a", Source: "a"}} {
		p := Policy{Delivery: Auto, Seal: Seal{Key: KeyAuto}, Credentials: []Credential{c}}
		if text, err := p.Text(); err == nil {
			t.Errorf("%+v: no error, and the text\n%s", c, text)
		}
	}
}

func TestDefaults(t *testing.T) {
	p, err := parse([]byte(one))
	if err != nil || p.Delivery != Auto || p.Seal.Key != KeyAuto || p.Seal.PCRs != nil {
		t.Errorf("%+v, %v; want auto for both", p, err)
	}
}

// Each refusal names the key or line, and says what was expected.
func TestRefuses(t *testing.T) {
	cred := func(lines string) string { return one + lines }
	for text, want := range map[string]string{
		"delivery = 3\n" + one:                                          "delivery: expected a string, found the number 3",
		"delivery = \"fast\"\n" + one:                                   `delivery: "fast" is not known; expected one of auto, native, prestart, socket`,
		"Delivery = \"auto\"\n" + one:                                   `Delivery: unknown key; it is written "delivery"`,
		"unit = \"a.service\"\n" + one:                                  "unit: unknown key; expected one of credential, delivery, private-mounts, seal",
		"x y":                                                           "line 1: expected '.' or '='",
		"delivery = \"auto\"\ndelivery = \"auto\"\n":                    "line 2: Key 'delivery' has already been defined",
		"# nothing\n":                                                   "no [[credential]] in it; to mask",
		"credential = []\n":                                             "credential: expected tables",
		"[credential]\nname = \"a\"\n":                                  "credential: expected tables, each written [[credential]]; found a table",
		"[[credential]]\n":                                              "credential[0].name: missing",
		"[[credential]]\nname = \"\"\n":                                 "credential[0].name: expected a value",
		"[[credential]]\nname = [\"a\"]\n":                              "credential[0].name: expected a string, found a list",
		"[[credential]]\nname = \"a/b\"\n":                              `credential[0].name: "a/b" is no credential name`,
		"[[credential]]\nname = \"a:b\"\n":                              "credential[0].name",
		"[[credential]]\nname = \"..\"\n":                               "credential[0].name",
		"[[credential]]\nname = \"ä\"\n":                                "credential[0].name",
		"[[credential]]\nname = \"a b\"\n":                              "credential[0].name",
		"[[credential]]\nname = \"a%n\"\n":                              "credential[0].name",
		"[[credential]]\nname = \"a\\nb\"\n":                            "control character",
		"[[credential]]\nname = \"" + strings.Repeat("a", 256) + "\"\n": "credential[0].name",
		cred("Name = \"b\"\n"):                                          `credential[0].Name: unknown key; it is written "name"`,
		cred("path = \"/b\"\n"):                                         "credential[0].path: unknown key; expected one of environment, name, option, replaces, source",
		cred("source = \"b\"\n"):                                        `credential[0].source: "b" is a relative path; expected one that begins with /`,
		cred("source = \"/a/../b\"\n"):                                  `credential[0].source: "/a/../b" is no plain path to a file; expected it without //, . and .., as in "/b"`,
		cred("source = '/a\\'\n"):                                       `credential[0].source: "/a\\" ends in a blank or backslash`,
		cred("source = '/a '\n"):                                        `credential[0].source: "/a " ends in a blank or backslash`,
		cred("source = \"/\"\n"):                                        "credential[0].source",
		cred("source = \"/a\\u0000b\"\n"):                               "credential[0].source: \"/a\\x00b\" contains a control character",
		cred("source = \"/" + strings.Repeat("a", 4095) + "\"\n"):       "credential[0].source: the path has 4096 bytes; expected at most 4095",
		cred("replaces = \"password.txt\"\n"):                           "credential[0].replaces",
		cred("option = \"password\"\n"):                                 `credential[0].option: "password" is no command line option`,
		cred("option = \"--a b\"\n"):                                    "credential[0].option",
		cred("option = \"--\"\n"):                                       "credential[0].option",
		cred("option = \"--a=b\"\n"):                                    "credential[0].option",
		cred("environment = \"A-B\"\n"):                                 `credential[0].environment: "A-B" is no name of a variable`,
		cred("environment = \"1A\"\n"):                                  "credential[0].environment",
		cred("environment = \"A=b\"\n"):                                 "credential[0].environment",
		cred("environment = \"CREDENTIALS_DIRECTORY\"\n"):               "credential[0].environment: CREDENTIALS_DIRECTORY is the folder",
		cred("environment = \"A\"\n[[credential]]\nname = \"b\"\nenvironment = \"A\"\n"): "credential[1].environment: A is the path of credential[0] already",
		one + one: `credential[1].name: "a" is the name of credential[0] already`,
		cred("option = \"-p\"\n[[credential]]\nname = \"b\"\noption = \"-p\"\n"):                                       "credential[1].option: -p takes credential[0] already",
		cred("option = \"-p\"\nreplaces = \"/a\"\n[[credential]]\nname = \"b\"\noption = \"-p\"\n"):                    "credential[1].option: -p takes credential[0] already",
		cred("option = \"-p\"\n[[credential]]\nname = \"b\"\noption = \"-p\"\nreplaces = \"/b\"\n"):                    "credential[1].option: -p takes credential[0] already",
		cred("option = \"-p\"\nreplaces = \"/a\"\n[[credential]]\nname = \"b\"\noption = \"-p\"\nreplaces = \"/a\"\n"): "credential[1].option: -p takes credential[0] already",
		cred("[seal]\nkey = \"tpm\"\n"):              `seal.key: "tpm" is not known; expected one of auto, host, tpm2, host+tpm2, null`,
		cred("[seal]\npcrs = 7\n"):                   "seal.pcrs: expected a list of PCR numbers such as [7, 14], found the number 7",
		cred("[seal]\npcrs = [\"7\"]\n"):             `seal.pcrs: expected PCR numbers, found the string "7"`,
		cred("[seal]\npcrs = [24]\n"):                "seal.pcrs: 24 is no PCR; expected 0 to 23",
		cred("[seal]\npcrs = [-1]\n"):                "seal.pcrs: -1 is no PCR",
		cred("[seal]\npcrs = [7, 7]\n"):              "seal.pcrs: PCR 7 stands there twice",
		cred("[seal]\nkey = \"host\"\npcrs = [7]\n"): "seal.pcrs: key = \"host\" does not use the TPM",
		cred("[seal]\nPCRs = [7]\n"):                 `seal.PCRs: unknown key; it is written "pcrs"`,
		one + "[[seal]]\nkey = \"host\"\n":           "seal: expected a table, written [seal]; found a list",
	} {
		_, err := parse([]byte(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q:\n%v; want\n%s", text, err, want)
		}
	}
}

func TestFind(t *testing.T) {
	dir := root.Dir(t.TempDir())
	write(t, dir, "/usr/lib/bootseal/both.service.toml", one)
	write(t, dir, "/run/bootseal/policy/both.service.toml", one)
	write(t, dir, "/usr/local/lib/bootseal/local.service.toml", one)
	write(t, dir, "/usr/lib/bootseal/local.service.toml", one)
	write(t, dir, "/usr/lib/bootseal/empty.service.toml", one)
	write(t, dir, "/etc/bootseal/empty.service.toml", "")
	write(t, dir, "/usr/lib/bootseal/null.service.toml", one)
	write(t, dir, "/etc/bootseal/lone.service.toml", "")
	write(t, dir, "/etc/bootseal/.hidden.service.toml", one)
	write(t, dir, "/etc/bootseal/app.service.toml.bak", one)
	write(t, dir, "/etc/bootseal/a@.service.toml", one)
	write(t, dir, "/etc/bootseal/a@x.service.toml", one)
	write(t, dir, "/etc/bootseal/app.socket.toml", one)
	if err := os.Symlink("/dev/null", filepath.Join(string(dir), "/etc/bootseal/null.service.toml")); err != nil {
		t.Fatal(err)
	}
	// A link to another device masks nothing.
	write(t, dir, "/usr/lib/bootseal/zero.service.toml", one)
	if err := os.Symlink("/dev/zero", filepath.Join(string(dir), "/etc/bootseal/zero.service.toml")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(string(dir), "/dev"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mknod(filepath.Join(string(dir), "/dev/zero"), syscall.S_IFCHR|0o666, 1<<8|5); err != nil {
		t.Fatalf("as root: %v", err)
	}
	files, errs := Find(dir)
	var got []string
	for _, f := range files {
		got = append(got, fmt.Sprintf("%s %v", f.Path, f.Masked))
	}
	want := []string{
		"/etc/bootseal/a@.service.toml false",
		"/etc/bootseal/a@x.service.toml false",
		"/run/bootseal/policy/both.service.toml false",
		"/etc/bootseal/empty.service.toml true",
		"/usr/local/lib/bootseal/local.service.toml false",
		"/etc/bootseal/lone.service.toml false",
		"/etc/bootseal/null.service.toml true",
		"/etc/bootseal/zero.service.toml false",
	}
	if !slices.Equal(got, want) {
		t.Errorf("found\n%s; want\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if len(errs) != 1 || !strings.Contains(errs[0].Error(), "/etc/bootseal/app.socket.toml") {
		t.Errorf("%v; want one about app.socket.toml", errs)
	}
	for unit, want := range map[string]string{"a@x.service": "/etc/bootseal/a@x.service.toml", "a@y.service": "/etc/bootseal/a@.service.toml"} {
		if p, err := ForUnit(dir, unit); err != nil || p.Path != want {
			t.Errorf("%s: %v, %v; want %s", unit, p, err, want)
		}
	}
	for _, unit := range []string{"null.service", "none.service"} {
		if _, err := ForUnit(dir, unit); !errors.Is(err, ErrNoPolicy) {
			t.Errorf("%s: %v; want %v", unit, err, ErrNoPolicy)
		}
	}
}

// A file that never ends, or one that nobody writes to, does not hold up the boot.
func TestLoadIsBounded(t *testing.T) {
	dir := root.Dir(t.TempDir())
	write(t, dir, "/etc/bootseal/big.service.toml", strings.Repeat("#\n", maxSize))
	fifo := filepath.Join(string(dir), "/etc/bootseal/fifo.service.toml")
	if err := syscall.Mkfifo(fifo, 0o644); err != nil {
		t.Fatal(err)
	}
	for unit, want := range map[string]error{"big.service": root.ErrTooLarge, "fifo.service": root.ErrNotRegular} {
		if _, err := ForUnit(dir, unit); !errors.Is(err, want) {
			t.Errorf("%s: %v; want %v", unit, err, want)
		}
	}
}

// Whatever is accepted can be written into a unit file without changing it.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{one, one + "option=\"-p\"\nreplaces='/x'\n[seal]\nkey='tpm2'\npcrs=[1]\n", "delivery='auto'\n[[credential]]\nname='\\u0041'"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := parse(text)
		if err != nil {
			return
		}
		if len(p.Credentials) == 0 {
			t.Error("accepted without a credential")
		}
		for _, c := range p.Credentials {
			for _, value := range []string{c.Name, c.Source, c.Option, c.Environment, c.Replaces} {
				if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' || r == 0x7f }) {
					t.Errorf("accepted %q", value)
				}
			}
			if !filepath.IsAbs(c.Source) || strings.ContainsAny(c.Name+c.Option+c.Environment, " \"'\\%$/\n") {
				t.Errorf("accepted %+v", c)
			}
		}
	})
}

// The decoder would take minutes, and systemd waits.
func TestDeep(t *testing.T) {
	const size = maxSize / 2
	for _, text := range []string{
		strings.Repeat("a.", size) + "a = 1\n",
		strings.Repeat("'a' . \"a\" . ", size/12) + "a = 1\n",
		"[" + strings.Repeat("a.", size) + "a]\n",
		"a = " + strings.Repeat("{a=", size/3),
		"a = " + strings.Repeat("[", size),
		"a = {b = \"\"\"\"\"\"\"\", " + strings.Repeat("a.", size) + "a = 1}\n",
		"a = {b = '''b'''', " + strings.Repeat("a.", size) + "a = 1}\n",
		"a = {b = \"\\\\\", " + strings.Repeat("a.", size) + "a = 1}\n",
		"a = {b = '\\', " + strings.Repeat("a.", size) + "a = 1}\n",
		"a = [ # \"\n" + strings.Repeat("[", size),
	} {
		if _, err := parse([]byte("\n" + text)); err == nil || !strings.Contains(err.Error(), "line ") || !strings.Contains(err.Error(), "nests more than 8 deep") {
			t.Errorf("%.20q: %v", text, err)
		}
	}
	const dots = "a.b.c.d.e.f.g.h.i.j.k"
	p, err := parse([]byte("# ........ " + dots + "\n[[credential]] # " + strings.Repeat("[", 20) + "\nname = \"" + dots +
		"\"\nsource = \"\"\"\\\n  /" + dots + "\"\"\"\nreplaces = '/[[[[[[[[[{{{" + dots + "'\n"))
	if err != nil || p.Credentials[0].Name != dots || p.Credentials[0].Source != "/"+dots {
		t.Errorf("%+v, %v; want text with many dots and brackets to be accepted", p, err)
	}
}
