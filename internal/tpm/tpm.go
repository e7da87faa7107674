// Package tpm seals secrets to a TPM 2.0 and unseals them, as the encrypted
// credentials of systemd need it. It opens no device: the caller hands in a
// transport, wrapped by [Retry] where nothing below resends.
package tpm

import (
	"errors"

	"github.com/bootseal/bootseal/internal/credential"
	"github.com/google/go-tpm/tpm2/transport"
)

var errTODO = errors.New("not implemented")

// SecretSize is the size in bytes of the secrets of TPM-bound credentials.
const SecretSize = 32

// Seal seals secret, of SecretSize bytes, for b and fills in the headers of b
// that the TPM has a say in. b.Type says whether the parent is pinned and
// whether there is a public key; b.TPM2.PCRMask the literal PCRs, b.PublicKey
// the signed ones. A bank in b.TPM2.PCRBank is used, 0 lets Seal choose.
func Seal(t transport.TPM, b *credential.Blob, secret []byte) error { return errTODO }

// UnsealAll unseals the secrets of all blobs of types with a TPM with as few
// commands as possible. The result has one entry for each blob, nil for those
// of other types; the caller wipes it with [Wipe]. sigs is nil where there is
// no signature file.
// The first failure ends it: nothing is returned then but a *BlobError.
func UnsealAll(t transport.TPM, blobs []*credential.Blob, sigs *Signatures) ([][]byte, error) {
	return nil, errTODO
}

// Wipe overwrites secrets.
func Wipe(secrets [][]byte) {
	for _, s := range secrets {
		clear(s)
	}
}

// Signatures are the content of a tpm2-pcr-signature.json.
type Signatures struct{}

// ParseSignatures reads a tpm2-pcr-signature.json.
func ParseSignatures(data []byte) (*Signatures, error) { return nil, errTODO }

// Retry returns a transport that sends a command again when t answers that it
// should: TPM_RC_RETRY, TPM_RC_YIELDED, TPM_RC_TESTING. It gives up with
// [ErrBusy].
func Retry(t transport.TPM) transport.TPM { return t }
