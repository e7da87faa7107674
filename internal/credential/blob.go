package credential

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/bits"
)

// TPM algorithm identifiers (TCG Algorithm Registry) that occur in blobs.
const (
	AlgRSA    = 0x0001
	AlgSHA1   = 0x0004
	AlgSHA256 = 0x000B
	AlgSHA384 = 0x000C
	AlgSHA512 = 0x000D
	AlgECC    = 0x0023
)

// SRKHandle is the persistent handle of the storage root key (TCG TPM v2.0
// Provisioning Guidance, section 7.8).
const SRKHandle = 0x81000001

// ScopeFlags are the only flags of a scope in use: uid, machine and user name.
const ScopeFlags = 7

// Sizes in bytes of what AES-256-GCM takes and makes.
const (
	IVSize  = 12 // of what is made here; Parse takes others
	TagSize = 16
	// MinMetadata is the least that is encrypted: times, and a name of none.
	MinMetadata = 24
)

const (
	keySize      = 32
	blockSize    = 1
	maxField     = 16384   // iv, tag, TPM blob, policy hash, SRK
	maxPublicKey = 1 << 20 // PEM
	maskLimit    = 1 << 24 // PCRs 0 to 23

	mainHeader      = 32 // without the iv
	tpm2Header      = 20
	publicKeyHeader = 12
	srkHeader       = 4
	scopeHeader     = 8
)

// A Blob is the part of a credential that can be read without keys. Nothing in
// it is to be trusted before the ciphertext has been opened.
//
// To write a credential, set Type and what it asks for (IV, TPM2, PublicKey, SRK),
// and encrypt under its [Blob.Headers].
//
// The main header is, little-endian: the type's id, 16 bytes; key_size (32),
// block_size (1), iv_size (12) and tag_size (16), 4 bytes each; IV; zeros up to a
// multiple of 8.
type Blob struct {
	Type      Type
	IV        []byte     // 12 bytes; the reader takes 1 to 16384
	TPM2      *TPM2      // types with a TPM
	PublicKey *PublicKey // types with a public key
	SRK       *SRK       // pinned types

	raw []byte
	aad int // length of the headers
}

// TPM2 is the TPM header: a secret sealed to a TPM, and the policy that opens it.
// Little-endian: PCRMask, 8 bytes; PCRBank, 2; PrimaryAlg, 2; the sizes of Blob and
// PolicyHash, 4 each; Blob; PolicyHash; zeros up to a multiple of 8.
type TPM2 struct {
	PCRMask    uint64 // literal PCRs: bit n is PCR n, below 2^24; 0 is none
	PCRBank    uint16 // AlgSHA256, AlgSHA1, AlgSHA384 or AlgSHA512
	PrimaryAlg uint16 // AlgECC or AlgRSA
	Blob       []byte // TPM2B_PRIVATE and TPM2B_PUBLIC of the sealed object, 1 to 16384 bytes
	PolicyHash []byte // 32 bytes: its authPolicy
}

// PublicKey is the public key header: whose signatures over PCR values are
// accepted. Little-endian: PCRMask, 8 bytes; the size of PEM, 4; PEM; zeros up to a
// multiple of 8.
type PublicKey struct {
	PCRMask uint64 // signed PCRs, never 0; systemd's default is PCR 11
	PEM     []byte // "BEGIN PUBLIC KEY", byte for byte as in the file, 1 to 1048576 bytes
}

// SRK is the pinned SRK header: the storage root key that was the parent of
// the sealed object. Stored are the size of a record, 4 bytes, little-endian, the
// record, and zeros up to a multiple of 8; the record is handle, Name and Public as
// tpm2-tss serializes them, big-endian.
type SRK struct {
	Public []byte // TPMT_PUBLIC; 90 bytes for ECC P-256, 282 for RSA 2048
}

// Name returns the TPM Name of the key: its nameAlg, SHA-256, and the digest
// of its public area.
func (s *SRK) Name() []byte {
	digest := sha256.Sum256(s.Public)
	return append([]byte{0, AlgSHA256}, digest[:]...)
}

// Parse reads the headers of a decoded credential. It makes every check that
// needs no key, is stricter than systemd where that is careless (sizes of 0,
// bits beyond PCR 23, policy hashes other than SHA-256, SRK records that are
// not exactly what systemd 262 writes), and starts nothing that is costly.
// The result refers to the bytes of blob. It fails with [ErrTooLarge],
// [ErrTooShort], [ErrUnknownType], [ErrKeySize], [ErrBlockSize], [ErrIVSize],
// [ErrTagSize], [ErrPCRMask], [ErrPCRBank], [ErrPrimaryAlg], [ErrTPMBlobSize],
// [ErrPolicyHashSize], [ErrPublicKeySize], [ErrSRKSize], [ErrSRK] or
// [ErrScopeFlags].
func Parse(blob []byte) (*Blob, error) {
	b, err := parse(blob)
	if err != nil {
		return nil, fmt.Errorf("reading credential: %w", err)
	}
	return b, nil
}

