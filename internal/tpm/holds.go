package tpm

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/bootseal/bootseal/internal/credential"
	"github.com/google/go-tpm/tpm2/transport"
)

// Holds tells whether the TPM policy of b would be met now, computed from the
// present PCRs: it uses no key of the TPM and does not unseal. nil says that it
// would; a [*PolicyError] that literal PCRs have other values, ErrNoSignature
// that nobody signed the present ones. A policy that holds does not yet mean
// that the secret belongs to this TPM: see [PinnedHere].
func Holds(t transport.TPM, b *credential.Blob, sigs *Signatures) (err error) {
	c := &conn{t: t}
	defer func() { err = c.close(err) }()
	it, err := newItem(0, b, sigs)
	if err != nil {
		return err
	}
	h := b.TPM2
	if !bytes.Equal(h.PolicyHash, it.object.policy) {
		return damaged(h, "the policy hash in the header is not that of the sealed object: the credential is damaged")
	}
	values, err := c.readPCRs(h.PCRBank, h.PCRMask)
	if err != nil {
		return err
	}
	starts := [][]byte{make([]byte, sha256.Size)}
	if it.signer != nil {
		starts = nil
		for _, exponent := range it.signer.exponents(h) {
			starts = append(starts, policyAuthorize(it.signer.name(exponent)))
		}
		if err := c.signed(b, it.signer, sigs); err != nil {
			return err
		}
	}
	for _, policy := range starts {
		if h.PCRMask != 0 {
			policy = policyPCR(policy, h.PCRBank, h.PCRMask, inOrder(values, h.PCRMask))
		}
		if bytes.Equal(policy, h.PolicyHash) {
			return nil
		}
	}
	if it.signer == nil && h.PCRMask == 0 {
		return damaged(h, "no PCRs are bound but the policy is not empty: no systemd newer than 251 reads that, or the credential is damaged")
	}
	return c.mismatch(h)
}

// signed tells whether there is a valid signature over the present values of
// the signed PCRs.
func (c *conn) signed(b *credential.Blob, signer *signer, sigs *Signatures) error {
	values, err := c.readPCRs(b.TPM2.PCRBank, b.PublicKey.PCRMask)
	if err != nil {
		return err
	}
	pol := policyPCR(make([]byte, sha256.Size), b.TPM2.PCRBank, b.PublicKey.PCRMask, inOrder(values, b.PublicKey.PCRMask))
	sig, ok := sigs.find(b.TPM2.PCRBank, b.PublicKey.PCRMask, signer.pkfp, pol)
	if !ok {
		return fmt.Errorf("%w: key %x, %s of the %s bank", ErrNoSignature, signer.pkfp, pcrList(credential.PCRs(b.PublicKey.PCRMask)), bankName(b.TPM2.PCRBank))
	}
	digest := sha256.Sum256(pol)
	if err := rsa.VerifyPKCS1v15(signer.key, crypto.SHA256, digest[:], sig); err != nil {
		return fmt.Errorf("%w: %w", ErrSignature, err)
	}
	return nil
}

// PinnedHere tells whether the storage root key that b is pinned to is that of
// the TPM.
func PinnedHere(t transport.TPM, b *credential.Blob) (here bool, err error) {
	c := &conn{t: t}
	defer func() { err = c.close(err) }()
	p, err := c.readSRK()
	if errors.Is(err, ErrNoSRK) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return bytes.Equal(p.raw, b.SRK.Public), nil
}

// Fingerprint is that of the public key whose signatures a credential accepts,
// as tpm2-pcr-signature.json has it in "pkfp": the SHA-256 digest of the key in
// the form of PKCS #1. It fails with [ErrPublicKey].
func Fingerprint(key *credential.PublicKey) ([]byte, error) {
	s, err := parsePublicKey(key.PEM)
	if err != nil {
		return nil, err
	}
	return s.pkfp, nil
}

// BankName is what PCR signature files and tpm2-tools call a bank, a TPM_ALG_ID.
func BankName(alg uint16) string { return bankName(alg) }
