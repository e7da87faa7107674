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

// pcrRetries bounds how often a policy is built again because somebody extends
// PCRs meanwhile.
const pcrRetries = 30

// An item is a secret to unseal.
type item struct {
	index  int
	blob   *credential.Blob
	object object
	signer *signer // types with a public key
}

// UnsealAll unseals the secrets of blobs. The result has one entry of
// [SecretSize] bytes for each blob, nil for those of types without a TPM; the
// caller wipes it with [Wipe]. sigs may be nil where there is no signature file,
// but types with a public key then fail with [ErrNoSignatures].
//
// It is all or nothing: the first failure, a [*BlobError] unless it was in
// cleaning up, ends it.
//
// The TPM is asked for as little as possible: one primary key and one session
// serve all secrets below the same parent, the session ends with the last
// TPM2_Unseal, and no policy digest is read back, since TPM2_Unseal itself says
// when it does not match. For n secrets bound to literal PCRs that is 3 + 4n
// commands below the legacy primary and 1 + 4n below the pinned storage root key,
// n fewer without PCRs, and 6n more with signed ones. PCRs cost a command for each
// secret because TPM2_Unseal empties the policy session. The storage root key saves
// two commands and is no less safe: the session is salted to its public key from
// the credential, so that no other key can take its place. It is no stand-in for
// the legacy primary, whose template lacks noDA and gives another key. To load that
// one from a saved context takes as many commands as to make it. What systemd-creds
// decrypt sends for one credential, and as often again for each other one (section
// 10 of doc/credential-format.md), beside what is sent here:
//
//	                        252  257  262  here  here, pinned  here, ten
//	no PCRs                   -   16   15     6             4  33, pinned 31
//	PCR 7                    12   18   17     7             5  43, pinned 41
//	signed PCR 11            17   23   22    12            10  93, pinned 91
//	signed PCR 11, PCR 7     18   24   23    13            11  103, pinned 101
func UnsealAll(t transport.TPM, blobs []*credential.Blob, sigs *Signatures) (secrets [][]byte, err error) {
	c := &conn{t: t}
	defer func() {
		if err = c.close(err); err != nil {
			Wipe(secrets)
			secrets = nil
			err = fmt.Errorf("unsealing with the TPM: %w", err)
		}
	}()
	groups, err := group(blobs, sigs)
	if err != nil {
		return nil, err
	}
	secrets = make([][]byte, len(blobs))
	for _, items := range groups {
		if err := c.unsealGroup(items, sigs, secrets); err != nil {
			return secrets, err
		}
	}
	return secrets, nil
}

// Wipe overwrites secrets.
func Wipe(secrets [][]byte) {
	for _, s := range secrets {
		clear(s)
	}
}

// group makes all checks that need no TPM and puts together what has the same
// parent.
func group(blobs []*credential.Blob, sigs *Signatures) ([][]*item, error) {
	var groups [][]*item
	index := make(map[string]int)
	for i, b := range blobs {
		if !b.Type.NeedsTPM2() {
			continue
		}
		it, err := newItem(i, b, sigs)
		if err != nil {
			return nil, &BlobError{i, err}
		}
		parent := string(binary.BigEndian.AppendUint16(nil, b.TPM2.PrimaryAlg))
		if b.Type.PinnedSRK() {
			parent = string(b.SRK.Public)
		}
		at, ok := index[parent]
		if !ok {
			at = len(groups)
			index[parent] = at
			groups = append(groups, nil)
		}
		groups[at] = append(groups[at], it)
	}
	return groups, nil
}

func newItem(index int, b *credential.Blob, sigs *Signatures) (*item, error) {
	it := &item{index: index, blob: b}
	var err error
	if b.Type.HasPublicKey() {
		if sigs == nil {
			return nil, ErrNoSignatures
		}
		if it.signer, err = parsePublicKey(b.PublicKey.PEM); err != nil {
			return nil, err
		}
	}
	it.object, err = parseObject(b.TPM2.Blob)
	return it, err
}

// An object is a sealed object outside of the TPM.
type object struct {
	private []byte
	public  []byte // TPMT_PUBLIC
	policy  []byte // its authPolicy
}

// parseObject takes TPM2B_PRIVATE || TPM2B_PUBLIC apart.
func parseObject(blob []byte) (o object, err error) {
	rest := blob
	if o.private, rest, err = take2B(rest, "private area"); err != nil {
		return o, err
	}
	if o.public, rest, err = take2B(rest, "public area"); err != nil {
		return o, err
	}
	if len(rest) != 0 {
		return o, fmt.Errorf("%w: %d bytes behind it", ErrTPMBlob, len(rest))
	}
	const policyAt = 2 + 2 + 4 + 2 // type, nameAlg, attributes, size
	want := sealedPublic(make([]byte, sha256.Size), make([]byte, sha256.Size))
	if len(o.public) != len(want) || !bytes.Equal(o.public[:4], want[:4]) ||
		binary.BigEndian.Uint16(o.public[policyAt-2:]) != sha256.Size {
		return o, fmt.Errorf("%w: not a sealed object with a SHA-256 policy", ErrTPMBlob)
	}
	o.policy = o.public[policyAt : policyAt+sha256.Size]
	return o, nil
}

func take2B(b []byte, what string) (value, rest []byte, err error) {
	if len(b) < 2 || len(b)-2 < int(binary.BigEndian.Uint16(b)) {
		return nil, nil, fmt.Errorf("%w: it ends within its %s", ErrTPMBlob, what)
	}
	n := 2 + int(binary.BigEndian.Uint16(b))
	return b[2:n], b[n:], nil
}

