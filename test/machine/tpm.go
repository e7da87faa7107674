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
	socket := filepath.Join(t.dir, "sock")
	_ = os.Remove(socket)
	cmd := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+t.dir,
		"--server", "type=unixio,path="+socket+",disconnect", "--ctrl", "type=unixio,path="+socket+".ctrl",
		"--flags", "not-need-init,startup-clear")
	wait, err := startWithUs(cmd)
	if err != nil {
		return fmt.Errorf("starting swtpm: %w", err)
	}
	t.off = func() {
		_ = t.shutdown()
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = wait()
		_ = os.Remove(socket)
		_ = os.Remove(socket + ".ctrl")
		t.off = nil
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.off()
			return errors.New("starting swtpm: no socket after ten seconds")
		}
	}
	for pcr, event := range t.Firmware {
		if err := t.extend(pcr, event); err != nil {
			t.off()
			return fmt.Errorf("measuring into PCR %d: %w", pcr, err)
		}
	}
	return nil
}

// extend sends TPM2_PCR_Extend with an empty password (TPM 2.0 Library, part 3).
func (t *TPM) extend(pcr int, event string) error {
	return t.execute(0x8002, 0x182, // TPM_ST_SESSIONS, TPM_CC_PCR_Extend
		uint32(pcr), uint32(9), uint32(0x40000009), uint16(0), uint8(0), uint16(0), // TPM_RS_PW, no nonce, no attributes, no password
		uint32(1), uint16(0x000B), sha256.Sum256([]byte(event))) // one TPMT_HA of TPM_ALG_SHA256
}

// shutdown sends TPM2_Shutdown, as a kernel does: a TPM that loses its power
// without counts that as a failed try, and locks itself after some.
func (t *TPM) shutdown() error {
	return t.execute(0x8001, 0x145, uint16(0)) // TPM_ST_NO_SESSIONS, TPM_CC_Shutdown, TPM_SU_CLEAR
}

func (t *TPM) execute(tag uint16, code uint32, parameters ...any) error {
	conn, err := net.DialTimeout("unix", filepath.Join(t.dir, "sock"), 10*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	var body bytes.Buffer
	for _, v := range parameters {
		if err := binary.Write(&body, binary.BigEndian, v); err != nil {
			return err
		}
	}
	command := binary.BigEndian.AppendUint16(nil, tag)
	command = binary.BigEndian.AppendUint32(command, uint32(10+body.Len()))
	command = binary.BigEndian.AppendUint32(command, code)
	if _, err := conn.Write(append(command, body.Bytes()...)); err != nil {
		return err
	}
	header := make([]byte, 10)
	if _, err := io.ReadFull(conn, header); err != nil {
		return err
	}
	if code := binary.BigEndian.Uint32(header[6:]); code != 0 {
		return fmt.Errorf("the TPM answered %#x", code)
	}
	return nil
}
