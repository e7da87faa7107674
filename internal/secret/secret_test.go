package secret

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"testing/iotest"

	"golang.org/x/sys/unix"
)

// A process that called Protect, looked at from outside through /proc.
func TestMain(m *testing.M) {
	if os.Getenv("BOOTSEAL_TEST_PROTECT") == "" {
		os.Exit(m.Run())
	}
	if os.Getenv("BOOTSEAL_TEST_PROTECT") == "limited" {
		limit := unix.Rlimit{Cur: 64 << 10, Max: 64 << 10}
		if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
			panic(err)
		}
		if err := dropIPCLock(); err != nil {
			panic(err)
		}
	}
	warning, err := Protect()
	if err != nil {
		panic(err)
	}
	ballast := make([]byte, 1<<20)
	for i := range ballast {
		ballast[i] = 1
	}
	fmt.Printf("warning %q\n", warning)
	io.Copy(io.Discard, os.Stdin)
	fmt.Fprint(io.Discard, ballast[0])
}

func dropIPCLock() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	data[0].Effective &^= 1 << unix.CAP_IPC_LOCK
	return unix.Capset(&header, &data[0])
}

func protected(t *testing.T, mode string) (warning, status, limits string) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "BOOTSEAL_TEST_PROTECT="+mode)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fscanf(stdout, "warning %q\n", &warning); err != nil {
		t.Fatal(err)
	}
	proc := fmt.Sprintf("/proc/%d/", cmd.Process.Pid)
	st, err := os.ReadFile(proc + "status")
	if err != nil {
		t.Fatal(err)
	}
	lim, err := os.ReadFile(proc + "limits")
	if err != nil {
		t.Fatal(err)
	}
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	return warning, string(st), string(lim)
}

// field returns the value of a line of /proc/PID/status or limits.
func field(t *testing.T, text, name string) string {
	t.Helper()
	for _, line := range strings.Split(text, "\n") {
		if rest, ok := strings.CutPrefix(line, name); ok {
			return strings.Join(strings.Fields(rest), " ")
		}
	}
	t.Fatalf("no line %q in:\n%s", name, text)
	return ""
}

func TestProtect(t *testing.T) {
	warning, status, limits := protected(t, "root")
	if warning != "" {
		t.Errorf("as root: warning %q, want none (run the tests as root)", warning)
	}
	if locked := field(t, status, "VmLck:"); locked == "0 kB" {
		t.Errorf("as root: VmLck is 0, want memory to be locked")
	}
	if core := field(t, limits, "Max core file size"); core != "0 0 bytes" {
		t.Errorf("core file size limit is %q, want 0", core)
	}
}

// Without the right to lock memory the process must say so and live on.
func TestProtectUnprivileged(t *testing.T) {
	warning, status, limits := protected(t, "limited")
	if !strings.Contains(warning, "swap") {
		t.Errorf("warning %q, want one that names swap", warning)
	}
	if locked := field(t, status, "VmLck:"); locked != "0 kB" {
		t.Errorf("VmLck is %s, want 0 kB", locked)
	}
	if core := field(t, limits, "Max core file size"); core != "0 0 bytes" {
		t.Errorf("core file size limit is %q, want 0", core)
	}
}

func TestRead(t *testing.T) {
	for _, size := range []int{0, 1, 99, 100} {
		in := bytes.Repeat([]byte{'x'}, size)
		got, err := Read(iotest.OneByteReader(bytes.NewReader(in)), 100)
		if err != nil || !bytes.Equal(got, in) {
			t.Errorf("Read of %d bytes: %d bytes, %v", size, len(got), err)
		}
	}
	if _, err := Read(strings.NewReader(strings.Repeat("x", 101)), 100); !errors.Is(err, ErrTooLarge) {
		t.Errorf("Read of 101 bytes: %v, want ErrTooLarge", err)
	}
	broken := errors.New("broken")
	if got, err := Read(io.MultiReader(strings.NewReader("x"), iotest.ErrReader(broken)), 100); got != nil || err != broken {
		t.Errorf("Read of a broken input: %q, %v", got, err)
	}
}
