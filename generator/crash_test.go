package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/bootseal/bootseal/internal/contract"
	"github.com/bootseal/bootseal/policy"
	"golang.org/x/sys/unix"
)

// TestFaults kills the generator at each of its system calls that open, write or
// rename a file, and at others, or has the call fail as on a full disk or one that
// cannot be read. A unit with a policy must have been given no drop-in at all, which
// the installed service.d/zz-bootseal.conf takes care of, or one that blocks it, or
// the right one: never a part of one, and never one that takes no account of what
// could not be read.
func TestFaults(t *testing.T) {
	generator := build(t)
	dir := t.TempDir()
	installSystemd(t, dir, 257, "")
	copyTree(t, "testdata/01-step-ca/in", dir)
	copyTree(t, "testdata/05-instances/in", dir)
	want := expected(t, "testdata/01-step-ca", 257)
	for name, text := range expected(t, "testdata/05-instances", 257) {
		want[name] = text
	}
	// This takes back what the policy of one instance sets.
	writeFile(t, dir+"/etc/systemd/system/app@one.service.d/zzz.conf", []byte("[Service]\nLoadCredential=\n"))
	delete(want, "app@one.service.d/zz-bootseal.conf")
	seen := map[string]int{}
	for _, fault := range []string{
		"openat:signal=KILL", "write:signal=KILL", "renameat:signal=KILL", "mkdirat:signal=KILL", "linkat:signal=KILL",
		"fsync:signal=KILL", "getdents64:signal=KILL", "fstat:signal=KILL", "read:signal=KILL",
		"openat:error=EACCES", "read:error=EIO", "getdents64:error=EIO", "write:error=ENOSPC", "renameat:error=ENOSPC",
		"mkdirat:error=ENOSPC", "linkat:error=ENOSPC",
	} {
		call, effect, _ := strings.Cut(fault, ":")
		for n := 1; ; n++ {
			normal, trace := t.TempDir(), filepath.Join(t.TempDir(), "trace")
			cmd := exec.Command("strace", "-f", "-o", trace, "-e", "trace="+call, "-e", fmt.Sprintf("inject=%s:when=%d", fault, n),
				generator, "--root="+dir, normal)
			cmd.Env = append(os.Environ(), "GOMAXPROCS=1") // strace counts the calls of each thread
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				t.Fatalf("strace(1) is needed: %v", err)
			}
			for name, text := range readTree(t, normal) {
				if strings.HasPrefix(filepath.Base(name), ".") {
					continue // temporary; systemd does not read it
				}
				switch {
				case text == want[name]:
					seen["right"]++
				case strings.Contains(text, "ExecStartPre=\nExecStartPre=+/usr/bin/bootseal refuse ") && strings.HasSuffix(text, "Restart=no\n"):
					seen["blocked"]++
				case want[name] != "" && strings.Contains(text, ":"+contract.SocketPath+"\n"):
					seen["by way of the socket"]++ // libtss2 could not be looked at
				default:
					t.Errorf("%s %d: %s is\n%s", fault, n, name, text)
				}
			}
			calls, err := os.ReadFile(trace)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(calls), "killed by SIGKILL") && !strings.Contains(string(calls), "INJECTED") {
				break
			}
			seen[effect]++
			if len(out) > 0 && !strings.Contains(string(out), "bootseal-generator:") {
				t.Fatalf("%s", out)
			}
			if n == 500 {
				t.Fatalf("%s: still happens after %d calls", fault, n)
			}
		}
	}
	t.Logf("%v", seen)
	for _, what := range []string{"signal=KILL", "error=EACCES", "error=EIO", "error=ENOSPC", "right", "blocked"} {
		if seen[what] == 0 {
			t.Errorf("%s did not happen", what)
		}
	}
}

func build(t testing.TB) string {
	t.Helper()
	return buildAs(t)
}

