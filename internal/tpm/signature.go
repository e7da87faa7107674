package tpm

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"

	"github.com/bootseal/bootseal/internal/credential"
	"github.com/google/go-tpm/tpm2"
)

// MaxSignatureFile is the largest PCR signature file that is read, in bytes.
const MaxSignatureFile = 1 << 20

// Signatures are the content of a tpm2-pcr-signature.json, as systemd-measure(1)
// writes it.
type Signatures struct {
	banks map[string][]signature
}

type signature struct {
	mask uint64
	pkfp []byte // SHA-256 of the PKCS #1 public key
	pol  []byte // approved policy
	sig  []byte // RSASSA-PKCS1-v1_5 with SHA-256
}

// ParseSignatures reads a tpm2-pcr-signature.json: for each bank a list of
// objects with "pcrs", "pkfp", "pol" and "sig". Objects that lack one of these,
// and those with a "ref", which are not for credentials, are passed over. What is
// there but not valid fails with [ErrSignatureFile].
func ParseSignatures(data []byte) (*Signatures, error) {
	if len(data) > MaxSignatureFile {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are read", ErrSignatureFile, len(data), MaxSignatureFile)
	}
	// Maps, since struct fields would also match names in another case.
	var file map[string]json.RawMessage
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, fmt.Errorf("%w: expected an object with a list for each PCR bank: %w", ErrSignatureFile, err)
	}
	s := &Signatures{banks: make(map[string][]signature)}
	for _, b := range banks {
		raw, ok := file[b.name]
		if !ok {
			continue
		}
		var entries []map[string]json.RawMessage
		if err := json.Unmarshal(raw, &entries); err != nil {
			return nil, fmt.Errorf("%w: %s: expected a list of objects: %w", ErrSignatureFile, b.name, err)
		}
		for i, entry := range entries {
			sig, use, err := parseSignature(entry)
			if err != nil {
				return nil, fmt.Errorf("%w: %s: entry %d: %w", ErrSignatureFile, b.name, i+1, err)
			}
			if use {
				s.banks[b.name] = append(s.banks[b.name], sig)
			}
		}
	}
	return s, nil
}

func parseSignature(entry map[string]json.RawMessage) (s signature, use bool, err error) {
	for _, key := range []string{"pcrs", "pkfp", "pol", "sig"} {
		if _, ok := entry[key]; !ok {
			return s, false, nil
		}
	}
	if _, ok := entry["ref"]; ok {
		return s, false, nil
	}
	var pcrs []uint64
	if err := json.Unmarshal(entry["pcrs"], &pcrs); err != nil {
		return s, false, fmt.Errorf("pcrs: expected a list of numbers: %w", err)
	}
	for _, pcr := range pcrs {
		if pcr >= maxPCRs {
			return s, false, fmt.Errorf("pcrs: %d is not a PCR (0 to %d)", pcr, maxPCRs-1)
		}
		s.mask |= 1 << pcr
	}
	for key, dst := range map[string]*[]byte{"pkfp": &s.pkfp, "pol": &s.pol, "sig": &s.sig} {
		var text string
		if err := json.Unmarshal(entry[key], &text); err != nil {
			return s, false, fmt.Errorf("%s: expected a string", key)
		}
		if key == "sig" {
			*dst, err = base64.StdEncoding.DecodeString(text)
		} else {
			*dst, err = hex.DecodeString(text)
		}
		if err != nil {
			return s, false, fmt.Errorf("%s: %w", key, err)
		}
		if key != "sig" && len(*dst) != sha256.Size {
			return s, false, fmt.Errorf("%s: %d bytes, expected %d", key, len(*dst), sha256.Size)
		}
	}
	return s, true, nil
}

// find returns the first signature for these PCRs by this key over this policy.
func (s *Signatures) find(bank uint16, mask uint64, pkfp, pol []byte) ([]byte, bool) {
	for _, e := range s.banks[bankName(bank)] {
		if e.mask == mask && bytes.Equal(e.pkfp, pkfp) && bytes.Equal(e.pol, pol) {
			return e.sig, true
		}
	}
	return nil, false
}

// A signer is the public key of a signed PCR policy.
type signer struct {
	key  *rsa.PublicKey
	pkfp []byte
}

// defaultExponent may be written as 0 in a public area; systemd 255.0 to 255.2
// did, which changes the name of the key and so the policy.
const defaultExponent = 65537

