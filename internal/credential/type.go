// Package credential is the form of the encrypted credentials of systemd 250 to 262,
// as described by systemd-creds(1) and systemd.exec(5): the text, the headers, and
// what each of them allows. It does no I/O, knows no key and runs no cipher: package
// encryption does.
//
// A credential file is Base64 text ([DecodeText], [EncodeText]) of a binary
// blob:
//
//	main header | TPM header | public key header | SRK header | scope header
//	AES-256-GCM ciphertext of (metadata header | payload)
//	16-byte GCM tag
//
// [Parse] reads the headers, which are not secret but are authenticated only
// once the ciphertext has been opened.
package credential

import "fmt"

// A Type says which keys a credential is encrypted with, and so which headers
// it has. It is stored as a 16-byte id. The zero Type is none.
type Type uint8

const (
	TypeHost Type = iota + 1
	TypeHostScoped
	TypeTPM2
	TypeTPM2PublicKey
	TypeHostTPM2
	TypeHostTPM2Scoped
	TypeHostTPM2PublicKey
	TypeHostTPM2PublicKeyScoped
	TypeTPM2Pinned
	TypeTPM2PublicKeyPinned
	TypeHostTPM2Pinned
	TypeHostTPM2ScopedPinned
	TypeHostTPM2PublicKeyPinned
	TypeHostTPM2PublicKeyScopedPinned
	TypeNull
)

// Parts are the ingredients of a [Type].
type Parts uint8

const (
	PartHost      Parts = 1 << iota // the host secret is part of the key
	PartTPM2                        // a secret sealed to a TPM is part of the key
	PartPublicKey                   // the TPM policy includes a signed PCR policy
	PartSRK                         // the TPM secret is below the pinned storage root key
	PartScope                       // a user and a machine are part of the key
)

// PartNull, no part at all, makes a credential that anybody can read and forge.
const PartNull Parts = 0

const tpm2 = PartTPM2

var types = [...]struct {
	name  string
	since int // first systemd that reads it
	parts Parts
	id    [16]byte
}{
	TypeHost: {"host", 250, PartHost,
		[16]byte{0x5a, 0x1c, 0x6a, 0x86, 0xdf, 0x9d, 0x40, 0x96, 0xb1, 0xd5, 0xa6, 0x5e, 0x08, 0x62, 0xf1, 0x9a}},
	TypeHostScoped: {"host-scoped", 256, PartHost | PartScope,
		[16]byte{0x55, 0xb9, 0xed, 0x1d, 0x38, 0x59, 0x4d, 0x43, 0xa8, 0x31, 0x9d, 0x2e, 0xbb, 0x33, 0x2a, 0xc6}},
	TypeTPM2: {"tpm2", 250, tpm2,
		[16]byte{0x0c, 0x7c, 0xc0, 0x7b, 0x11, 0x76, 0x45, 0x91, 0x9c, 0x4b, 0x0b, 0xea, 0x08, 0xbc, 0x20, 0xfe}},
	TypeTPM2PublicKey: {"tpm2-with-public-key", 252, tpm2 | PartPublicKey,
		[16]byte{0xfa, 0xf7, 0xeb, 0x93, 0x41, 0xe3, 0x41, 0x2c, 0xa1, 0xa4, 0x36, 0xf9, 0x5a, 0x29, 0x36, 0x2f}},
	TypeHostTPM2: {"host+tpm2", 250, PartHost | tpm2,
		[16]byte{0x93, 0xa8, 0x94, 0x09, 0x48, 0x74, 0x44, 0x90, 0x90, 0xca, 0xf2, 0xfc, 0x93, 0xca, 0xb5, 0x53}},
	TypeHostTPM2Scoped: {"host+tpm2-scoped", 256, PartHost | tpm2 | PartScope,
		[16]byte{0xef, 0x4a, 0xc1, 0x36, 0x79, 0xa9, 0x48, 0x0e, 0xa7, 0xdb, 0x68, 0x89, 0x7f, 0x9f, 0x16, 0x5d}},
	TypeHostTPM2PublicKey: {"host+tpm2-with-public-key", 252, PartHost | tpm2 | PartPublicKey,
		[16]byte{0xaf, 0x49, 0x50, 0xa8, 0x49, 0x13, 0x4e, 0xb1, 0xa7, 0x38, 0x46, 0x30, 0x4f, 0xf3, 0x0c, 0x05}},
	TypeHostTPM2PublicKeyScoped: {"host+tpm2-with-public-key-scoped", 256, PartHost | tpm2 | PartPublicKey | PartScope,
		[16]byte{0xad, 0xbc, 0x4c, 0xa3, 0xef, 0xb6, 0x42, 0x01, 0xba, 0x88, 0x1b, 0x6f, 0x2e, 0x40, 0x95, 0xea}},
	TypeTPM2Pinned: {"tpm2-pinned-srk", 262, tpm2 | PartSRK,
		[16]byte{0xd4, 0x06, 0x2d, 0xfb, 0x71, 0xad, 0x4c, 0x86, 0x80, 0x4b, 0x40, 0xef, 0x11, 0x80, 0xf1, 0xfc}},
	TypeTPM2PublicKeyPinned: {"tpm2-with-public-key-pinned-srk", 262, tpm2 | PartPublicKey | PartSRK,
		[16]byte{0x5e, 0x2d, 0x5c, 0x76, 0x03, 0x72, 0x4e, 0xaf, 0x84, 0x3c, 0x6f, 0xb5, 0xf6, 0x40, 0x98, 0xf5}},
	TypeHostTPM2Pinned: {"host+tpm2-pinned-srk", 262, PartHost | tpm2 | PartSRK,
		[16]byte{0x14, 0x14, 0x25, 0x88, 0x18, 0xa2, 0x40, 0xcd, 0x90, 0x0b, 0xce, 0x86, 0x2d, 0xb5, 0xc7, 0xb9}},
	TypeHostTPM2ScopedPinned: {"host+tpm2-scoped-pinned-srk", 262, PartHost | tpm2 | PartScope | PartSRK,
		[16]byte{0x2a, 0x1f, 0x87, 0x7a, 0x42, 0x75, 0x43, 0x1a, 0xb3, 0xf9, 0xed, 0x1f, 0x5d, 0x8f, 0x66, 0x01}},
	TypeHostTPM2PublicKeyPinned: {"host+tpm2-with-public-key-pinned-srk", 262, PartHost | tpm2 | PartPublicKey | PartSRK,
		[16]byte{0xaf, 0xbf, 0xea, 0xac, 0xeb, 0x6a, 0x4a, 0x37, 0x95, 0x41, 0x9d, 0x13, 0x5c, 0x47, 0xf3, 0x7b}},
	TypeHostTPM2PublicKeyScopedPinned: {"host+tpm2-with-public-key-scoped-pinned-srk", 262, PartHost | tpm2 | PartPublicKey | PartScope | PartSRK,
		[16]byte{0x16, 0xe4, 0x92, 0x94, 0x9f, 0x94, 0x40, 0x02, 0x86, 0x75, 0x8f, 0x94, 0xb7, 0xc5, 0x2b, 0xc7}},
	TypeNull: {"null", 251, PartNull,
		[16]byte{0x05, 0x84, 0x69, 0xda, 0xf6, 0xf5, 0x43, 0x24, 0x80, 0x05, 0x49, 0xda, 0x0f, 0x8e, 0xa2, 0xfb}},
}

