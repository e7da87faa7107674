package machine

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// Device is how systemd and bootseal name the machine's TPM, in the syntax of
// systemd-creds' --tpm2-device=.
const Device = "swtpm:path=/bootseal-test/tpm/sock"

// TPM is a software TPM 2.0 with a SHA-256 bank. It is on while its machine is.
type TPM struct {
	// Firmware is what the firmware measures at each power-on, by PCR.
	Firmware map[int]string

	dir string
	off func() // nil while it is off
}

// NewTPM makes another TPM, for m.TPM; it goes when m is closed.
func (m *Machine) NewTPM() (*TPM, error) { return newTPM(m.dir) }

func newTPM(parent string) (*TPM, error) {
	dir, err := os.MkdirTemp(parent, "tpm-")
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("swtpm_setup", "--tpm2", "--tpmstate", dir, "--pcr-banks", "sha256")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("making a software TPM: %w: %s", err, out)
	}
	return &TPM{Firmware: map[int]string{7: "Secure Boot is on"}, dir: dir}, nil
}

func (t *TPM) clone(parent string) (*TPM, error) {
	dir := filepath.Join(parent, "tpm-clone")
	if err := os.CopyFS(dir, os.DirFS(t.dir)); err != nil {
		return nil, err
	}
	c := &TPM{Firmware: map[int]string{}, dir: dir}
	for pcr, event := range t.Firmware {
		c.Firmware[pcr] = event
	}
	return c, nil
}

// on powers the TPM on: TPM2_Startup, and what the firmware measures.
func (t *TPM) on() error {
	raw, socket := filepath.Join(t.dir, "raw"), filepath.Join(t.dir, "sock")
	cmd := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+t.dir,
		"--server", "type=unixio,path="+raw+",disconnect", "--ctrl", "type=unixio,path="+socket+".ctrl",
		"--flags", "not-need-init,startup-clear")
	wait, err := startWithUs(cmd)
	if err != nil {
		return fmt.Errorf("starting swtpm: %w", err)
	}
	var listener *net.UnixListener
	t.off = func() {
		if listener != nil {
			_ = listener.Close()
		}
		_ = t.shutdown()
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = wait()
		for _, path := range []string{raw, socket, socket + ".ctrl"} {
			_ = os.Remove(path)
		}
		t.off = nil
	}
	if err := t.await(raw); err != nil {
		return err
	}
	for pcr, event := range t.Firmware {
		if err := t.extend(pcr, event); err != nil {
			t.off()
			return fmt.Errorf("measuring into PCR %d: %w", pcr, err)
		}
	}
	if listener, err = net.ListenUnix("unix", &net.UnixAddr{Name: socket}); err != nil {
		t.off()
		return fmt.Errorf("listening for TPM commands: %w", err)
	}
	go t.manage(listener)
	return nil
}

// await waits for a socket of swtpm, or else switches it off.
func (t *TPM) await(socket string) error {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		// There is a socket before anybody listens at it.
		if conn, err := net.Dial("unix", socket); err == nil {
			return conn.Close()
		}
		if time.Now().After(deadline) {
			t.off()
			return errors.New("starting swtpm: no socket after ten seconds")
		}
	}
}

// manage passes commands on, and does what the kernel does for /dev/tpmrm0 and
// swtpm does not: what a client that has ended left in the TPM is flushed.
// systemd 252 leaves a key each time, and a TPM has room for three. Clients make
// a connection for each command, so they are told apart by their process.
func (t *TPM) manage(listener *net.UnixListener) {
	last := 0
	for {
		client, err := listener.AcceptUnix()
		if err != nil {
			return
		}
		if pid := peer(client); pid != last {
			if errors.Is(syscall.Kill(last, 0), syscall.ESRCH) {
				t.flush()
			}
			last = pid
		}
		t.pass(client)
	}
}

// peer is the process at the other end, 0 if unknown.
func peer(client *net.UnixConn) (pid int) {
	raw, err := client.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) {
		if cred, err := syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	return pid
}

// pass passes one command on. To the client, an error is a TPM that hangs up.
func (t *TPM) pass(client net.Conn) {
	defer client.Close()
	command, err := message(client)
	if err != nil {
		return
	}
	if answer, err := t.transmit(command); err == nil {
		_, _ = client.Write(answer)
	}
}

// flush empties the TPM of loaded objects and sessions.
func (t *TPM) flush() {
	for _, first := range []uint32{0x80000000, 0x02000000} { // TRANSIENT_FIRST, LOADED_SESSION_FIRST
		answer, err := t.execute(0x8001, 0x17A, uint32(1), first, uint32(64)) // TPM_CC_GetCapability, TPM_CAP_HANDLES
		if err != nil {
			return
		}
		for handles := answer[9:]; len(handles) >= 4; handles = handles[4:] { // after moreData, capability, count
			_, _ = t.execute(0x8001, 0x165, handles[:4]) // TPM_CC_FlushContext
		}
	}
}

// extend sends TPM2_PCR_Extend with an empty password (TPM 2.0 Library, part 3).
func (t *TPM) extend(pcr int, event string) error {
	_, err := t.execute(0x8002, 0x182, // TPM_ST_SESSIONS, TPM_CC_PCR_Extend
		uint32(pcr), uint32(9), uint32(0x40000009), uint16(0), uint8(0), uint16(0), // TPM_RS_PW, no nonce, no attributes, no password
		uint32(1), uint16(0x000B), sha256.Sum256([]byte(event))) // one TPMT_HA of TPM_ALG_SHA256
	return err
}

// shutdown sends TPM2_Shutdown, as a kernel does: a TPM that loses its power
// without counts that as a failed try, and locks itself after some.
func (t *TPM) shutdown() error {
	_, err := t.execute(0x8001, 0x145, uint16(0)) // TPM_ST_NO_SESSIONS, TPM_CC_Shutdown, TPM_SU_CLEAR
	return err
}

// execute sends one command and returns what follows the header of the answer.
func (t *TPM) execute(tag uint16, code uint32, parameters ...any) ([]byte, error) {
	var body bytes.Buffer
	for _, v := range parameters {
		if err := binary.Write(&body, binary.BigEndian, v); err != nil {
			return nil, err
		}
	}
	command := binary.BigEndian.AppendUint16(nil, tag)
	command = binary.BigEndian.AppendUint32(command, uint32(10+body.Len()))
	command = binary.BigEndian.AppendUint32(command, code)
	answer, err := t.transmit(append(command, body.Bytes()...))
	if err != nil {
		return nil, err
	}
	if code := binary.BigEndian.Uint32(answer[6:]); code != 0 {
		return nil, fmt.Errorf("the TPM answered %#x", code)
	}
	return answer[10:], nil
}

// transmit sends a command and reads the answer, with a connection for it alone.
func (t *TPM) transmit(command []byte) ([]byte, error) {
	conn, err := net.DialTimeout("unix", filepath.Join(t.dir, "raw"), 10*time.Second)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(bootLimit)); err != nil {
		return nil, err
	}
	if _, err := conn.Write(command); err != nil {
		return nil, err
	}
	return message(conn)
}

// message reads a command or an answer, which has its size in bytes 2 to 5.
func message(conn net.Conn) ([]byte, error) {
	b := make([]byte, 10)
	if _, err := io.ReadFull(conn, b); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(b[2:])
	if size < 10 || size > 65536 {
		return nil, fmt.Errorf("a TPM message of %d bytes", size)
	}
	b = append(b, make([]byte, size-10)...)
	_, err := io.ReadFull(conn, b[10:])
	return b, err
}
