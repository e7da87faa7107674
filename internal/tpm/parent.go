package tpm

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/bootseal/bootseal/internal/credential"
	"github.com/google/go-tpm/tpm2"
)

// A parent is the storage key that secrets are sealed below.
type parent struct {
	handle  tpm2.TPMHandle
	name    tpm2.TPM2BName
	raw     []byte // TPMT_PUBLIC
	public  *tpm2.TPMTPublic
	invalid error // the cause, where the public key turns out to be unusable
}

// The templates of TPM2_CreatePrimary (section 5.4 of doc/credential-format.md), less
// the unique field. The legacy ones differ from the storage root key's in that
// they lack noDA.
var (
	legacyTemplates = map[uint16][]byte{
		credential.AlgECC: unhex("0023000b000300720000" + "000600800043" + "0010" + "0003" + "0010"),
		credential.AlgRSA: unhex("0001000b000300720000" + "000600800043" + "0010" + "0800" + "00000000"),
	}
	srkTemplates = map[uint16][]byte{
		credential.AlgECC: unhex("0023000b000304720000" + "000600800043" + "0010" + "0003" + "0010"),
		credential.AlgRSA: unhex("0001000b000304720000" + "000600800043" + "0010" + "0800" + "00000000"),
	}
	emptyUnique = map[uint16][]byte{
		credential.AlgECC: {0, 0, 0, 0},
		credential.AlgRSA: {0, 0},
	}
)

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// createPrimary makes the primary key of a template in the owner hierarchy.
func (c *conn) createPrimary(templates map[uint16][]byte, alg uint16) (*parent, error) {
	rsp, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		InSensitive:   tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{})}},
		InPublic:      tpm2.BytesAs2B[tpm2.TPMTPublic](append(bytes.Clone(templates[alg]), emptyUnique[alg]...)),
	}.Execute(c)
	if err != nil {
		return nil, classify(tpm2.TPMCCCreatePrimary, err)
	}
	p, err := newParent(rsp.ObjectHandle, rsp.OutPublic.Bytes(), ErrBadReply)
	if err != nil {
		return nil, err
	}
	if uint16(p.public.Type) != alg {
		return nil, fmt.Errorf("%w: TPM2_CreatePrimary: the key is not what was asked for", ErrBadReply)
	}
	if !bytes.Equal(rsp.Name.Buffer, p.name.Buffer) {
		return nil, fmt.Errorf("%w: TPM2_CreatePrimary: the name is not that of the key", ErrBadReply)
	}
	return p, nil
}

// createAnyPrimary makes an ECC key, or an RSA key where the TPM refuses ECC.
func (c *conn) createAnyPrimary(templates map[uint16][]byte) (*parent, error) {
	p, err := c.createPrimary(templates, credential.AlgECC)
	if rc := responseCode(err); rc&rcFormat1 != 0 && rc&rcFormat1Param != 0 {
		return c.createPrimary(templates, credential.AlgRSA)
	}
	return p, err
}

// newParent takes a public area apart; invalid is the cause to give if it is not
// a storage key.
func newParent(h tpm2.TPMHandle, raw []byte, invalid error) (*parent, error) {
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](raw)
	if err != nil {
		return nil, fmt.Errorf("%w: public area: %w", invalid, err)
	}
	if !bytes.Equal(tpm2.Marshal(public), raw) {
		return nil, fmt.Errorf("%w: public area has something behind it", invalid)
	}
	a := public.ObjectAttributes
	if public.NameAlg != tpm2.TPMAlgSHA256 || !a.Restricted || !a.Decrypt || a.SignEncrypt ||
		public.Type != tpm2.TPMAlgECC && public.Type != tpm2.TPMAlgRSA {
		return nil, fmt.Errorf("%w: not a storage key", invalid)
	}
	return &parent{
		handle:  h,
		name:    objectName(raw),
		raw:     raw,
		public:  public,
		invalid: invalid,
	}, nil
}

// pinned is the storage root key as a credential knows it. Its public key is
// taken from there and not from the TPM: a session salted to it can only be
// held by the TPM that has the private one.
func pinned(srk *credential.SRK) (*parent, error) {
	return newParent(credential.SRKHandle, srk.Public, credential.ErrSRK)
}

// objectName is the Name of an object with nameAlg SHA-256.
func objectName(public []byte) tpm2.TPM2BName {
	digest := sha256.Sum256(public)
	return tpm2.TPM2BName{Buffer: append([]byte{0, credential.AlgSHA256}, digest[:]...)}
}