func parse(blob []byte) (*Blob, error) {
	if len(blob) > MaxBlob {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are read", ErrTooLarge, len(blob), MaxBlob)
	}
	if len(blob) < 16 {
		return nil, fmt.Errorf("%w: %d bytes, expected a type id of 16", ErrTooShort, len(blob))
	}
	t, ok := typeOf(blob)
	if !ok {
		return nil, unknownType(blob)
	}
	r := reader{data: blob}
	if err := r.need(mainHeader, "main header"); err != nil {
		return nil, err
	}
	r.take(16)
	b := &Blob{Type: t, raw: blob}
	if err := b.parseMain(&r); err != nil {
		return nil, err
	}
	for _, part := range []struct {
		has   bool
		parse func(*reader) error
	}{
		{t.NeedsTPM2(), b.parseTPM2},
		{t.HasPublicKey(), b.parsePublicKey},
		{t.PinnedSRK(), b.parseSRK},
		{t.Scoped(), b.parseScope},
	} {
		if !part.has {
			continue
		}
		if err := part.parse(&r); err != nil {
			return nil, err
		}
	}
	b.aad = r.off
	return b, nil
}

// unknownType shows the id only where a main header follows: else these bytes may
// be those of a secret that somebody took for a credential.
func unknownType(blob []byte) error {
	r := reader{data: blob, off: 16}
	if len(blob) < mainHeader || r.u32() != keySize || r.u32() != blockSize || r.u32() != IVSize || r.u32() != TagSize {
		return fmt.Errorf("%w: it does not begin as credentials do", ErrUnknownType)
	}
	return fmt.Errorf("%w: id %x", ErrUnknownType, blob[:16])
}

// minimum is the length of the parts still to come, each with nothing variable
// in it, from the first of the given ones on.
func (b *Blob) minimum(from Parts) int {
	n := MinMetadata + TagSize
	for _, p := range []struct {
		part Parts
		size int
	}{{PartTPM2, tpm2Header}, {PartPublicKey, publicKeyHeader}, {PartSRK, srkHeader}, {PartScope, scopeHeader}} {
		if p.part >= from && b.Type.Parts()&p.part != 0 {
			n += align8(p.size)
		}
	}
	return n
}

func (b *Blob) parseMain(r *reader) error {
	key, block, iv, tag := r.u32(), r.u32(), r.u32(), r.u32()
	switch {
	case key != keySize:
		return fmt.Errorf("%w: %d at offset 16, expected %d", ErrKeySize, key, keySize)
	case block == 0 || block > maxField:
		return fmt.Errorf("%w: %d at offset 20, expected %d", ErrBlockSize, block, blockSize)
	case iv > maxField:
		return fmt.Errorf("%w: %d at offset 24, expected %d", ErrIVSize, iv, IVSize)
	case tag > maxField:
		return fmt.Errorf("%w: %d at offset 28, expected %d", ErrTagSize, tag, TagSize)
	}
	if err := r.need(align8(mainHeader+int(iv))-mainHeader+b.minimum(PartTPM2)-TagSize+int(tag), "headers"); err != nil {
		return err
	}
	switch {
	case tag != TagSize:
		return fmt.Errorf("%w: %d at offset 28, expected %d", ErrTagSize, tag, TagSize)
	case block != blockSize:
		return fmt.Errorf("%w: %d at offset 20, expected %d", ErrBlockSize, block, blockSize)
	case iv == 0:
		return fmt.Errorf("%w: 0 at offset 24, expected %d", ErrIVSize, IVSize)
	}
	b.IV = r.take(int(iv))
	r.align(0)
	return nil
}