// Type returns the type that has exactly these parts, or [ErrUnknownType]:
// there is for instance no scoped type without a host secret.
func (p Parts) Type() (Type, error) {
	for t := TypeHost; t.valid(); t++ {
		if types[t].parts == p {
			return t, nil
		}
	}
	return 0, fmt.Errorf("%w: no type has just these keys", ErrUnknownType)
}

func (t Type) valid() bool { return t >= TypeHost && int(t) < len(types) }

// Parts returns what the type is made of.
func (t Type) Parts() Parts {
	if !t.valid() {
		return 0
	}
	return types[t].parts
}

// String returns the word that --with-key= of systemd-creds(1) has for the
// type, with "-scoped" and "-pinned-srk" added, for which it has none.
func (t Type) String() string {
	if !t.valid() {
		return fmt.Sprintf("Type(%d)", uint8(t))
	}
	return types[t].name
}

func (t Type) NeedsHost() bool    { return t.Parts()&PartHost != 0 }
func (t Type) NeedsTPM2() bool    { return t.Parts()&PartTPM2 != 0 }
func (t Type) HasPublicKey() bool { return t.Parts()&PartPublicKey != 0 }
func (t Type) PinnedSRK() bool    { return t.Parts()&PartSRK != 0 }
func (t Type) Scoped() bool       { return t.Parts()&PartScope != 0 }

// typeOf finds the type of an id of 16 bytes.
func typeOf(id []byte) (Type, bool) {
	for t := TypeHost; t.valid(); t++ {
		if types[t].id == [16]byte(id) {
			return t, true
		}
	}
	return 0, false
}

// ValidName says whether systemd takes name as a credential's name: 1 to 255
// printable ASCII characters other than ":" and "/", and not "." or "..".
func ValidName(name string) bool {
	if len(name) == 0 || len(name) > 255 || name == "." || name == ".." {
		return false
	}
	for i := range len(name) {
		if c := name[i]; c < ' ' || c > '~' || c == ':' || c == '/' {
			return false
		}
	}
	return true
}