// buildAs builds it with options.
func buildAs(t testing.TB, options ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bootseal-generator")
	if out, err := exec.Command("go", slices.Concat([]string{"build", "-o", path}, options, []string{"."})...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

// TestNothingToSay runs the program as systemd does where it is not concerned.
func TestNothingToSay(t *testing.T) {
	generator := build(t)
	dir := t.TempDir()
	installSystemd(t, dir, 257, "")
	copyTree(t, "testdata/02-only-placed/in", dir)
	for name, variable := range map[string]string{"user manager": "SYSTEMD_SCOPE=user", "initrd": "SYSTEMD_IN_INITRD=1"} {
		normal := t.TempDir()
		cmd := exec.Command(generator, "--root="+dir, normal, normal, normal)
		cmd.Env = append(os.Environ(), variable)
		out, err := cmd.CombinedOutput()
		if err != nil || len(out) != 0 || len(readTree(t, normal)) != 0 {
			t.Errorf("%s: %v, says %q, writes %v", name, err, out, readTree(t, normal))
		}
	}
}

func TestUsage(t *testing.T) {
	generator := build(t)
	for _, args := range [][]string{nil, {"a", "b"}, {"--nonsense", "a"}, {"a", "b", "c", "d"}} {
		out, err := exec.Command(generator, args...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "expected one directory, or the three of systemd.generator(7)") {
			t.Errorf("%q: %v, says %q", args, err, out)
		}
	}
}

func TestReportsFailure(t *testing.T) {
	generator := build(t)
	dir := t.TempDir()
	installSystemd(t, dir, 257, "")
	copyTree(t, "testdata/04-broken/in", dir)
	out, err := exec.Command(generator, "--root="+dir, t.TempDir()).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || strings.Count(string(out), "\n") != 1 || !strings.Contains(string(out), "/etc/bootseal/app.service.toml") {
		t.Errorf("%v, says %q; want status 1 and one line about the policy", err, out)
	}
	// A full or read-only /run is said, too.
	out, err = exec.Command(generator, "--root="+dir, "/proc").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "making the drop-in folder") {
		t.Errorf("%v, says %q; want it to say that it cannot write", err, out)
	}
}

// TestPanic: a bug that one policy meets blocks its unit, with a reason.
func TestPanic(t *testing.T) {
	plan := planned(nil, policy.File{Unit: "app.service", Path: "/etc/bootseal/app.service.toml"})
	if plan.Err == nil || len(plan.DropIns) != 1 || !strings.Contains(plan.DropIns[0].Text, "refuse \"app.service is not started: /etc/bootseal/app.service.toml: bootseal-generator broke off") {
		t.Errorf("%+v", plan)
	}
}

// many makes a machine with that many units and as many policies: a quarter of
// them each in order, broken, without end, and for no unit.
func many(t testing.TB, count int) (dir string) {
	dir = t.TempDir()
	installSystemd(t, dir, 257, "")
	for i := range count {
		name := fmt.Sprintf("app-%d.service", i)
		text := "[[credential]]\nname = \"a\"\noption = \"--a\"\n"
		switch i % 4 {
		case 1:
			text = "nonsense"
		case 2:
			if err := os.MkdirAll(dir+"/etc/bootseal", 0o755); err != nil {
				t.Fatal(err)
			}
			text = ""
			var err error
			path := dir + "/etc/bootseal/" + name + ".toml"
			if i%8 == 2 {
				err = unix.Mkfifo(path, 0o644) // nobody ever writes to it
			} else if err = os.WriteFile(path, nil, 0o644); err == nil {
				err = os.Truncate(path, 1<<40)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if i%4 != 3 {
			writeFile(t, dir+"/usr/lib/systemd/system/"+name, []byte("[Service]\nExecStart=/usr/bin/app\n"))
		}
		if text != "" {
			writeFile(t, dir+"/etc/bootseal/"+name+".toml", []byte(text))
		}
	}
	return dir
}

// TestMany: each of very many policies has a drop-in, and none has another's.
func TestMany(t *testing.T) {
	const count = 1000
	dir, normal := many(t, count), t.TempDir()
	if out, err := exec.Command(build(t), "--root="+dir, normal).CombinedOutput(); err == nil || strings.Count(string(out), "\n") != count*3/4 {
		t.Fatalf("%v, %d lines; want a failure and a line for each bad policy", err, strings.Count(string(out), "\n"))
	}
	reasons := []string{"LoadCredentialEncrypted=a:/etc/credstore.encrypted/a\n", ": line 1: ", "file", "no such unit file"}
	endless := []string{"not a regular file", "file too large"}
	seen := make([]int, len(reasons))
	for name, text := range readTree(t, normal) {
		var i int
		if _, err := fmt.Sscanf(name, "app-%d.service.d/", &i); err != nil {
			t.Fatal(name, err)
		}
		if !strings.Contains(text, reasons[i%4]) || i%4 == 2 && !strings.Contains(text, endless[i/4%2]) || !strings.Contains(text, fmt.Sprintf("/app-%d.service.toml", i)) || strings.Contains(text, "refuse") != (i%4 > 0) {
			t.Fatalf("%s:\n%s\nwant %q", name, text, reasons[i%4])
		}
		seen[i%4]++
	}
	for i, n := range seen {
		if n != count/4 {
			t.Errorf("%d drop-ins with %q; want %d", n, reasons[i], count/4)
		}
	}
}

// BenchmarkMany is a run over ten thousand policies in the machine itself, as at
// boot; --root= would have every path looked at part by part. Like /run, the
// folder is in memory.
func BenchmarkMany(b *testing.B) {
	b.Setenv("TMPDIR", "/dev/shm")
	b.Setenv("CGO_ENABLED", "0") // the machine has no C library
	generator, dir := build(b), many(b, 10000)
	if err := os.Rename(generator, dir+"/generator"); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		normal, err := os.MkdirTemp(dir, "normal")
		if err != nil {
			b.Fatal(err)
		}
		cmd := exec.Command("/generator", strings.TrimPrefix(normal, dir))
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: dir}
		if err := cmd.Run(); err == nil {
			b.Fatal("want a failure, as of bad policies")
		}
	}
}

// BenchmarkGenerate is the whole run of the program with one policy.
func BenchmarkGenerate(b *testing.B) {
	generator := build(b)
	dir := b.TempDir()
	installSystemd(b, dir, 257, "")
	copyTree(b, "testdata/01-step-ca/in", dir)
	normal := b.TempDir()
	for b.Loop() {
		if out, err := exec.Command(generator, "--root="+dir, normal).CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
	}
}
