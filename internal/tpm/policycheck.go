package tpm

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"github.com/bootseal/bootseal/internal/credential"
	"github.com/google/go-tpm/tpm2/transport"
)

// PolicyMet tells whether the TPM policy of b would be met now, computed from the
// present PCRs: it uses no key of the TPM and does not unseal. nil says that it
// would; a [*PolicyError] that literal PCRs have other values, ErrNoSignature
// that nobody signed the present ones. A policy that holds does not yet mean
// that the secret belongs to this TPM: see [PinnedHere].
func PolicyMet(t transport.TPM, b *credential.Blob, sigs *Signatures) (err error) {
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
	if it.signer != nil {
		if err := c.signed(b, it.signer, sigs); err != nil {
			return err
		}
	}
	if matches(h, it.signer, inOrder(values, h.PCRMask)) {
		return nil
	}
	if it.signer == nil && h.PCRMask == 0 {
		return damaged(h, "no PCRs are bound but the policy is not empty: no systemd newer than 251 reads that, or the credential is damaged")
	}
	return c.mismatch(h)
}

// matches tells whether the policy of h is met by these values of its literal
// PCRs, in ascending order, with a signature for the other ones.
func matches(h *credential.TPM2, signer *signer, values [][]byte) bool {
	starts := [][]byte{make([]byte, sha256.Size)}
	if signer != nil {
		starts = nil
		for _, exponent := range signer.exponents(h) {
			starts = append(starts, policyAuthorize(signer.name(exponent)))
		}
	}
	return slices.ContainsFunc(starts, func(policy []byte) bool {
		if h.PCRMask != 0 {
			policy = policyPCR(policy, h.PCRBank, h.PCRMask, values)
		}
		return bytes.Equal(policy, h.PolicyHash)
	})
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

// Digests returns the present values of the literal PCRs of b, in ascending order,
// one after the other. They are no secret, and what [PolicyError.Since] needs.
func Digests(t transport.TPM, b *credential.Blob) (digests []byte, err error) {
	c := &conn{t: t}
	defer func() { err = c.close(err) }()
	values, err := c.readPCRs(b.TPM2.PCRBank, b.TPM2.PCRMask)
	return bytes.Join(inOrder(values, b.TPM2.PCRMask), nil), err
}

// Since returns e, the error of opening b, with a Reason that says which PCRs have
// changed, given their [Digests] when b was sealed. It is e itself if they are not
// those, or if there is but one.
func (e *PolicyError) Since(b *credential.Blob, digests []byte) *PolicyError {
	h := b.TPM2
	pcrs := credential.PCRs(h.PCRMask)
	if e.now == nil || len(pcrs) < 2 || len(digests) != len(pcrs)*bankSize(h.PCRBank) {
		return e
	}
	var signer *signer
	if b.Type.HasPublicKey() {
		var err error
		if signer, err = parsePublicKey(b.PublicKey.PEM); err != nil {
			return e
		}
	}
	then := slices.Collect(slices.Chunk(digests, bankSize(h.PCRBank)))
	if !matches(h, signer, then) {
		return e
	}
	var moved []int
	for i, pcr := range pcrs {
		if !bytes.Equal(then[i], e.now[pcr]) {
			moved = append(moved, pcr)
		}
	}
	if len(moved) == 0 {
		return e // again as they were
	}
	named := *e
	named.Reason = fmt.Sprintf("the secret is bound to %s of the %s bank, and since it was sealed another value is in %s",
		pcrList(pcrs), bankName(h.PCRBank), pcrList(moved))
	return &named
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