// unsealGroup unseals secrets of one parent.
func (c *conn) unsealGroup(items []*item, sigs *Signatures, secrets [][]byte) error {
	first := items[0].blob
	var p *parent
	var err error
	if first.Type.PinnedSRK() {
		p, err = pinned(first.SRK)
	} else {
		p, err = c.createPrimary(legacyTemplates, first.TPM2.PrimaryAlg)
	}
	if err != nil {
		return &BlobError{items[0].index, err}
	}
	var s *session
	defer func() {
		if s != nil {
			clear(s.key)
		}
	}()
	for i, it := range items {
		handle, err := c.load(p, it.object)
		if err == nil && s == nil {
			// After the first Load: that says more clearly what is wrong.
			s, err = c.startSession(tpm2.TPMSEPolicy, p, tpm2.TPMASession{Encrypt: true})
		}
		if err == nil {
			s.attrs.ContinueSession = i < len(items)-1
			secrets[it.index], err = c.unseal(s, handle, it, sigs)
		}
		if err == nil {
			err = c.flush(handle.Handle)
		}
		if err != nil {
			return &BlobError{it.index, err}
		}
	}
	if !first.Type.PinnedSRK() {
		return c.flush(p.handle)
	}
	return nil
}

func (c *conn) load(p *parent, o object) (h tpm2.NamedHandle, err error) {
	rsp, err := tpm2.Load{
		ParentHandle: tpm2.AuthHandle{Handle: p.handle, Name: p.name, Auth: tpm2.PasswordAuth(nil)},
		InPrivate:    tpm2.TPM2BPrivate{Buffer: o.private},
		InPublic:     tpm2.BytesAs2B[tpm2.TPMTPublic](o.public),
	}.Execute(c)
	if err != nil {
		err = classify(tpm2.TPMCCLoad, err)
		if errors.Is(err, ErrNoSRK) {
			err = fmt.Errorf("the secret was sealed by another TPM or before this one was cleared: %w", err)
		}
		return h, err
	}
	if !bytes.Equal(rsp.Name.Buffer, objectName(o.public).Buffer) {
		return h, fmt.Errorf("%w: TPM2_Load: the name is not that of the object", ErrBadReply)
	}
	return tpm2.NamedHandle{Handle: rsp.ObjectHandle, Name: rsp.Name}, nil
}

// unseal runs the policy of a loaded object in s and unseals it.
func (c *conn) unseal(s *session, h tpm2.NamedHandle, it *item, sigs *Signatures) ([]byte, error) {
	header := it.blob.TPM2
	if !bytes.Equal(header.PolicyHash, it.object.policy) {
		return nil, damaged(header, "the policy hash in the header is not that of the sealed object: the credential is damaged")
	}
	exponents := []int{0}
	if it.signer != nil {
		exponents = it.signer.exponents(header)
	} else if header.PCRMask == 0 && !bytes.Equal(header.PolicyHash, make([]byte, sha256.Size)) {
		return nil, damaged(header, "no PCRs are bound but the policy is not empty: systemd 250 or 251 sealed the secret without PCRs, which no later version reads, or the credential is damaged")
	}
	for try := 0; ; try++ {
		err := c.runPolicy(s, it, exponents[0], sigs)
		var secret []byte
		if err == nil {
			secret, err = c.unsealOnce(s, h)
		}
		switch rc := responseCode(err); {
		case err == nil:
			return secret, nil
		case rc == rcPCRChanged && try == pcrRetries:
			return nil, fmt.Errorf("%w: PCRs were extended during each of %d attempts: %v", ErrBusy, try+1, err)
		case rc == rcPCRChanged:
		case rc == rcPolicyFail1 && len(exponents) > 1:
			exponents = exponents[1:]
		case rc == rcPolicyFail1:
			return nil, c.mismatch(header)
		default:
			return nil, err
		}
		if err := c.restart(s); err != nil {
			return nil, err
		}
	}
}

func (c *conn) runPolicy(s *session, it *item, exponent int, sigs *Signatures) error {
	if it.signer != nil {
		if err := c.authorize(s, it.blob, it.signer, exponent, sigs); err != nil {
			return err
		}
	}
	if mask := it.blob.TPM2.PCRMask; mask != 0 {
		return c.policyPCR(s, it.blob.TPM2.PCRBank, mask)
	}
	return nil
}

func (c *conn) policyPCR(s *session, bank uint16, mask uint64) error {
	_, err := tpm2.PolicyPCR{PolicySession: s.handle, Pcrs: selection(bank, mask)}.Execute(c)
	return classify(tpm2.TPMCCPolicyPCR, err)
}

// restart empties a policy session; go-tpm has no TPM2_PolicyRestart.
func (c *conn) restart(s *session) error {
	command := unhex("80010000000e00000180")
	reply, err := c.Send(binary.BigEndian.AppendUint32(command, uint32(s.handle)))
	if err == nil {
		if rc := tpm2.TPMRC(binary.BigEndian.Uint32(reply[6:])); rc != tpm2.TPMRCSuccess {
			err = rc
		}
	}
	return classify(tpm2.TPMCCPolicyRestart, err)
}

func (c *conn) unsealOnce(s *session, h tpm2.NamedHandle) ([]byte, error) {
	s.outData = nil
	_, err := tpm2.Unseal{ItemHandle: tpm2.AuthHandle{Handle: h.Handle, Name: h.Name, Auth: s}}.Execute(c)
	secret := s.outData
	s.outData = nil
	if err != nil {
		clear(secret)
		return nil, classify(tpm2.TPMCCUnseal, err)
	}
	if len(secret) != SecretSize {
		clear(secret)
		return nil, fmt.Errorf("%w: TPM2_Unseal: secret of %d bytes, expected %d", ErrBadReply, len(secret), SecretSize)
	}
	return secret, nil
}
