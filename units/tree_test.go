package units

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/bootseal/bootseal/internal/root"
	"github.com/bootseal/bootseal/internal/root/roottest"
)

const (
	etc = "/etc/systemd/system/"
	usr = "/usr/lib/systemd/system/"
)

func TestDropIns(t *testing.T) {
	files := map[string]string{
		usr + "foo-bar-baz.service":             "[Service]\nExecStart=/bin/a\n",
		usr + "foo-bar-baz.service.d/50-a.conf": "[Service]\nA=usr\n",
		etc + "foo-bar-baz.service.d/50-a.conf": "[Service]\nA=etc\n",
		usr + "foo-bar-.service.d/10-b.conf":    "[Service]\nB=bar\n",
		usr + "foo-.service.d/60-c.conf":        "[Service]\nC=foo\n",
		etc + "foo-.service.d/10-b.conf":        "-> /dev/null",
		etc + "service.d/50-a.conf":             "[Service]\nA=all\n",
		usr + "service.d/20-d.conf":             "[Service]\nD=all\n",
		etc + "foo-bar-baz.service.d/x":         "[Service]\nX=no\n",
		etc + "foo-bar-baz.service.d/.h.conf":   "[Service]\nX=hidden\n",
		etc + "alias.service":                   "-> " + usr + "foo-bar-baz.service",
		etc + "alias.service.d/30-e.conf":       "[Service]\nE=alias\n",
	}
	for _, c := range []struct {
		version int
		name    string
		want    []string
	}{
		{257, "foo-bar-baz.service", []string{usr + "service.d/20-d.conf", etc + "alias.service.d/30-e.conf", etc + "foo-bar-baz.service.d/50-a.conf", usr + "foo-.service.d/60-c.conf"}},
		{257, "alias.service", []string{usr + "service.d/20-d.conf", etc + "alias.service.d/30-e.conf", etc + "foo-bar-baz.service.d/50-a.conf", usr + "foo-.service.d/60-c.conf"}},
		{243, "foo-bar-baz.service", []string{etc + "alias.service.d/30-e.conf", etc + "foo-bar-baz.service.d/50-a.conf", usr + "foo-.service.d/60-c.conf"}},
	} {
		tree, err := ReadTree(roottest.Tree(t, files), c.version)
		if err != nil {
			t.Fatal(err)
		}
		u, err := tree.Load(c.name)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(u.DropIns, c.want) || u.Name != "foo-bar-baz.service" || u.Last("Service", "A") != "etc" {
			t.Errorf("%s on %d: %s with %q; want %q", c.name, c.version, u.Name, u.DropIns, c.want)
		}
	}
}

// TestReadTreeAfter: what generators made is known after them, without their drop-ins.
func TestReadTreeAfter(t *testing.T) {
	const made = "/run/systemd/generator"
	dir := roottest.Tree(t, map[string]string{
		usr + "known.service":                       "[Service]\n",
		made + "/known.service":                     "[Service]\n",
		made + "/app.service":                       "[Service]\nA=app\n",
		made + "/app.service.d/zz-bootseal.conf":    "[Service]\nA=ours\n",
		etc + "app.service.d/a.conf":                "[Service]\nB=own\n",
		made + "/other.service":                     "-> app.service",
		made + ".late/each@.service":                "[Service]\n",
		made + ".late/app.service":                  "[Service]\nA=late\n",
		made + "/multi-user.target.wants/x.service": "[Service]\n",
	})
	before, err := ReadTree(dir, 257)
	if err != nil {
		t.Fatal(err)
	}
	after, err := ReadTreeAfter(dir, 257)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"known.service": usr + "known.service", "app.service": made + "/app.service", "other.service": made + "/app.service", "each@one.service": made + ".late/each@.service"} {
		if _, err := before.Load(name); (err == nil) != (name == "known.service") {
			t.Errorf("%s before the generators: %v", name, err)
		}
		u, err := after.Load(name)
		if err != nil || u.Fragment != want {
			t.Errorf("%s: %+v, %v; want %s", name, u, err, want)
		}
	}
	if u, err := after.Load("app.service"); err != nil || u.Last("Service", "A") != "app" || u.Last("Service", "B") != "own" {
		t.Errorf("app.service: %+v, %v", u, err)
	}
	if u, err := after.Load("x.service"); !errors.Is(err, ErrNotFound) {
		t.Errorf("x.service: %+v, %v", u, err)
	}
}

func TestInstances(t *testing.T) {
	dir := roottest.Tree(t, map[string]string{
		usr + "a@.service":            "[Service]\nA=template\n",
		usr + "a@two.service":         "[Service]\nA=two\n",
		etc + "a@.service.d/10.conf":  "[Service]\nB=all\n",
		usr + "a@x.service.d/10.conf": "[Service]\nB=usr\n",
		etc + "a@x.service.d/20.conf": "[Service]\nC=one\n",
		etc + "b@.service":            "-> " + usr + "a@.service",
		etc + "b@.service.d/30.conf":  "[Service]\nD=alias\n",
		etc + "a@off.service":         "-> /dev/null",
		etc + "linked.service":        "-> /opt/other.service",
		"/opt/other.service":          "[Service]\nA=linked\n",
	})
	tree, err := ReadTree(dir, 257)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"a@x.service":    "a@x.service template all one alias",
		"a@two.service":  "a@two.service two all  ",
		"b@x.service":    "a@x.service template all one alias",
		"a@.service":     "a@.service template all  alias",
		"linked.service": "linked.service linked   ",
	} {
		u, err := tree.Load(name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got := []string{u.Name}
		for _, setting := range []string{"A", "B", "C", "D"} {
			got = append(got, u.Last("Service", setting))
		}
		if g := strings.Join(got, " "); g != want {
			t.Errorf("%s: %q; want %q", name, g, want)
		}
	}
	for name, want := range map[string]error{"a@off.service": ErrMasked, "none.service": ErrNotFound} {
		if _, err := tree.Load(name); !errors.Is(err, want) {
			t.Errorf("%s: %v; want %v", name, err, want)
		}
	}
}