func (b *Blob) parseTPM2(r *reader) error {
	start := r.off
	h := &TPM2{PCRMask: r.u64(), PCRBank: r.u16(), PrimaryAlg: r.u16()}
	blob, hash := r.u32(), r.u32()
	switch {
	case h.PCRMask >= maskLimit:
		return fmt.Errorf("%w: 0x%x at offset %d, expected PCRs 0 to 23 only", ErrPCRMask, h.PCRMask, start)
	case h.PCRBank != AlgSHA256 && h.PCRBank != AlgSHA1 && h.PCRBank != AlgSHA384 && h.PCRBank != AlgSHA512:
		return fmt.Errorf("%w: 0x%04x at offset %d, expected SHA-1, SHA-256, SHA-384 or SHA-512", ErrPCRBank, h.PCRBank, start+8)
	case h.PrimaryAlg != AlgECC && h.PrimaryAlg != AlgRSA:
		return fmt.Errorf("%w: 0x%04x at offset %d, expected ECC or RSA", ErrPrimaryAlg, h.PrimaryAlg, start+10)
	case blob == 0 || blob > maxField:
		return fmt.Errorf("%w: %d at offset %d, expected 1 to %d", ErrTPMBlobSize, blob, start+12, maxField)
	case hash > maxField:
		return fmt.Errorf("%w: %d at offset %d, expected %d", ErrPolicyHashSize, hash, start+16, sha256.Size)
	}
	n := int(blob) + int(hash)
	if err := r.need(align8(tpm2Header+n)-tpm2Header+b.minimum(PartPublicKey), "TPM header"); err != nil {
		return err
	}
	if hash != sha256.Size {
		return fmt.Errorf("%w: %d at offset %d, expected %d", ErrPolicyHashSize, hash, start+16, sha256.Size)
	}
	h.Blob = r.take(int(blob))
	h.PolicyHash = r.take(int(hash))
	r.align(start)
	b.TPM2 = h
	return nil
}

func (b *Blob) parsePublicKey(r *reader) error {
	start := r.off
	h := &PublicKey{PCRMask: r.u64()}
	size := r.u32()
	switch {
	case h.PCRMask == 0 || h.PCRMask >= maskLimit:
		return fmt.Errorf("%w: signed PCRs 0x%x at offset %d, expected at least one of PCRs 0 to 23", ErrPCRMask, h.PCRMask, start)
	case size == 0 || size > maxPublicKey:
		return fmt.Errorf("%w: %d at offset %d, expected 1 to %d", ErrPublicKeySize, size, start+8, maxPublicKey)
	}
	if err := r.need(align8(publicKeyHeader+int(size))-publicKeyHeader+b.minimum(PartSRK), "public key header"); err != nil {
		return err
	}
	h.PEM = r.take(int(size))
	r.align(start)
	b.PublicKey = h
	return nil
}

func (b *Blob) parseSRK(r *reader) error {
	start := r.off
	size := r.u32()
	if size == 0 || size > maxField {
		return fmt.Errorf("%w: %d at offset %d, expected 1 to %d", ErrSRKSize, size, start, maxField)
	}
	if err := r.need(align8(srkHeader+int(size))-srkHeader+b.minimum(PartScope), "SRK header"); err != nil {
		return err
	}
	record := r.take(int(size))
	h, err := parseSRKRecord(record)
	if err != nil {
		return fmt.Errorf("%w at offset %d: %w", ErrSRK, start+srkHeader, err)
	}
	r.align(start)
	b.SRK = h
	return nil
}

// The pinned SRK record is the tpm2-tss serialization of an ESYS object: handle,
// TPM2B_NAME, u32 1, TPM2B_PUBLIC, all big-endian.
const (
	srkName   = 2 + 2 + sha256.Size
	srkFixed  = 4 + srkName + 4 + 2
	srkObject = 1
)

func parseSRKRecord(record []byte) (*SRK, error) {
	if len(record) < srkFixed {
		return nil, fmt.Errorf("%d bytes, expected at least %d", len(record), srkFixed)
	}
	public := record[srkFixed:]
	if n := int(binary.BigEndian.Uint16(record[srkFixed-2:])); n != len(public) {
		return nil, fmt.Errorf("public area of %d bytes where %d follow", n, len(public))
	}
	s := &SRK{Public: public}
	if !bytes.Equal(record, s.record()) {
		return nil, fmt.Errorf("expected handle 0x%x and a name that is the digest of the public area", uint32(SRKHandle))
	}
	return s, nil
}

func (s *SRK) record() []byte {
	out := make([]byte, 0, srkFixed+len(s.Public))
	out = binary.BigEndian.AppendUint32(out, SRKHandle)
	out = binary.BigEndian.AppendUint16(out, srkName-2)
	out = append(out, s.Name()...)
	out = binary.BigEndian.AppendUint32(out, srkObject)
	out = binary.BigEndian.AppendUint16(out, uint16(len(s.Public)))
	return append(out, s.Public...)
}

func (b *Blob) parseScope(r *reader) error {
	start := r.off
	if flags := r.u64(); flags != ScopeFlags {
		return fmt.Errorf("%w: 0x%x at offset %d, expected 0x%x", ErrScopeFlags, flags, start, ScopeFlags)
	}
	return nil
}

// Split returns the two parts of a credential that [Parse] has read: its headers,
// the cipher's additional authenticated data, and the ciphertext with its tag, of
// [MinMetadata] and [TagSize] bytes at least.
func (b *Blob) Split() (headers, ciphertext []byte) { return b.raw[:b.aad], b.raw[b.aad:] }

