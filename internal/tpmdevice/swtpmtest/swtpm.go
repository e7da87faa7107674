// Package swtpmtest starts software TPMs for tests.
package swtpmtest

import (
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TPM is a software TPM whose state outlives a restart.
type TPM struct {
	// Dir is where its state and its socket are. The path is short: that of a
	// socket has 107 bytes at most.
	Dir string
	tb  testing.TB
}

// New makes a TPM 2.0 with a SHA-256 bank of PCRs and starts it. The test
// fails if swtpm(8) is not installed.
func New(tb testing.TB) *TPM {
	tb.Helper()
	dir, err := os.MkdirTemp("", "swtpm")
	if err != nil {
		tb.Fatal(err)
	}
	t := &TPM{Dir: dir, tb: tb}
	tb.Cleanup(func() {
		t.Stop()
		os.RemoveAll(dir)
	})
	t.run("swtpm_setup", "--tpm2", "--tpmstate", dir, "--pcr-banks", "sha256")
	t.Start()
	return t
}

// Spec is what --tpm2-device= takes.
func (t *TPM) Spec() string { return "swtpm:path=" + t.Socket() }

// Socket is the path of its data channel.
func (t *TPM) Socket() string { return filepath.Join(t.Dir, "sock") }

// Start powers the TPM on.
func (t *TPM) Start() {
	t.tb.Helper()
	t.run("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+t.Dir,
		"--server", "type=unixio,path="+t.Socket()+",disconnect",
		"--ctrl", "type=unixio,path="+t.Socket()+".ctrl",
		"--flags", "not-need-init,startup-clear",
		"--daemon", "--pid", "file="+t.pidFile())
}

// Stop shuts it down as an operating system does, and powers it off: PCRs,
// sessions and transient objects are gone.
func (t *TPM) Stop() {
	// Without TPM2_Shutdown(TPM_SU_CLEAR) the TPM would count a failed
	// authorization, and after a few be locked out.
	if conn, err := net.Dial("unix", t.Socket()); err == nil {
		conn.Write([]byte{0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x45, 0, 0})
		io.Copy(io.Discard, conn)
		conn.Close()
	}
	data, err := os.ReadFile(t.pidFile())
	if err != nil {
		return
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return
	}
	// Opened before the signal, so that it cannot be another process.
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0)
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(poll, -1); err != unix.EINTR {
			break
		}
	}
	os.Remove(t.pidFile())
	os.Remove(t.Socket())
	os.Remove(t.Socket() + ".ctrl")
}

func (t *TPM) pidFile() string { return filepath.Join(t.Dir, "pid") }

func (t *TPM) run(name string, args ...string) {
	t.tb.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.tb.Fatalf("%s: %v (Debian: apt-get install swtpm swtpm-tools)\n%s", name, err, out)
	}
}
