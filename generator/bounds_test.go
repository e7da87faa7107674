package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bootseal/bootseal/internal/contract"
	"github.com/bootseal/bootseal/internal/root"
)

// TestBounds: whatever a service puts into a folder that it owns and that its
// EnvironmentFile= or the policy's source leads to, the generator reads little of it,
// opens no device, and goes nowhere where it would have to wait for systemd. It counts
// what is read, as time depends on the machine.
func TestBounds(t *testing.T) {
	generator := build(t)
	const (
		folder   = "/var/lib/app"
		pattern  = folder + "/env/*.conf"
		byFolder = folder + "/*/x.conf"
	)
	puts := func(size int64, names ...string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			for _, name := range names {
				writeFile(t, dir+folder+"/"+name, nil)
				if err := os.Truncate(dir+folder+"/"+name, size); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	numbered := func(format string, count int) (names []string) {
		for i := range count {
			names = append(names, fmt.Sprintf(format, i))
		}
		return names
	}
	links := func(target string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			for _, name := range []string{"env/a.conf", "blob"} {
				if err := os.Symlink(target, dir+folder+"/"+name); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	const refused, sets = "EnvironmentFile=", "sets TOKEN, too"
	for name, c := range map[string]struct {
		setting string
		put     func(t *testing.T, dir string)
		want    string // reason why the unit is blocked; "" if it is not
	}{
		"nothing":             {pattern, puts(0), ""},
		"some files":          {pattern, puts(1000, numbered("env/%d.conf", 60)...), ""},
		"many entries":        {pattern, puts(0, numbered("env/%d", 20000)...), refused},
		"many files":          {pattern, puts(0, numbered("env/%d.conf", 100)...), refused},
		"many folders":        {byFolder, puts(0, numbered("%d/x.conf", 100)...), refused},
		"a large file":        {pattern, puts(1<<20+1, "env/a.conf"), refused},
		"a large one by name": {folder + "/env/a.conf", puts(1<<40, "env/a.conf"), refused},
		"much together":       {pattern, puts(1<<20, numbered("env/%d.conf", 5)...), refused},
		"in other folders": {byFolder, func(t *testing.T, dir string) {
			writeFile(t, dir+folder+"/a/x.conf", []byte("TOKEN=x\n"))
		}, sets},
		"in one class": {folder + "/env/[!b].conf", func(t *testing.T, dir string) {
			writeFile(t, dir+folder+"/env/a.conf", []byte("A=1\rTOKEN=x\r"))
		}, sets},
		"hidden": {pattern, func(t *testing.T, dir string) {
			writeFile(t, dir+folder+"/env/.a.conf", []byte("TOKEN=x\n"))
		}, ""},
		"one line": {pattern, func(t *testing.T, dir string) {
			writeFile(t, dir+folder+"/env/a.conf", []byte(strings.Repeat("=", 1<<20)))
		}, ""},
		"nothing but lines": {pattern, func(t *testing.T, dir string) {
			writeFile(t, dir+folder+"/env/a.conf", []byte(strings.Repeat("\n", 1<<20)))
		}, ""},
		"a FIFO": {pattern, func(t *testing.T, dir string) {
			for _, name := range []string{"/env/a.conf", "/blob"} {
				if err := unix.Mkfifo(dir+folder+name, 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}, "not a regular file"},
		"a large blob":   {pattern, puts(1<<40, "blob"), "file too large"},
		"a device":       {pattern, links("/dev/watchdog"), "not a regular file"},
		"a link to it":   {pattern, links("a.conf"), ""},
		"to nothing":     {pattern, links("none"), ""},
		"an automount":   {pattern, links("/efi/env"), ""},
		"by way of more": {pattern, links("../../../../boot/env"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, normal := t.TempDir(), t.TempDir()
			installSystemd(t, dir, 257, "")
			copyTree(t, "testdata/42-automount/in/proc", dir+"/proc")
			writeFile(t, dir+"/etc/bootseal/app.service.toml", []byte("[[credential]]\nname = \"token\"\nsource = \"/var/lib/app/blob\"\nenvironment = \"TOKEN\"\n"))
			writeFile(t, dir+"/usr/lib/systemd/system/app.service", []byte("[Service]\nEnvironmentFile=-"+c.setting+"\nExecStart=/usr/bin/app\n"))
			// What is mounted when it is used.
			writeFile(t, dir+"/efi/env", []byte("TOKEN=x\n"))
			if err := os.Symlink("/efi", dir+"/boot"); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(dir+"/dev", 0o755); err != nil {
				t.Fatal(err)
			}
			// It has the numbers of /dev/zero, which has no end.
			if err := unix.Mknod(dir+"/dev/watchdog", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(dir+folder+"/env", 0o755); err != nil {
				t.Fatal(err)
			}
			c.put(t, dir)
			trace := filepath.Join(t.TempDir(), "trace")
			_ = exec.Command("strace", "-f", "-y", "-o", trace, "-e", "trace=openat,read,getdents64", generator, "--root="+dir, normal).Run()
			text := readTree(t, normal)["app.service.d/zz-bootseal.conf"]
			switch {
			case text == "":
				t.Fatal("no drop-in")
			case c.want == "" && strings.Contains(text, "refuse"):
				t.Errorf("it is blocked:\n%s", text)
			case c.want != "" && (!strings.Contains(text, "refuse") || !strings.Contains(text, c.want)):
				t.Errorf("it is not blocked with %q:\n%s", c.want, text)
			case c.want == refused && !strings.Contains(text, "/usr/lib/systemd/system/app.service:2: EnvironmentFile=-"+c.setting):
				t.Errorf("the reason does not name the setting:\n%s", text)
			}
			calls, err := os.ReadFile(trace)
			if err != nil {
				t.Fatalf("strace(1) is needed: %v", err)
			}
			r := reads(string(calls), dir)
			if r.files > 70 || r.bytes > 4<<20+1<<16 || r.listed > 1<<18 || r.forbidden != "" {
				t.Errorf("%+v", r)
			}
		})
	}
}

type counts struct {
	files, bytes, listed int
	forbidden            string // what was opened and should not be
}

var (
	resultOf  = regexp.MustCompile(` = (\d+)`)
	forbidden = regexp.MustCompile(`/dev/watchdog"|/efi|/blob".* = \d+<.*\|`)
)

// reads counts what was read below /var/lib, and finds what should not have been.
func reads(trace, dir string) (c counts) {
	for _, line := range strings.Split(trace, "\n") {
		n := 0
		if m := resultOf.FindStringSubmatch(line); m != nil {
			n, _ = strconv.Atoi(m[1])
		}
		if strings.Contains(line, " openat(") && strings.Contains(line, dir) && forbidden.MatchString(line) {
			c.forbidden = line
		}
		if !strings.Contains(line, dir+"/var/lib/app/") {
			continue
		}
		switch {
		case strings.Contains(line, " openat("):
			c.files++
		case strings.Contains(line, " read("):
			c.bytes += n
		case strings.Contains(line, " getdents64("):
			c.listed += n
		}
	}
	return c
}

// TestLarge: no drop-in is larger than what the server reads, neither one that gives
// credentials nor one that blocks the unit.
func TestLarge(t *testing.T) {
	words := strings.Repeat("x ", 50000)
	for name, c := range map[string]struct {
		unit, refused string
	}{
		"more than 64 KiB": {"[Service]\nExecStart=/usr/bin/app --a=b " + words + "\n", ""},
		"commands":         {"[Service]\nType=oneshot\n" + strings.Repeat("ExecStart=/usr/bin/app --a=b "+words+"\n", 11), "below 1024; shorten"},
		"checks": {"[Unit]\nConditionPathExists=/b\n" + strings.Repeat("ConditionPathExists=/a"+words+"\n", 11) +
			"[Service]\nExecStart=/usr/bin/app --a=b\n", "below 1024; shorten"},
		"checks, and blocked": {"[Unit]\nConditionPathExists=/b\n" + strings.Repeat("ConditionPathExists=/a"+words+"\n", 11) +
			"[Service]\nExecStart=/usr/bin/app --a=b\nUnsetEnvironment=CREDENTIALS_DIRECTORY\n", "UnsetEnvironment="},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			installSystemd(t, dir, 257, "")
			writeFile(t, dir+"/etc/bootseal/app.service.toml", []byte("[[credential]]\nname = \"a\"\noption = \"--a\"\nreplaces = \"/b\"\n"))
			writeFile(t, dir+"/usr/lib/systemd/system/app.service", []byte(c.unit))
			normal := dir + contract.Generated
			if err := os.MkdirAll(normal, 0o755); err != nil {
				t.Fatal(err)
			}
			log, err := os.Create(filepath.Join(t.TempDir(), "log"))
			if err != nil {
				t.Fatal(err)
			}
			generate(root.Dir(dir), normal, &logger{file: log})
			text, err := contract.ReadDropIn(root.Dir(dir), "app.service", contract.DropInName)
			if err != nil {
				t.Fatal(err)
			}
			if want := map[bool]contract.Answer{true: contract.SealedAnswer}[c.refused == ""]; text.Answer() != want {
				t.Errorf("the server answers with %v; want %v", text.Answer(), want)
			}
			if c.refused != "" && !strings.Contains(string(text), c.refused) {
				t.Errorf("no %q in\n%s", c.refused, text)
			}
		})
	}
}
