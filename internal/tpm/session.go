package tpm

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// A session is an HMAC or policy session salted to a parent key: SHA-256,
// AES-128-CFB, no bind, no authorization value (TCG TPM 2.0 part 1, section 19.6
// and 21).
//
// It stands in for go-tpm's because those cannot end with the command that they
// authorize, and because the secret is kept out of go-tpm's marshalling, which
// leaves copies behind: it sees zeros on the way in and ciphertext on the way out.
type session struct {
	c        *conn
	handle   tpm2.TPMHandle
	key      []byte // sessionKey
	attrs    tpm2.TPMASession
	caller   tpm2.TPM2BNonce
	tpm      tpm2.TPM2BNonce
	secretIn []byte // TPMS_SENSITIVE_CREATE.data of TPM2_Create
	outData  []byte // first parameter of the last reply
}

var aes128CFB = tpm2.TPMTSymDef{
	Algorithm: tpm2.TPMAlgAES,
	KeyBits:   tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(128)),
	Mode:      tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
}

func (c *conn) startSession(kind tpm2.TPMSE, p *parent, attrs tpm2.TPMASession) (*session, error) {
	key, err := tpm2.ImportEncapsulationKey(p.public)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", p.invalid, err)
	}
	salt, encrypted, err := tpm2.CreateEncryptedSalt(rand.Reader, key)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", p.invalid, err)
	}
	defer clear(salt)
	s := &session{c: c, attrs: attrs, caller: tpm2.TPM2BNonce{Buffer: make([]byte, sha256.Size)}}
	if err := s.NewNonceCaller(); err != nil {
		return nil, err
	}
	rsp, err := tpm2.StartAuthSession{
		TPMKey:        tpm2.NamedHandle{Handle: p.handle, Name: p.name},
		Bind:          tpm2.TPMRHNull,
		NonceCaller:   s.caller,
		EncryptedSalt: tpm2.TPM2BEncryptedSecret{Buffer: encrypted},
		SessionType:   kind,
		Symmetric:     aes128CFB,
		AuthHash:      tpm2.TPMAlgSHA256,
	}.Execute(c)
	if err != nil {
		return nil, classify(tpm2.TPMCCStartAuthSession, err)
	}
	s.handle = tpm2.TPMHandle(rsp.SessionHandle.HandleValue())
	s.tpm = rsp.NonceTPM
	if len(s.tpm.Buffer) != sha256.Size {
		return nil, fmt.Errorf("%w: TPM2_StartAuthSession: nonce of %d bytes, expected %d", ErrBadReply, len(s.tpm.Buffer), sha256.Size)
	}
	s.key = tpm2.KDFa(crypto.SHA256, salt, "ATH", s.tpm.Buffer, s.caller.Buffer, 8*sha256.Size)
	return s, nil
}

func (s *session) Init(transport.TPM) error           { return nil }
func (s *session) CleanupFailure(transport.TPM) error { return nil }
func (s *session) NonceTPM() tpm2.TPM2BNonce          { return s.tpm }
func (s *session) IsEncryption() bool                 { return s.attrs.Encrypt }
func (s *session) IsDecryption() bool                 { return s.attrs.Decrypt }
func (s *session) Handle() tpm2.TPMHandle             { return s.handle }

func (s *session) NewNonceCaller() error {
	_, err := rand.Read(s.caller.Buffer)
	return err
}

// Authorize makes the command's HMAC. This is the only session of its commands,
// so that no nonces of others are to be added.
func (s *session) Authorize(cc tpm2.TPMCC, parms, _ []byte, names []tpm2.TPM2BName, _ int) (*tpm2.TPMSAuthCommand, error) {
	h := sha256.New()
	h.Write(binary.BigEndian.AppendUint32(nil, uint32(cc)))
	for _, n := range names {
		h.Write(n.Buffer)
	}
	h.Write(parms)
	return &tpm2.TPMSAuthCommand{
		Handle:        s.handle,
		Nonce:         s.caller,
		Attributes:    s.attrs,
		Authorization: tpm2.TPM2BData{Buffer: s.mac(h.Sum(nil), s.caller, s.tpm, s.attrs)},
	}, nil
}

// Validate checks the reply's HMAC.
func (s *session) Validate(rc tpm2.TPMRC, cc tpm2.TPMCC, parms []byte, _ []tpm2.TPM2BName, _ int, auth *tpm2.TPMSAuthResponse) error {
	h := sha256.New()
	h.Write(binary.BigEndian.AppendUint32(nil, uint32(rc)))
	h.Write(binary.BigEndian.AppendUint32(nil, uint32(cc)))
	h.Write(parms)
	if !hmac.Equal(auth.Authorization.Buffer, s.mac(h.Sum(nil), auth.Nonce, s.caller, auth.Attributes)) {
		return errors.New("its HMAC is wrong")
	}
	s.tpm = auth.Nonce
	if !auth.Attributes.ContinueSession {
		s.c.forget(s.handle)
	}
	return nil
}

func (s *session) mac(digest []byte, newer, older tpm2.TPM2BNonce, attrs tpm2.TPMASession) []byte {
	m := hmac.New(sha256.New, s.key)
	m.Write(digest)
	m.Write(newer.Buffer)
	m.Write(older.Buffer)
	m.Write(tpm2.Marshal(attrs))
	return m.Sum(nil)
}

// Encrypt puts the secret into a TPMS_SENSITIVE_CREATE that was marshalled with
// an empty userAuth and zeros for data, and encrypts it in place.
func (s *session) Encrypt(parameter []byte) error {
	if len(s.secretIn) == 0 {
		return nil
	}
	data := len(parameter) - len(s.secretIn)
	if data != 4 {
		return fmt.Errorf("TPMS_SENSITIVE_CREATE of %d bytes", len(parameter))
	}
	copy(parameter[data:], s.secretIn)
	return s.cfb(cipher.NewCFBEncrypter, parameter, parameter, s.caller, s.tpm)
}

// Decrypt leaves the reply as it is and keeps its first parameter in outData.
func (s *session) Decrypt(parameter []byte) error {
	s.outData = make([]byte, len(parameter))
	return s.cfb(cipher.NewCFBDecrypter, s.outData, parameter, s.tpm, s.caller)
}

func (s *session) cfb(mode func(cipher.Block, []byte) cipher.Stream, dst, src []byte, newer, older tpm2.TPM2BNonce) error {
	const keyBytes = 16
	keyIV := tpm2.KDFa(crypto.SHA256, s.key, "CFB", newer.Buffer, older.Buffer, 8*(keyBytes+aes.BlockSize))
	defer clear(keyIV)
	block, err := aes.NewCipher(keyIV[:keyBytes])
	if err != nil {
		return err
	}
	mode(block, keyIV[keyBytes:]).XORKeyStream(dst, src)
	return nil
}