// TestInstancesOf: what applies to one instance only, wherever it stands.
func TestInstancesOf(t *testing.T) {
	tree, err := ReadTree(roottest.Tree(t, map[string]string{
		usr + "a-b-c@.service":             "",
		usr + "a-b-c@file.service":         "",
		etc + "a-b-c@own.service.d/1":      "",
		etc + "a-@first.service.d/1":       "",
		etc + "a-b-@second.service.d/1":    "",
		etc + "a-b@no.service.d/1":         "",
		etc + "a-b-c@no.socket.d/1":        "",
		etc + "a-x-@no.service.d/1":        "",
		etc + "a-b-@.service.d/1":          "",
		etc + "other@.service":             "-> " + usr + "a-b-c@.service",
		etc + "other@alias.service.d/1":    "",
		etc + "a-b-c@gone.service":         "-> " + usr + "plain.service",
		usr + "plain.service":              "",
		usr + "a-b-c.service.d/1":          "",
		etc + "a-b-c@linked.service":       "-> " + usr + "a-b-c@.service",
		etc + "a-b-c@own.service.d/2.conf": "",
	}), 257)
	if err != nil {
		t.Fatal(err)
	}
	want := "a-b-c@alias.service a-b-c@file.service a-b-c@first.service a-b-c@linked.service a-b-c@own.service a-b-c@second.service"
	if got := strings.Join(tree.Instances()["a-b-c@.service"], " "); got != want {
		t.Errorf("%s; want %s", got, want)
	}
}

// What should be a folder and is none is passed over.
func TestNoFolder(t *testing.T) {
	tree, err := ReadTree(roottest.Tree(t, map[string]string{
		etc + "b.service":               "[Service]\nA=1\n",
		usr + "b.service.d":             "-> b.service.d",
		"/usr/local/lib/systemd/system": "a file",
	}), 257)
	if err != nil {
		t.Fatal(err)
	}
	if u, err := tree.Load("b.service"); err != nil || u.Last("Service", "A") != "1" {
		t.Errorf("%+v, %v", u, err)
	}
}

func TestLoadBoundsFiles(t *testing.T) {
	tree, err := ReadTree(roottest.Tree(t, map[string]string{
		etc + "zero.service":  "-> /zero",
		"/zero":               "[Service]\nA=" + strings.Repeat("x", maxFile),
		etc + "dir.service/x": "",
		etc + "bad.service":   "[Service\nA=1\n",
	}), 257)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]error{"zero.service": root.ErrTooLarge, "dir.service": root.ErrNotRegular, "bad.service": ErrSyntax} {
		if _, err := tree.Load(name); !errors.Is(err, want) {
			t.Errorf("%s: %v; want %v", name, err, want)
		}
	}
}

func TestChecks(t *testing.T) {
	files := []string{"/etc/app/token"}
	for text, want := range map[string]string{
		"ConditionPathExists=/etc/app/token":                                     "changed:",
		"ConditionFileNotEmpty=/etc/app/../app/token":                            " FileNotEmpty=/etc/app/../app/token",
		"ConditionFileNotEmpty=/etc//app/./token":                                "changed:",
		"ConditionHost=a\nConditionUnknown=":                                     " Host=a",
		"ConditionPathExists=/etc/%N/token\nConditionHost=a":                     "changed: Host=a",
		"ConditionPathExistsGlob=/etc/*/tok*":                                    "changed:",
		"ConditionPathExists=%E/%p/token":                                        "changed:",
		"ConditionPathExists=!/etc/app/token":                                    " PathExists=!/etc/app/token",
		"ConditionPathExists=/etc/app/tokens":                                    " PathExists=/etc/app/tokens",
		"ConditionPathExists=|/etc/app/token\nConditionHost=|a\nConditionUser=0": "changed: User=0",
		"ConditionHost=a\nConditionPathExists=\nConditionUser=0":                 " User=0",
		"ConditionPathIsDirectory=/etc/app/token":                                " PathIsDirectory=/etc/app/token",
		"ConditionPathExists=| /etc/app/token":                                   " PathExists=| /etc/app/token",
	} {
		u := &Unit{Name: "app.service"}
		u.settings, _ = Parse([]byte("[Unit]\n"+text), "f")
		rest, changed := u.WithoutFiles(u.Checks("Condition"), files)
		got := ""
		if changed {
			got = "changed:"
		}
		for _, s := range rest {
			got += " " + strings.TrimPrefix(s.Name, "Condition") + "=" + s.Value
		}
		if got != want {
			t.Errorf("%q leaves %q; want %q", text, got, want)
		}
	}
}

// BenchmarkReadTree reads the unit folders of the machine it runs on.
func BenchmarkReadTree(b *testing.B) {
	if _, err := os.Stat(usr); errors.Is(err, fs.ErrNotExist) {
		b.Skip("no systemd here")
	}
	for b.Loop() {
		if _, err := ReadTree("/", 257); err != nil {
			b.Fatal(err)
		}
	}
}
