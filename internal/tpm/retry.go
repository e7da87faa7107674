package tpm

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

const (
	retryFirst = 10 * time.Millisecond
	retryMax   = 500 * time.Millisecond
	retryTotal = 20 * time.Second // a self-test of all algorithms takes seconds
)

// Retry returns a transport that sends a command again, the same bytes, while t
// answers TPM_RC_RETRY, TPM_RC_YIELDED or TPM_RC_TESTING, or that others fill it:
// TPM_RC_OBJECT_MEMORY or TPM_RC_SESSION_MEMORY. It waits 10 ms first, then twice
// as long each time up to half a second, and after 20 s in all it fails with
// [ErrBusy]. /dev/tpmrm0 does the like by itself with the first three, sockets do
// not: the first TPM2_Load below a legacy primary key answers TPM_RC_RETRY after
// every start of a TPM. What is loaded through /dev/tpm0 takes room from
// /dev/tpmrm0, too.
func Retry(t transport.TPM) transport.TPM {
	return &retry{t: t, sleep: time.Sleep}
}

type retry struct {
	t     transport.TPM
	sleep func(time.Duration)
}

func (r *retry) Send(command []byte) ([]byte, error) {
	var waited time.Duration
	for wait := retryFirst; ; wait = min(2*wait, retryMax) {
		reply, err := r.t.Send(command)
		if err != nil || len(reply) < headerSize {
			return reply, err
		}
		rc := tpm2.TPMRC(binary.BigEndian.Uint32(reply[6:]))
		switch rc {
		case rcRetry, rcYielded, rcTesting, rcObjectMemory, rcSessionMemory:
		default:
			return reply, nil
		}
		if waited >= retryTotal {
			return nil, fmt.Errorf("%w: it still answers %w after %v", ErrBusy, rc, waited)
		}
		r.sleep(wait)
		waited += wait
	}
}
