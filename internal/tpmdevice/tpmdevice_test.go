package tpmdevice

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"testing/iotest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bootseal/bootseal/internal/root"
	"github.com/bootseal/bootseal/internal/tpmdevice/swtpmtest"
)

// getRandom asks a TPM for 8 bytes (TPM2_GetRandom).
var getRandom = []byte{0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x7B, 0, 8}

// answersGetRandom checks the length and the code of the answer.
func answersGetRandom(t *testing.T, spec string) {
	t.Helper()
	tpm, err := Open(spec)
	if err != nil {
		t.Fatal(err)
	}
	defer tpm.Close()
	for range 3 {
		response, err := tpm.Send(getRandom)
		if err != nil {
			t.Fatal(err)
		}
		if len(response) != 20 || binary.BigEndian.Uint32(response[6:]) != 0 {
			t.Errorf("TPM2_GetRandom of 8 bytes answers %x, expected 20 bytes with code 0", response)
		}
	}
}

func TestOpenTPMSwtpm(t *testing.T) {
	tpm := swtpmtest.New(t)
	t.Run("path", func(t *testing.T) { answersGetRandom(t, tpm.Spec()) })
	t.Run("environment", func(t *testing.T) {
		t.Setenv("SYSTEMD_TPM2_DEVICE", tpm.Spec())
		answersGetRandom(t, "")
	})
	t.Run("host and port", func(t *testing.T) {
		listener := forward(t, tpm.Socket())
		port := listener.Addr().(*net.TCPAddr).Port
		answersGetRandom(t, fmt.Sprintf("swtpm:host=127.0.0.1,port=%d", port))
	})
	t.Run("nobody has started it", func(t *testing.T) {
		// Without startup-clear every command but TPM2_Startup fails.
		tpm.Stop()
		dir := tpm.Dir
		cmd := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+dir, "--server", "type=unixio,path="+tpm.Socket()+",disconnect",
			"--ctrl", "type=unixio,path="+tpm.Socket()+".ctrl", "--flags", "not-need-init", "--daemon", "--pid", "file="+filepath.Join(dir, "pid"))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		answersGetRandom(t, tpm.Spec())
	})
	t.Run("stopped", func(t *testing.T) {
		tpm.Stop()
		if _, err := Open(tpm.Spec()); !errors.Is(err, ErrNoTPM) {
			t.Errorf("%v, want ErrNoTPM", err)
		}
	})
}

// forward makes a software TPM reachable over TCP.
func forward(t *testing.T, socket string) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("unix", socket)
			if err != nil {
				client.Close()
				continue
			}
			go io.Copy(server, client)
			io.Copy(client, server)
			client.Close()
			server.Close()
		}
	}()
	return listener
}

// A pseudo-terminal is a character device like /dev/tpmrm0; a software TPM is
// behind it.
func TestOpenTPMDevice(t *testing.T) {
	tpm := swtpmtest.New(t)
	master, path := pseudoTerminal(t)
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			if err != nil {
				return
			}
			server, err := net.Dial("unix", tpm.Socket())
			if err != nil {
				return
			}
			if _, err := server.Write(buf[:n]); err != nil {
				return
			}
			response, err := io.ReadAll(server)
			server.Close()
			if err != nil {
				return
			}
			// In two pieces, as a kernel may.
			master.Write(response[:7])
			master.Write(response[7:])
		}
	}()
	for _, spec := range []string{path, "device:" + path} {
		answersGetRandom(t, spec)
	}
}

func pseudoTerminal(t *testing.T) (master *os.File, slave string) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	// Raw bytes, no echo.
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &unix.Termios{Cflag: unix.CS8 | unix.CREAD, Cc: [19]uint8{unix.VMIN: 1}}); err != nil {
		t.Fatal(err)
	}
	slave = fmt.Sprintf("/dev/pts/%d", number)
	// Held open: the master cannot be read while nobody has the slave open.
	held, err := os.OpenFile(slave, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { held.Close() })
	return master, slave
}

// A device that is for one program at a time, as /dev/tpm0 is, and taken.
func TestOpenTPMTaken(t *testing.T) {
	_, path := pseudoTerminal(t)
	holder, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer holder.Close()
	if err := unix.IoctlSetInt(int(holder.Fd()), unix.TIOCEXCL, 0); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // ends with this goroutine, so that nothing else lacks the capability
		done <- func() error {
			// With it, terminals can be opened all the same.
			header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
			var data [2]unix.CapUserData
			if err := unix.Capget(&header, &data[0]); err != nil {
				return err
			}
			data[0].Effective &^= 1 << unix.CAP_SYS_ADMIN
			if err := unix.Capset(&header, &data[0]); err != nil {
				return err
			}
			_, err := Open(path)
			return err
		}()
	}()
	if err := <-done; !errors.Is(err, ErrBusy) {
		t.Errorf("%v, want ErrBusy", err)
	}
}

