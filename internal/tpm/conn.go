// Package tpm seals secrets to a TPM 2.0 and unseals them, as the encrypted
// credentials of systemd need it (package credential). It opens no device: the
// caller hands in a transport, behind [Retry] unless the TPM's driver resends by
// itself.
//
// Secrets cross the transport encrypted to a session that is salted to the
// parent key. With pinned types the parent's public key comes from the
// credential, so that nobody between CPU and TPM can take the TPM's place
// unnoticed; with all others it comes from the TPM itself, and who controls the
// bus could hand out a key of his own.
package tpm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

const (
	headerSize = 10
	maxReply   = 4096
)

// conn is the transport that all commands of one call take. It refuses replies
// that are not well-formed before go-tpm parses them, and remembers each handle
// that the TPM gave out, so that close finds it even where the rest of the reply
// was of no use.
type conn struct {
	t       transport.TPM
	handles []tpm2.TPMHandle
}

func (c *conn) Send(command []byte) ([]byte, error) {
	reply, err := c.t.Send(command)
	if errors.Is(err, ErrBusy) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTransport, err)
	}
	if len(reply) < headerSize || len(reply) > maxReply {
		return nil, fmt.Errorf("%w: %d bytes, expected %d to %d", ErrBadReply, len(reply), headerSize, maxReply)
	}
	if n := binary.BigEndian.Uint32(reply[2:]); uint64(n) != uint64(len(reply)) {
		return nil, fmt.Errorf("%w: its header says %d bytes, it has %d", ErrBadReply, n, len(reply))
	}
	if binary.BigEndian.Uint32(reply[6:]) != uint32(tpm2.TPMRCSuccess) {
		return reply, nil
	}
	if tag := binary.BigEndian.Uint16(reply); tag != binary.BigEndian.Uint16(command) {
		return nil, fmt.Errorf("%w: tag 0x%04x", ErrBadReply, tag)
	}
	switch tpm2.TPMCC(binary.BigEndian.Uint32(command[6:])) {
	case tpm2.TPMCCCreatePrimary, tpm2.TPMCCLoad, tpm2.TPMCCLoadExternal, tpm2.TPMCCStartAuthSession:
		if len(reply) < headerSize+4 {
			return nil, fmt.Errorf("%w: no handle in it", ErrBadReply)
		}
		h := tpm2.TPMHandle(binary.BigEndian.Uint32(reply[headerSize:]))
		switch tpm2.TPMHT(h >> 24) {
		case tpm2.TPMHTTransient, tpm2.TPMHTHMACSession, tpm2.TPMHTPolicySession:
			c.handles = append(c.handles, h)
		default:
			return nil, fmt.Errorf("%w: handle 0x%08x is neither a session nor a transient object", ErrBadReply, uint32(h))
		}
	}
	return reply, nil
}

// flush frees an object or a session.
func (c *conn) flush(h tpm2.TPMHandle) error {
	c.forget(h)
	_, err := tpm2.FlushContext{FlushHandle: h}.Execute(c)
	return classify(tpm2.TPMCCFlushContext, err)
}

func (c *conn) forget(h tpm2.TPMHandle) {
	c.handles = slices.DeleteFunc(c.handles, func(o tpm2.TPMHandle) bool { return o == h })
}

// close frees what is left and returns err, or what went wrong in doing so.
func (c *conn) close(err error) error {
	for len(c.handles) > 0 {
		ferr := c.flush(c.handles[len(c.handles)-1])
		switch {
		case err == nil:
			err = ferr
		case ferr != nil:
			err = fmt.Errorf("%w (and then: %v)", err, ferr)
		}
		if errors.Is(ferr, ErrTransport) {
			break
		}
	}
	return err
}
