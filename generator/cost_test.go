package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestCost measures what a boot pays: the processor's time of the generator with one
// policy, beside that of a Go program that does nothing and of systemd's generator for
// /etc/fstab, and of very many policies. It asserts nothing, as machines differ.
func TestCost(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes a few seconds")
	}
	t.Setenv("TMPDIR", "/dev/shm") // like /run
	t.Setenv("CGO_ENABLED", "0")   // the machine has no C library
	generator := buildAs(t, "-trimpath", "-ldflags=-s -w")
	run := func(dir string) func() *exec.Cmd {
		data, err := os.ReadFile(generator)
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, dir+"/generator", data)
		if err := os.Chmod(dir+"/generator", 0o755); err != nil {
			t.Fatal(err)
		}
		return func() *exec.Cmd {
			normal, err := os.MkdirTemp(dir, "normal")
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("/generator", strings.TrimPrefix(normal, dir))
			cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: dir}
			return cmd
		}
	}
	dir := t.TempDir()
	installSystemd(t, dir, 257, "")
	copyTree(t, "testdata/01-step-ca/in", dir)
	// A real systemd has a hundred times as much to look through.
	libraries, _ := filepath.Glob("/usr/lib/*/systemd/libsystemd-shared-*.so")
	for _, name := range append(libraries, "/usr/lib/systemd/systemd") {
		data, err := os.ReadFile(name)
		if err != nil || len(libraries) == 0 {
			t.Logf("measured: with a made-up systemd: %v", err)
			break
		}
		writeFile(t, dir+name, data)
		writeFile(t, dir+"/proc/1/exe", data) // the last one
	}
	commands := map[string]func() *exec.Cmd{"generator, one policy": run(dir)}

	empty := filepath.Join(t.TempDir(), "empty")
	writeFile(t, empty+".go", []byte("package main\n\nfunc main() {}\n"))
	if out, err := exec.Command("go", "build", "-o", empty, empty+".go").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	commands["empty Go program"] = func() *exec.Cmd { return exec.Command(empty) }

	fstab := filepath.Join(t.TempDir(), "fstab")
	writeFile(t, fstab, []byte("/dev/sda1 / ext4 defaults 0 1\n/dev/sda2 /home ext4 defaults 0 2\n/dev/sda3 /srv xfs nofail 0 2\ntmpfs /scratch tmpfs size=1g 0 0\nhost:/data /data nfs _netdev 0 0\n"))
	for _, folder := range []string{"/usr/lib", "/lib"} {
		name := folder + "/systemd/system-generators/systemd-fstab-generator"
		if _, err := os.Stat(name); err != nil {
			continue
		}
		fstabRun := func() *exec.Cmd {
			normal := t.TempDir()
			cmd := exec.Command(name, normal, normal, normal)
			cmd.Env = append(os.Environ(), "SYSTEMD_FSTAB="+fstab, "SYSTEMD_PROC_CMDLINE=quiet")
			return cmd
		}
		cmd := fstabRun()
		out, err := cmd.CombinedOutput()
		if mounts, _ := filepath.Glob(cmd.Args[1] + "/*.mount"); err != nil || len(mounts) != 5 {
			t.Errorf("systemd-fstab-generator: %v, %d mounts: %s", err, len(mounts), out)
		}
		commands["systemd-fstab-generator"] = fstabRun
		break
	}

	const runs = 150
	spent := map[string][]time.Duration{}
	for range runs {
		for name, command := range commands {
			spent[name] = append(spent[name], cost(t, command(), 0))
		}
	}
	mean := map[string]float64{} // ms
	for name, all := range spent {
		var sum time.Duration
		for _, d := range all {
			sum += d
		}
		slices.Sort(all)
		mean[name] = float64(sum.Microseconds()) / runs / 1000
		t.Logf("measured: %s: %.2f ms of processor, mean of %d runs (median %.2f ms)", name, mean[name], runs, float64(all[runs/2].Microseconds())/1000)
	}
	for _, other := range []string{"empty Go program", "systemd-fstab-generator"} {
		if mean[other] > 0 {
			t.Logf("measured: the generator costs %.2f × %s", mean["generator, one policy"]/mean[other], other)
		}
	}
	for _, count := range []int{1000, 2000} {
		dir := many(t, count)
		command := run(dir)
		var sum time.Duration
		const runs = 3
		for range runs {
			sum += cost(t, command(), 1) // three quarters of the policies are bad
		}
		t.Logf("measured: %d policies: %.3f ms of processor each", count, float64(sum.Microseconds())/1000/runs/float64(count))
	}
}

// cost runs a command to its end with that status and returns the processor's time.
func cost(t *testing.T, cmd *exec.Cmd, status int) time.Duration {
	t.Helper()
	_ = cmd.Run()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != status {
		t.Fatalf("%q: %v", cmd.Args, cmd.ProcessState)
	}
	return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
}
