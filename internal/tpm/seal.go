package tpm

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/bootseal/bootseal/internal/credential"
	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// SecretSize is the size in bytes of the secret of a credential.
const SecretSize = 32

// Seal seals secret, of [SecretSize] bytes, and fills in the headers of b that
// say how to unseal it: b.TPM2, and b.SRK for pinned types. Of b it takes Type,
// b.TPM2.PCRMask, b.TPM2.PCRBank (0 lets Seal choose) and b.PublicKey.
//
// Without PCRs the secret is bound to the TPM alone. Banks into which nothing was
// measured are refused with [ErrBank], unless only signed PCRs are bound. The
// parent is the legacy primary key, ECC or, if the TPM refuses that, RSA, or for
// pinned types the storage root key, which is made if the TPM has none. The secret
// reaches the TPM encrypted, and opening it is not subject to dictionary-attack
// protection.
func Seal(t transport.TPM, b *credential.Blob, secret []byte) (err error) {
	c := &conn{t: t}
	defer func() { err = c.close(err) }()
	if err := c.seal(b, secret); err != nil {
		return fmt.Errorf("sealing to the TPM: %w", err)
	}
	return nil
}

func (c *conn) seal(b *credential.Blob, secret []byte) error {
	if len(secret) != SecretSize {
		return fmt.Errorf("secret of %d bytes, expected %d", len(secret), SecretSize)
	}
	h := &credential.TPM2{}
	if b.TPM2 != nil {
		h.PCRMask, h.PCRBank = b.TPM2.PCRMask, b.TPM2.PCRBank
	}
	var signer *signer
	var signed uint64
	if b.Type.HasPublicKey() {
		if b.PublicKey == nil {
			return fmt.Errorf("%w: there is none", ErrPublicKey)
		}
		var err error
		if signer, err = parsePublicKey(b.PublicKey.PEM); err != nil {
			return err
		}
		signed = b.PublicKey.PCRMask
	}

	parent, err := c.sealingParent(b.Type.PinnedSRK())
	if err != nil {
		return err
	}
	h.PrimaryAlg = uint16(parent.public.Type)
	bank, values, err := c.chooseBank(h.PCRBank, h.PCRMask, signed)
	if err != nil {
		return err
	}
	h.PCRBank = bank
	h.PolicyHash = make([]byte, sha256.Size)
	if signer != nil {
		h.PolicyHash = policyAuthorize(signer.name(signer.key.E))
	}
	if h.PCRMask != 0 {
		h.PolicyHash = policyPCR(h.PolicyHash, h.PCRBank, h.PCRMask, inOrder(values, h.PCRMask))
	}
	if h.Blob, err = c.create(parent, h.PolicyHash, secret); err != nil {
		return err
	}
	if parent.handle != credential.SRKHandle {
		if err := c.flush(parent.handle); err != nil {
			return err
		}
	}
	b.TPM2 = h
	if b.Type.PinnedSRK() {
		b.SRK = &credential.SRK{Public: parent.raw}
	}
	return nil
}

// create makes the sealed object and returns its two parts.
func (c *conn) create(parent *parent, policy, secret []byte) ([]byte, error) {
	s, err := c.startSession(tpm2.TPMSEHMAC, parent, tpm2.TPMASession{Decrypt: true})
	if err != nil {
		return nil, err
	}
	s.secretIn = secret
	defer clear(s.key)
	rsp, err := tpm2.Create{
		ParentHandle: tpm2.AuthHandle{Handle: parent.handle, Name: parent.name, Auth: s},
		InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{
			Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: make([]byte, len(secret))}),
		}},
		InPublic: tpm2.BytesAs2B[tpm2.TPMTPublic](sealedPublic(policy, nil)),
	}.Execute(c)
	if err != nil {
		return nil, classify(tpm2.TPMCCCreate, err)
	}
	public := rsp.OutPublic.Bytes()
	if len(public) < sha256.Size || !bytes.Equal(public, sealedPublic(policy, public[len(public)-sha256.Size:])) {
		return nil, fmt.Errorf("%w: TPM2_Create: the object is not what was asked for", ErrBadReply)
	}
	blob := binary.BigEndian.AppendUint16(nil, uint16(len(rsp.OutPrivate.Buffer)))
	blob = append(blob, rsp.OutPrivate.Buffer...)
	blob = binary.BigEndian.AppendUint16(blob, uint16(len(public)))
	return append(blob, public...), nil
}

// sealedPublic is the TPMT_PUBLIC of a sealed object: KEYEDHASH, SHA256,
// fixedTPM, fixedParent and noDA, opened by the policy alone, scheme NULL.
func sealedPublic(policy, unique []byte) []byte {
	out := unhex("0008000b00000412")
	out = binary.BigEndian.AppendUint16(out, uint16(len(policy)))
	out = append(out, policy...)
	out = append(out, unhex("0010")...)
	out = binary.BigEndian.AppendUint16(out, uint16(len(unique)))
	return append(out, unique...)
}

func (c *conn) sealingParent(pinned bool) (*parent, error) {
	if !pinned {
		return c.createAnyPrimary(legacyTemplates)
	}
	p, err := c.readSRK()
	if !errors.Is(err, ErrNoSRK) {
		return p, err
	}
	if p, err = c.createAnyPrimary(srkTemplates); err != nil {
		return nil, err
	}
	_, err = tpm2.EvictControl{
		Auth:             tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		ObjectHandle:     tpm2.NamedHandle{Handle: p.handle, Name: p.name},
		PersistentHandle: credential.SRKHandle,
	}.Execute(c)
	if err != nil {
		return nil, classify(tpm2.TPMCCEvictControl, err)
	}
	if err := c.flush(p.handle); err != nil {
		return nil, err
	}
	p.handle = credential.SRKHandle
	return p, nil
}

func (c *conn) readSRK() (*parent, error) {
	rsp, err := tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(credential.SRKHandle)}.Execute(c)
	if err != nil {
		return nil, classify(tpm2.TPMCCReadPublic, err)
	}
	p, err := newParent(credential.SRKHandle, rsp.OutPublic.Bytes(), ErrBadReply)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(rsp.Name.Buffer, p.name.Buffer) {
		return nil, fmt.Errorf("%w: TPM2_ReadPublic: the name is not that of the key", ErrBadReply)
	}
	return p, nil
}