// Headers marshals what [Parse] reads: the additional authenticated data of a
// credential that is being made. It fails with [ErrUnknownType], or with [ErrNoKey]
// where a header is not set that the type has.
func (b *Blob) Headers() ([]byte, error) {
	if !b.Type.valid() {
		return nil, fmt.Errorf("%w: %v", ErrUnknownType, b.Type)
	}
	if b.Type.NeedsTPM2() && b.TPM2 == nil || b.Type.HasPublicKey() && b.PublicKey == nil || b.Type.PinnedSRK() && b.SRK == nil {
		return nil, fmt.Errorf("%w: a header of type %v is not set", ErrNoKey, b.Type)
	}
	out := append([]byte(nil), types[b.Type].id[:]...)
	for _, n := range []uint32{keySize, blockSize, uint32(len(b.IV)), TagSize} {
		out = binary.LittleEndian.AppendUint32(out, n)
	}
	out = pad8(append(out, b.IV...))
	if h := b.TPM2; b.Type.NeedsTPM2() {
		out = binary.LittleEndian.AppendUint64(out, h.PCRMask)
		out = binary.LittleEndian.AppendUint16(out, h.PCRBank)
		out = binary.LittleEndian.AppendUint16(out, h.PrimaryAlg)
		out = binary.LittleEndian.AppendUint32(out, uint32(len(h.Blob)))
		out = binary.LittleEndian.AppendUint32(out, uint32(len(h.PolicyHash)))
		out = append(out, h.Blob...)
		out = pad8(append(out, h.PolicyHash...))
	}
	if h := b.PublicKey; b.Type.HasPublicKey() {
		out = binary.LittleEndian.AppendUint64(out, h.PCRMask)
		out = binary.LittleEndian.AppendUint32(out, uint32(len(h.PEM)))
		out = pad8(append(out, h.PEM...))
	}
	if b.Type.PinnedSRK() {
		record := b.SRK.record()
		out = binary.LittleEndian.AppendUint32(out, uint32(len(record)))
		out = pad8(append(out, record...))
	}
	if b.Type.Scoped() {
		out = binary.LittleEndian.AppendUint64(out, ScopeFlags)
	}
	return out, nil
}

// Since returns the oldest version of systemd that can open the credential, as
// far as its headers tell: 250 to 262. Above the version that brought the type
// (250 host and TPM, 251 null, 252 signed PCRs, 256 scoped, 262 pinned SRK) are
// TPM credentials without PCRs (252), in the SHA-384 or SHA-512 bank (252), and
// those whose text has more than [MaxBlob] bytes (255). It does not know what 255.0
// to 255.2 made for a public key, which 252 to 254 cannot open.
//
// These numbers belong to the format: each says which form a file has. What a
// systemd does with files is in the table of package systemd.
func (b *Blob) Since() int {
	since := types[b.Type].since
	if h := b.TPM2; h != nil {
		unbound := h.PCRMask == 0 && b.PublicKey == nil && bytes.Equal(h.PolicyHash, make([]byte, sha256.Size))
		if unbound || h.PCRBank == AlgSHA384 || h.PCRBank == AlgSHA512 {
			since = max(since, 252)
		}
	}
	if textLen(len(b.raw)) > MaxBlob {
		since = max(since, 255)
	}
	return since
}

// PCRs lists the PCRs of a mask in ascending order.
func PCRs(mask uint64) []int {
	var all []int
	for ; mask != 0; mask &= mask - 1 {
		all = append(all, bits.TrailingZeros64(mask))
	}
	return all
}

func align8(n int) int { return (n + 7) &^ 7 }

func pad8(b []byte) []byte { return append(b, make([]byte, align8(len(b))-len(b))...) }

// reader takes little-endian fields off data. The caller calls need before.
type reader struct {
	data []byte
	off  int
}

func (r *reader) need(n int, what string) error {
	if have := len(r.data) - r.off; have < n {
		return fmt.Errorf("%w: %d bytes from offset %d on, the %s and what must follow take %d", ErrTooShort, have, r.off, what, n)
	}
	return nil
}

func (r *reader) take(n int) []byte {
	b := r.data[r.off : r.off+n : r.off+n]
	r.off += n
	return b
}

func (r *reader) u16() uint16 { return binary.LittleEndian.Uint16(r.take(2)) }
func (r *reader) u32() uint32 { return binary.LittleEndian.Uint32(r.take(4)) }
func (r *reader) u64() uint64 { return binary.LittleEndian.Uint64(r.take(8)) }

// align skips the padding of a part that began at start.
func (r *reader) align(start int) { r.off = start + align8(r.off-start) }
