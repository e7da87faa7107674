package sealing

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/bootseal/bootseal/internal/tpm"
	"github.com/bootseal/bootseal/internal/tpmdevice"
)

// pcrAttribute is an extended attribute of a credential's file: what its PCRs
// were when it was sealed, which the credential itself does not tell. It serves
// messages alone, and is gone from a copy that leaves it out.
const pcrAttribute = "user.bootseal.pcrs"

// maxPCRs bounds its size: 24 PCRs of the largest bank.
const maxPCRs = 24 * 64

// NotePCRs notes at a file into which a blob has just been written what its PCRs
// are, of the TPM that device names. On file systems that cannot keep it there is no
// such note.
func NotePCRs(device, file string, text []byte) {
	s, err := Parse(text, file, "")
	if err != nil || s.Blob.TPM2 == nil || s.Blob.TPM2.PCRMask == 0 {
		return
	}
	t, err := tpmdevice.Open(device)
	if err != nil {
		return
	}
	defer t.Close()
	if digests, err := tpm.Digests(tpm.Retry(t), s.Blob); err == nil {
		_ = unix.Lsetxattr(file, pcrAttribute, digests, 0)
	}
}

// NameChangedPCRs makes an error of opening s name the PCRs that have changed, where
// that is known.
func (s *File) NameChangedPCRs(err error) error {
	var differs *tpm.PolicyError
	if !errors.As(err, &differs) {
		return err
	}
	digests := make([]byte, maxPCRs)
	n, e := unix.Lgetxattr(s.Path, pcrAttribute, digests)
	if e != nil {
		return err
	}
	return differs.Since(s.Blob, digests[:n])
}
