package tpm

import (
	"encoding/binary"
	"encoding/hex"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/bootseal/bootseal/internal/credential/vectors"
	"github.com/google/go-tpm/tpm2"
)

const vectorDir = "../credential/testdata/vectors"

// A swtpm is a running software TPM. It keeps what it is sent and what it
// answers. If set, before is called with each command and may answer in the
// TPM's place, and after may change the TPM's reply.
type swtpm struct {
	t      testing.TB
	dir    string
	cmd    *exec.Cmd
	conn   net.Conn
	sent   []tpm2.TPMCC
	wire   []byte
	before func(command []byte) ([]byte, error)
	after  func(command, reply []byte) []byte
}

// startTPM starts a software TPM on a copy of the state of a golden TPM ("" is a
// fresh one), extends the PCRs as the profile says, and at the end of the test
// checks that no object and no session was left in it.
func startTPM(t testing.TB, state, profile string) *swtpm {
	t.Helper()
	dir, err := os.MkdirTemp("", "swtpm") // t.TempDir is too long for a socket
	must(t, err)
	s := &swtpm{t: t, dir: dir}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if state != "" {
		data, err := os.ReadFile(filepath.Join(vectorDir, "tpm", state, "tpm2-00.permall"))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, "tpm2-00.permall"), data, 0o600))
	}
	s.start()
	t.Cleanup(func() {
		if !t.Failed() {
			s.checkClean()
		}
		s.stop()
	})
	if profile != "" {
		set := vectors.Load(t, vectorDir)
		for _, e := range set.Profiles[profile].Events {
			s.extend(e.PCR, e.Digests)
		}
	}
	s.sent = nil
	return s
}

func (s *swtpm) start() {
	s.t.Helper()
	sock := filepath.Join(s.dir, "sock")
	s.cmd = exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+s.dir,
		"--server", "type=unixio,path="+sock, "--ctrl", "type=unixio,path="+sock+".ctrl",
		"--flags", "not-need-init,startup-clear")
	s.cmd.Stderr = os.Stderr
	must(s.t, s.cmd.Start())
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("unix", sock)
		if err == nil {
			s.conn = conn
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatal("swtpm does not listen: ", err)
		}
	}
}

func (s *swtpm) stop() {
	s.conn.Close() // swtpm ends with its connection
	s.cmd.Process.Kill()
	s.cmd.Wait()
}

// restart is a power cycle without TPM2_Shutdown.
func (s *swtpm) restart() {
	s.t.Helper()
	s.stop()
	s.start()
	s.sent = nil
}

func (s *swtpm) Send(command []byte) ([]byte, error) {
	s.sent = append(s.sent, commandOf(command))
	s.wire = append(s.wire, command...)
	if s.before != nil {
		if reply, err := s.before(command); reply != nil || err != nil {
			return reply, err
		}
	}
	reply, err := s.raw(command)
	if err == nil && s.after != nil {
		reply = s.after(command, reply)
	}
	s.wire = append(s.wire, reply...)
	return reply, err
}

// commandOf returns the command code.
func commandOf(command []byte) tpm2.TPMCC {
	return tpm2.TPMCC(binary.BigEndian.Uint32(command[6:]))
}

// refusal is a reply of no more than a response code.
func refusal(rc tpm2.TPMRC) []byte {
	return binary.BigEndian.AppendUint32([]byte{0x80, 0x01, 0, 0, 0, headerSize}, uint32(rc))
}

func (s *swtpm) raw(command []byte) ([]byte, error) {
	if _, err := s.conn.Write(command); err != nil {
		return nil, err
	}
	reply := make([]byte, headerSize)
	if _, err := io.ReadFull(s.conn, reply); err != nil {
		return nil, err
	}
	rest := make([]byte, binary.BigEndian.Uint32(reply[2:])-headerSize)
	_, err := io.ReadFull(s.conn, rest)
	return append(reply, rest...), err
}

type sendFunc func([]byte) ([]byte, error)

func (f sendFunc) Send(command []byte) ([]byte, error) { return f(command) }

func (s *swtpm) extend(pcr int, digests map[string]string) {
	s.t.Helper()
	var values []tpm2.TPMTHA
	for _, b := range banks {
		if digests[b.name] == "" {
			continue
		}
		d, err := hex.DecodeString(digests[b.name])
		must(s.t, err)
		values = append(values, tpm2.TPMTHA{HashAlg: tpm2.TPMIAlgHash(b.alg), Digest: d})
	}
	_, err := tpm2.PCRExtend{
		PCRHandle: tpm2.AuthHandle{Handle: tpm2.TPMHandle(pcr), Auth: tpm2.PasswordAuth(nil)},
		Digests:   tpm2.TPMLDigestValues{Digests: values},
	}.Execute(sendFunc(s.raw))
	must(s.t, err)
}

// measure extends one PCR of the SHA-256 bank.
func (s *swtpm) measure(pcr int) {
	s.t.Helper()
	s.extend(pcr, map[string]string{"sha256": "aa00000000000000000000000000000000000000000000000000000000000000"})
}

func (s *swtpm) handles(kind tpm2.TPMHT) []tpm2.TPMHandle {
	s.t.Helper()
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: uint32(kind) << 24, PropertyCount: 64}.Execute(sendFunc(s.raw))
	must(s.t, err)
	list, err := rsp.CapabilityData.Data.Handles()
	must(s.t, err)
	return list.Handle
}

func (s *swtpm) checkClean() {
	s.t.Helper()
	for _, kind := range []tpm2.TPMHT{tpm2.TPMHTTransient, tpm2.TPMHTHMACSession, tpm2.TPMHTPolicySession} {
		if h := s.handles(kind); len(h) > 0 {
			s.t.Errorf("left in the TPM: %x", h)
		}
	}
}

// free takes the place of a resource manager whose client is gone.
func (s *swtpm) free() {
	s.t.Helper()
	for _, kind := range []tpm2.TPMHT{tpm2.TPMHTTransient, tpm2.TPMHTHMACSession, tpm2.TPMHTPolicySession} {
		for _, h := range s.handles(kind) {
			_, err := tpm2.FlushContext{FlushHandle: h}.Execute(sendFunc(s.raw))
			must(s.t, err)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