// A TPM that never answers.
func TestOpenTPMSilent(t *testing.T) {
	defer func(f func([]byte) time.Duration) { timeFor = f }(timeFor)
	timeFor = func([]byte) time.Duration { return time.Millisecond }

	_, path := pseudoTerminal(t)
	tpm, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer tpm.Close()
	for range 2 {
		if _, err := tpm.Send(getRandom); !errors.Is(err, ErrBusy) {
			t.Errorf("device: %v, want ErrBusy", err)
		}
	}

	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if _, err := Open("swtpm:path=" + listener.Addr().String()); !errors.Is(err, ErrBusy) {
		t.Errorf("socket: %v, want ErrBusy", err)
	}
}

func TestOpenTPMAbsent(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, spec := range []string{
		filepath.Join(dir, "tpmrm0"), "device:" + filepath.Join(dir, "tpmrm0"), "device:" + file,
		"swtpm:path=" + filepath.Join(dir, "sock"), "swtpm:host=127.0.0.1,port=1",
	} {
		if _, err := Open(spec); !errors.Is(err, ErrNoTPM) {
			t.Errorf("Open(%q): %v, want ErrNoTPM", spec, err)
		}
	}
}

func TestOpenTPMBadSpec(t *testing.T) {
	for _, spec := range []string{
		"tpmrm0", "device:tpmrm0", "tabrmd:", "list", "swtpm:path", "swtpm:path=", "swtpm:port=0", "swtpm:port=65536",
		"swtpm:port=x", "swtpm:socket=/x", "swtpm:path=/x,", ":",
	} {
		if _, err := Open(spec); err == nil || errors.Is(err, ErrNoTPM) {
			t.Errorf("Open(%q): %v, want an error about the syntax", spec, err)
		}
	}
}

func TestOnlyTPM(t *testing.T) {
	dir := t.TempDir()
	if _, err := onlyTPM(root.Dir(dir)); !errors.Is(err, ErrNoTPM) {
		t.Errorf("without any: %v, want ErrNoTPM", err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "sys/class/tpmrm/tpmrm3"), 0o755); err != nil {
		t.Fatal(err)
	}
	if path, err := onlyTPM(root.Dir(dir)); path != "/dev/tpmrm3" || err != nil {
		t.Errorf("with one: %q, %v, want /dev/tpmrm3", path, err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "sys/class/tpmrm/tpmrm4"), 0o755); err != nil {
		t.Fatal(err)
	}
	if path, err := onlyTPM(root.Dir(dir)); err == nil {
		t.Errorf("with two: %q, want an error", path)
	}
}

type readWriter struct {
	io.Reader
	io.Writer
}

func TestExchangeRefuses(t *testing.T) {
	for name, response := range map[string][]byte{
		"nothing":               {},
		"half a header":         {0x80, 0x01, 0, 0, 0},
		"body is cut":           {0x80, 0x01, 0, 0, 0, 12, 0, 0, 0, 0, 1},
		"too short":             {0x80, 0x01, 0, 0, 0, 9, 0, 0, 0, 0},
		"too long":              append([]byte{0x80, 0x01, 0, 0, 0x10, 1, 0, 0, 0, 0}, make([]byte, 4087)...),
		"huge":                  {0x80, 0x01, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0},
		"something follows":     {0x80, 0x01, 0, 0, 0, 10, 0, 0, 0, 0, 1},
		"much follows, no size": make([]byte, 8192),
	} {
		if got, err := exchange(readWriter{bytes.NewReader(response), io.Discard}, getRandom); !errors.Is(err, ErrResponse) {
			t.Errorf("%s: %x, %v; want ErrResponse", name, got, err)
		}
	}
}

func FuzzExchange(f *testing.F) {
	f.Add([]byte{0x80, 0x01, 0, 0, 0, 10, 0, 0, 0, 0})
	f.Add([]byte{0x80, 0x01, 0, 0, 0, 12, 0, 0, 0, 0, 1, 2})
	f.Fuzz(func(t *testing.T, data []byte) {
		whole, err := exchange(readWriter{bytes.NewReader(data), io.Discard}, getRandom)
		if err != nil {
			return
		}
		if !bytes.Equal(whole, data) || len(whole) < headerSize {
			t.Errorf("%x became %x", data, whole)
		}
		pieces, err := exchange(readWriter{iotest.OneByteReader(bytes.NewReader(data)), io.Discard}, getRandom)
		if err != nil || !bytes.Equal(whole, pieces) {
			t.Errorf("%x in pieces became %x, %v", data, pieces, err)
		}
	})
}
