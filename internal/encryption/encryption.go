// Package encryption opens and makes the encrypted credentials whose form package
// credential knows: AES-256-GCM under a key from the host's secret, one that a TPM
// has kept, or both, and the metadata inside. It does no I/O and talks to no TPM: the
// keys are handed in. It refuses to make what it, or systemd, would refuse to open.
//
// It stands apart so that who only reads headers, as the generator does at every
// boot, links none of the ciphers.
package encryption

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/bootseal/bootseal/internal/credential"
)

// Infinity is the time that means "none" (USEC_INFINITY).
const Infinity uint64 = math.MaxUint64

// Keys are what the key of a credential is derived from. The owner wipes them.
type Keys struct {
	Host  []byte // credential.secret without its first 16 bytes; ignored if the type needs none
	TPM2  []byte // 32 unsealed bytes; ignored if the type needs none
	Scope *Scope // nil for a credential of the system
}

// A Scope is the user a scoped credential belongs to.
type Scope struct {
	UID       uint32
	User      string   // what the user database says for UID
	MachineID [16]byte // /etc/machine-id
}

// Plaintext is the content of a credential. What is encrypted is, little-endian:
// Timestamp and NotAfter, 8 bytes each; the size of Name, 4; Name; zeros up to a
// multiple of 8; Payload.
type Plaintext struct {
	Name      string // "" is none: fits every name
	Timestamp uint64 // microseconds since the epoch, or Infinity
	NotAfter  uint64 // microseconds since the epoch, or Infinity
	Payload   []byte

	buf []byte // all of it, as decrypted
}

// Wipe overwrites the payload.
func (p *Plaintext) Wipe() {
	clear(p.Payload)
	clear(p.buf)
}

// Check says whether the credential may be used under a name and at a time in
// microseconds since the epoch: [credential.ErrNameMismatch], [credential.ErrExpired]. A name of ""
// asks for none and fits every credential; a time of 0 is before every expiry.
func (p *Plaintext) Check(name string, now uint64) error {
	if name != "" && p.Name != "" && name != p.Name {
		return fmt.Errorf("%w: it is named %q, asked for was %q", credential.ErrNameMismatch, p.Name, name)
	}
	if p.NotAfter < now {
		return fmt.Errorf("%w: it was good until %s, now it is %s", credential.ErrExpired, inUTC(p.NotAfter), inUTC(now))
	}
	return nil
}

// Open decrypts a credential and checks its metadata, but not whether it may be
// used: see [Plaintext.Check]. It fails with [credential.ErrScopeMismatch] when only one
// of credential and keys has a scope, [credential.ErrNoKey], [credential.ErrAuth], [credential.ErrTimestamps],
// [credential.ErrMetadata] or [credential.ErrName]. The caller wipes the result.
//
// Null credentials are opened like all others: whether anybody's may be used
// here is for the caller to decide.
func Open(b *credential.Blob, k Keys) (*Plaintext, error) {
	aead, err := aeadOf(b, k)
	if err != nil {
		return nil, fmt.Errorf("decrypting credential: %w", err)
	}
	headers, ciphertext := b.Split()
	buf, err := aead.Open(make([]byte, 0, len(ciphertext)), b.IV, ciphertext, headers)
	if err != nil {
		return nil, fmt.Errorf("decrypting credential: %w", credential.ErrAuth)
	}
	p, err := parsePlaintext(buf)
	if err != nil {
		clear(buf)
		return nil, fmt.Errorf("decrypting credential: %w", err)
	}
	return p, nil
}

func parsePlaintext(buf []byte) (*Plaintext, error) {
	if len(buf) < credential.MinMetadata {
		return nil, fmt.Errorf("%w: %d decrypted bytes, expected at least %d", credential.ErrTooShort, len(buf), credential.MinMetadata)
	}
	p := &Plaintext{
		Timestamp: binary.LittleEndian.Uint64(buf),
		NotAfter:  binary.LittleEndian.Uint64(buf[8:]),
		buf:       buf,
	}
	if err := p.checkTimes(); err != nil {
		return nil, err
	}
	size := binary.LittleEndian.Uint32(buf[16:])
	if size > 255 {
		return nil, fmt.Errorf("%w: name_size is %d, at most 255 is valid", credential.ErrMetadata, size)
	}
	start := align8(metadataHeader + int(size))
	if start > len(buf) {
		return nil, fmt.Errorf("%w: name_size is %d, beyond the end", credential.ErrMetadata, size)
	}
	p.Name = string(buf[metadataHeader : metadataHeader+size])
	if size > 0 && !credential.ValidName(p.Name) {
		return nil, fmt.Errorf("%w: %q", credential.ErrName, p.Name)
	}
	p.Payload = buf[start:]
	return p, nil
}

