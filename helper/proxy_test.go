package main

import (
	"encoding/binary"
	"io"
	"net"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/bootseal/bootseal/internal/tpmdevice/swtpmtest"
)

// faulty is the command "tpm faulty FAULT": between helper and TPM comes a proxy
// that does something to the answers of TPM2_Load.
//
//	hesitant   TPM_RC_RETRY, YIELDED and TESTING each come before the answer
//	testing    TPM_RC_TESTING for ever
//	silent     no answer
//	cut        half an answer
//	failed     TPM_RC_FAILURE
func faulty(ts *testscript.TestScript, t *testing.T, tpm *swtpmtest.TPM, fault string) {
	socket := filepath.Join(tpm.Dir, "proxy-"+fault)
	listener, err := net.Listen("unix", socket)
	ts.Check(err)
	t.Cleanup(func() { listener.Close() })
	ts.Setenv("SYSTEMD_TPM2_DEVICE", "swtpm:path="+socket)
	go func() {
		hesitations := []uint32{0x922, 0x908, 0x90A}
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			command, err := tpmMessage(client)
			if err != nil {
				client.Close()
				continue
			}
			code := uint32(0) // to answer instead of the TPM
			const load = 0x157
			isLoad := binary.BigEndian.Uint32(command[6:]) == load
			switch {
			case isLoad && fault == "hesitant" && len(hesitations) > 0:
				code, hesitations = hesitations[0], hesitations[1:]
			case isLoad && fault == "testing":
				code = 0x90A
			case isLoad && fault == "failed":
				code = 0x101
			case isLoad && fault == "silent":
				defer client.Close()
				continue
			}
			answer := binary.BigEndian.AppendUint32([]byte{0x80, 1, 0, 0, 0, 10}, code)
			if code == 0 {
				answer = transmit(tpm.Socket(), command)
			}
			if isLoad && fault == "cut" {
				answer = answer[:len(answer)/2]
			}
			_, _ = client.Write(answer)
			client.Close()
		}
	}()
}

// transmit returns the TPM's answer, empty if there is none.
func transmit(socket string, command []byte) []byte {
	tpm, err := net.Dial("unix", socket)
	if err != nil {
		return nil
	}
	defer tpm.Close()
	if _, err := tpm.Write(command); err != nil {
		return nil
	}
	answer, _ := tpmMessage(tpm)
	return answer
}

// tpmMessage reads a command or an answer, whose size is in bytes 2 to 5.
func tpmMessage(r io.Reader) ([]byte, error) {
	b := make([]byte, 10)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, err
	}
	b = append(b, make([]byte, max(10, binary.BigEndian.Uint32(b[2:]))-10)...)
	_, err := io.ReadFull(r, b[10:])
	return b, err
}