func parsePublicKey(text []byte) (*signer, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, fmt.Errorf("%w: expected PEM with a PUBLIC KEY", ErrPublicKey)
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPublicKey, err)
	}
	k, ok := key.(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%w: only RSA keys can sign PCR policies", ErrPublicKey)
	}
	if n := k.N.BitLen(); n%8 != 0 || n < 1024 || n > 16384 || k.E < 3 || int64(k.E) > 1<<31-1 {
		return nil, fmt.Errorf("%w: RSA key of %d bits with exponent %d", ErrPublicKey, n, k.E)
	}
	pkfp := sha256.Sum256(x509.MarshalPKCS1PublicKey(k))
	return &signer{key: k, pkfp: pkfp[:]}, nil
}

// public is the TPMT_PUBLIC of the key (section 5.5 of doc/credential-format.md):
// RSA, SHA256, userWithAuth, decrypt and sign, no scheme.
func (s *signer) public(exponent int) *tpm2.TPMTPublic {
	return &tpm2.TPMTPublic{
		Type:             tpm2.TPMAlgRSA,
		NameAlg:          tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{UserWithAuth: true, Decrypt: true, SignEncrypt: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{
			KeyBits:  tpm2.TPMKeyBits(s.key.N.BitLen()),
			Exponent: uint32(exponent),
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: s.key.N.Bytes()}),
	}
}

func (s *signer) name(exponent int) tpm2.TPM2BName {
	return objectName(tpm2.Marshal(s.public(exponent)))
}

// exponents lists the ways in which the key may have been written when h was
// sealed, the likelier one first. Without literal PCRs the policy tells.
func (s *signer) exponents(h *credential.TPM2) []int {
	if s.key.E != defaultExponent {
		return []int{s.key.E}
	}
	if h.PCRMask != 0 {
		return []int{defaultExponent, 0}
	}
	if bytes.Equal(h.PolicyHash, policyAuthorize(s.name(0))) {
		return []int{0}
	}
	return []int{defaultExponent}
}

// authorize runs the signed part of a policy in a session.
func (c *conn) authorize(s *session, b *credential.Blob, signer *signer, exponent int, sigs *Signatures) (err error) {
	name := signer.name(exponent)
	key, err := tpm2.LoadExternal{InPublic: tpm2.New2B(*signer.public(exponent)), Hierarchy: tpm2.TPMRHOwner}.Execute(c)
	if err != nil {
		return classify(tpm2.TPMCCLoadExternal, err)
	}
	defer func() {
		if ferr := c.flush(key.ObjectHandle); err == nil {
			err = ferr
		}
	}()
	if !bytes.Equal(key.Name.Buffer, name.Buffer) {
		return fmt.Errorf("%w: TPM2_LoadExternal: the name is not that of the key", ErrBadReply)
	}
	if err := c.policyPCR(s, b.TPM2.PCRBank, b.PublicKey.PCRMask); err != nil {
		return err
	}
	digest, err := tpm2.PolicyGetDigest{PolicySession: s.handle}.Execute(c)
	if err != nil {
		return classify(tpm2.TPMCCPolicyGetDigest, err)
	}
	pol := digest.PolicyDigest.Buffer
	sig, ok := sigs.find(b.TPM2.PCRBank, b.PublicKey.PCRMask, signer.pkfp, pol)
	if !ok {
		return fmt.Errorf("%w: key %x, %s of the %s bank", ErrNoSignature, signer.pkfp, pcrList(credential.PCRs(b.PublicKey.PCRMask)), bankName(b.TPM2.PCRBank))
	}
	signed := sha256.Sum256(pol)
	ticket, err := tpm2.VerifySignature{
		KeyHandle: tpm2.NamedHandle{Handle: key.ObjectHandle, Name: name},
		Digest:    tpm2.TPM2BDigest{Buffer: signed[:]},
		Signature: tpm2.TPMTSignature{
			SigAlg: tpm2.TPMAlgRSASSA,
			Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgRSASSA, &tpm2.TPMSSignatureRSA{
				Hash: tpm2.TPMAlgSHA256,
				Sig:  tpm2.TPM2BPublicKeyRSA{Buffer: sig},
			}),
		},
	}.Execute(c)
	if err != nil {
		return classify(tpm2.TPMCCVerifySignature, err)
	}
	_, err = tpm2.PolicyAuthorize{
		PolicySession:  s.handle,
		ApprovedPolicy: digest.PolicyDigest,
		KeySign:        name,
		CheckTicket:    ticket.Validation,
	}.Execute(c)
	return classify(tpm2.TPMCCPolicyAuthorize, err)
}