// metadataHeader is how many bytes come before the name.
const metadataHeader = 20

func align8(n int) int { return (n + 7) &^ 7 }

func inUTC(usec uint64) string {
	return time.UnixMicro(int64(usec)).UTC().Format("2006-01-02 15:04:05 UTC")
}

func (p *Plaintext) checkTimes() error {
	if p.Timestamp != Infinity && p.NotAfter != Infinity && p.Timestamp >= p.NotAfter {
		return fmt.Errorf("%w: %d and %d (microseconds since the epoch)", credential.ErrTimestamps, p.Timestamp, p.NotAfter)
	}
	return nil
}

// Seal encrypts p under the headers of b with a fresh IV and returns the
// binary credential. The TPM, public key and SRK headers are those that
// tpm.Seal made together with k.TPM2. It refuses whatever [credential.Parse] and
// [Open] would refuse, and payloads above [credential.MaxPayload].
func Seal(b *credential.Blob, k Keys, p *Plaintext) ([]byte, error) {
	out, err := seal(b, k, p)
	if err != nil {
		return nil, fmt.Errorf("encrypting credential: %w", err)
	}
	return out, nil
}

func seal(b *credential.Blob, k Keys, p *Plaintext) ([]byte, error) {
	c := *b
	c.IV = make([]byte, credential.IVSize)
	if _, err := rand.Read(c.IV); err != nil {
		return nil, err
	}
	headers, err := c.Headers()
	if err != nil {
		return nil, err
	}
	if p.Name != "" && !credential.ValidName(p.Name) {
		return nil, fmt.Errorf("%w: %q (1 to 255 printable ASCII characters without ':' and '/')", credential.ErrName, p.Name)
	}
	if err := p.checkTimes(); err != nil {
		return nil, err
	}
	if len(p.Payload) > credential.MaxPayload {
		return nil, fmt.Errorf("%w: payload of %d bytes, at most %d", credential.ErrTooLarge, len(p.Payload), credential.MaxPayload)
	}
	aead, err := aeadOf(&c, k)
	if err != nil {
		return nil, err
	}
	aad := len(headers)
	start := align8(metadataHeader + len(p.Name))
	out := make([]byte, aad+start, aad+start+len(p.Payload)+credential.TagSize)
	copy(out, headers)
	binary.LittleEndian.PutUint64(out[aad:], p.Timestamp)
	binary.LittleEndian.PutUint64(out[aad+8:], p.NotAfter)
	binary.LittleEndian.PutUint32(out[aad+16:], uint32(len(p.Name)))
	copy(out[aad+metadataHeader:], p.Name)
	out = append(out, p.Payload...)
	out = aead.Seal(out[:aad], c.IV, out[aad:], out[:aad])
	if _, err := credential.Parse(out); err != nil {
		return nil, errors.Unwrap(err) // without its "reading credential"
	}
	return out, nil
}

// aeadOf derives the key (section 3 of doc/credential-format.md) and keys AES-256-GCM.
func aeadOf(b *credential.Blob, k Keys) (cipher.AEAD, error) {
	h := sha256.New()
	if b.Type.NeedsHost() {
		if len(k.Host) == 0 {
			return nil, fmt.Errorf("%w: type %v needs the host secret", credential.ErrNoKey, b.Type)
		}
		h.Write(k.Host)
	}
	if b.Type.NeedsTPM2() {
		if len(k.TPM2) != sha256.Size {
			return nil, fmt.Errorf("%w: type %v needs %d bytes from the TPM, there are %d", credential.ErrNoKey, b.Type, sha256.Size, len(k.TPM2))
		}
		h.Write(k.TPM2)
	}
	var buf [sha256.Size]byte
	key := h.Sum(buf[:0])
	defer clear(key)
	h.Reset()
	if b.Type.Scoped() != (k.Scope != nil) {
		if k.Scope == nil {
			return nil, fmt.Errorf("%w: it is a user's, and no user was given", credential.ErrScopeMismatch)
		}
		return nil, fmt.Errorf("%w: it is the system's, and a user was given", credential.ErrScopeMismatch)
	}
	if s := k.Scope; s != nil {
		if s.User == "" || strings.IndexByte(s.User, 0) >= 0 {
			return nil, fmt.Errorf("%w: invalid user name %q", credential.ErrScopeMismatch, s.User)
		}
		mac := hmac.New(sha256.New, key)
		msg := binary.LittleEndian.AppendUint64(nil, credential.ScopeFlags)
		msg = binary.LittleEndian.AppendUint32(msg, s.UID)
		msg = append(msg, s.MachineID[:]...)
		msg = append(append(msg, s.User...), 0)
		mac.Write(msg)
		mac.Sum(key[:0])
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithNonceSize(block, len(b.IV))
}
