package encryption_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/internal/credential/vectors"
	"github.com/bootseal/bootseal/internal/encryption"
)

const vectorDir = "../credential/testdata/vectors"

var (
	alice = &encryption.Scope{UID: 1000, User: "alice", MachineID: [16]byte{1, 2, 3}}
	keys  = encryption.Keys{Host: bytes.Repeat([]byte{1}, 4096), TPM2: bytes.Repeat([]byte{2}, 32)}
)

// blobOf returns headers of a type, with made-up contents for the TPM's.
func blobOf(t credential.Type) (*credential.Blob, encryption.Keys) {
	b, k := &credential.Blob{Type: t}, keys
	if t.NeedsTPM2() {
		b.TPM2 = &credential.TPM2{PCRMask: 1 << 7, PCRBank: credential.AlgSHA256, PrimaryAlg: credential.AlgECC,
			Blob: bytes.Repeat([]byte{3}, 240), PolicyHash: bytes.Repeat([]byte{4}, 32)}
	}
	if t.HasPublicKey() {
		b.PublicKey = &credential.PublicKey{PCRMask: 1 << 11, PEM: []byte("-----BEGIN PUBLIC KEY-----\n")}
	}
	if t.PinnedSRK() {
		b.SRK = &credential.SRK{Public: bytes.Repeat([]byte{5}, 90)}
	}
	if t.Scoped() {
		k.Scope = alice
	}
	return b, k
}

func plaintext(name, payload string) *encryption.Plaintext {
	return &encryption.Plaintext{Name: name, Timestamp: 1000, NotAfter: encryption.Infinity, Payload: []byte(payload)}
}

func TestSealThenOpen(t *testing.T) {
	for _, typ := range vectors.Types {
		for _, payload := range []string{"", "x", strings.Repeat("secret", 100)} {
			for _, name := range []string{"", "n", strings.Repeat("n", 255)} {
				b, k := blobOf(typ)
				raw, err := encryption.Seal(b, k, plaintext(name, payload))
				if err != nil {
					t.Fatalf("%v: %v", typ, err)
				}
				got, err := credential.Parse(raw)
				if err != nil {
					t.Fatalf("%v: %v", typ, err)
				}
				if got.Type != typ || typ.NeedsTPM2() != (got.TPM2 != nil) || typ.HasPublicKey() != (got.PublicKey != nil) || typ.PinnedSRK() != (got.SRK != nil) {
					t.Errorf("%v read back as %+v", typ, got)
				}
				p, err := encryption.Open(got, k)
				if err != nil {
					t.Fatalf("%v: %v", typ, err)
				}
				if p.Name != name || string(p.Payload) != payload || p.Timestamp != 1000 || p.NotAfter != encryption.Infinity {
					t.Errorf("%v: read back %q, %d bytes, %d, %d", typ, p.Name, len(p.Payload), p.Timestamp, p.NotAfter)
				}
			}
		}
	}
}

// TestKeysMatter opens each type with one of its keys changed.
func TestKeysMatter(t *testing.T) {
	for _, typ := range vectors.Types {
		b, k := blobOf(typ)
		raw, err := encryption.Seal(b, k, plaintext("n", "secret"))
		if err != nil {
			t.Fatal(err)
		}
		got, err := credential.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		other := func(change func(*encryption.Keys), want string) {
			t.Helper()
			changed := k
			if k.Scope != nil {
				scope := *k.Scope
				changed.Scope = &scope
			}
			change(&changed)
			_, err := encryption.Open(got, changed)
			if vectors.Class(err, nil) != want {
				t.Errorf("%v: %v, want %s", typ, err, want)
			}
		}
		if typ.NeedsHost() {
			other(func(k *encryption.Keys) { k.Host = append(bytes.Clone(k.Host), 1) }, "auth-failed")
			other(func(k *encryption.Keys) { k.Host = nil }, "no-key")
		}
		if typ.NeedsTPM2() {
			other(func(k *encryption.Keys) { k.TPM2 = bytes.Repeat([]byte{9}, 32) }, "auth-failed")
			other(func(k *encryption.Keys) { k.TPM2 = k.TPM2[:31] }, "no-key")
			other(func(k *encryption.Keys) { k.TPM2 = nil }, "no-key")
		}
		if typ.Scoped() {
			other(func(k *encryption.Keys) { k.Scope.UID++ }, "auth-failed")
			other(func(k *encryption.Keys) { k.Scope.User = "alic" }, "auth-failed")
			other(func(k *encryption.Keys) { k.Scope.MachineID[15]++ }, "auth-failed")
			other(func(k *encryption.Keys) { k.Scope = nil }, "scope-mismatch")
		} else {
			other(func(k *encryption.Keys) { k.Scope = alice }, "scope-mismatch")
		}
	}
}

func TestSealRefuses(t *testing.T) {
	for _, c := range []struct {
		want   string
		change func(*credential.Blob, *encryption.Keys, *encryption.Plaintext)
	}{
		{"bad-name", func(_ *credential.Blob, _ *encryption.Keys, p *encryption.Plaintext) { p.Name = "a/b" }},
		{"bad-timestamps", func(_ *credential.Blob, _ *encryption.Keys, p *encryption.Plaintext) { p.NotAfter = p.Timestamp }},
		{"too-large", func(_ *credential.Blob, _ *encryption.Keys, p *encryption.Plaintext) {
			p.Payload = make([]byte, credential.MaxPayload+1)
		}},
		{"no-key", func(_ *credential.Blob, k *encryption.Keys, _ *encryption.Plaintext) { k.Host = nil }},
		{"no-key", func(b *credential.Blob, _ *encryption.Keys, _ *encryption.Plaintext) { b.TPM2 = nil }},
		{"no-key", func(b *credential.Blob, _ *encryption.Keys, _ *encryption.Plaintext) { b.PublicKey = nil }},
		{"no-key", func(b *credential.Blob, _ *encryption.Keys, _ *encryption.Plaintext) { b.SRK = nil }},
		{"pcr-mask-range", func(b *credential.Blob, _ *encryption.Keys, _ *encryption.Plaintext) { b.TPM2.PCRMask = 1 << 24 }},
		{"pcr-mask-range", func(b *credential.Blob, _ *encryption.Keys, _ *encryption.Plaintext) { b.PublicKey.PCRMask = 0 }},
		{"pcr-bank-invalid", func(b *credential.Blob, _ *encryption.Keys, _ *encryption.Plaintext) { b.TPM2.PCRBank = 0 }},
		{"scope-mismatch", func(_ *credential.Blob, k *encryption.Keys, _ *encryption.Plaintext) { k.Scope = nil }},
		{"scope-mismatch", func(_ *credential.Blob, k *encryption.Keys, _ *encryption.Plaintext) {
			k.Scope = &encryption.Scope{User: "a\x00b"}
		}},
		{"unknown-type", func(b *credential.Blob, _ *encryption.Keys, _ *encryption.Plaintext) { b.Type = 0 }},
		{"unknown-type", func(b *credential.Blob, _ *encryption.Keys, _ *encryption.Plaintext) { b.Type = 99 }},
	} {
		b, k := blobOf(credential.TypeHostTPM2PublicKeyScopedPinned)
		p := plaintext("n", "secret")
		c.change(b, &k, p)
		raw, err := encryption.Seal(b, k, p)
		if vectors.Class(err, nil) != c.want || raw != nil {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
}

// TestSealTwice: the same content never gives the same IV.
func TestSealTwice(t *testing.T) {
	b, k := blobOf(credential.TypeNull)
	one, err := encryption.Seal(b, k, plaintext("n", "secret"))
	if err != nil {
		t.Fatal(err)
	}
	two, err := encryption.Seal(b, k, plaintext("n", "secret"))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(one[32:44], two[32:44]) {
		t.Error("same IV twice")
	}
}

func TestLargestPayload(t *testing.T) {
	b, k := blobOf(credential.TypeHostTPM2PublicKeyScopedPinned)
	p := plaintext(strings.Repeat("n", 255), "")
	p.Payload = vectors.Counter(credential.MaxPayload)
	raw, err := encryption.Seal(b, k, p)
	if err != nil {
		t.Fatal(err)
	}
	decoded, err := credential.DecodeText(credential.EncodeText(raw))
	if err != nil {
		t.Fatal(err)
	}
	got, err := credential.Parse(decoded)
	if err != nil {
		t.Fatal(err)
	}
	back, err := encryption.Open(got, k)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(back.Payload, p.Payload) {
		t.Error("another payload")
	}
}

// TestEveryBit flips each bit of one blob of each kind, all keys known.
func TestEveryBit(t *testing.T) {
	set := vectors.Load(t, vectorDir)
	real := func(file string) []byte {
		raw, err := set.Case(t, file).Decoded()
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	made := func(typ credential.Type) []byte {
		b, k := blobOf(typ)
		raw, err := encryption.Seal(b, k, plaintext("vector", "secret"))
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	system := encryption.Keys{Host: set.HostKey, TPM2: keys.TPM2}
	scoped := keys
	scoped.Scope = alice
	for _, c := range []struct {
		name string
		raw  []byte
		keys encryption.Keys
	}{
		{"host", real("blobs/257.13/host.cred"), system},
		{"null", real("blobs/257.13/null.cred"), system},
		{"tpm2", made(credential.TypeTPM2), keys},
		{"everything", made(credential.TypeHostTPM2PublicKeyScopedPinned), scoped},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, err := credential.Parse(c.raw)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := encryption.Open(b, c.keys); err != nil {
				t.Fatal("before any flip: ", err)
			}
			for bit := range 8 * len(c.raw) {
				c.raw[bit/8] ^= 1 << (bit % 8)
				if b, err := credential.Parse(c.raw); err == nil {
					if _, err := encryption.Open(b, c.keys); err == nil {
						t.Errorf("opened with bit %d of byte %d flipped", bit%8, bit/8)
					}
				}
				c.raw[bit/8] ^= 1 << (bit % 8)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	p := &encryption.Plaintext{Name: "a", NotAfter: 100}
	for _, c := range []struct {
		name string
		now  uint64
		want string
	}{{"a", 100, "ok"}, {"a", 101, "expired"}, {"b", 0, "name-mismatch"}, {"", 0, "ok"}, {"b", 101, "name-mismatch"}} {
		if err := p.Check(c.name, c.now); vectors.Class(err, nil) != c.want {
			t.Errorf("%q at %d: %v", c.name, c.now, err)
		}
	}
}

func TestWipe(t *testing.T) {
	b, k := blobOf(credential.TypeNull)
	raw, err := encryption.Seal(b, k, plaintext("n", "secret"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := credential.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	p, err := encryption.Open(got, k)
	if err != nil {
		t.Fatal(err)
	}
	payload := p.Payload
	p.Wipe()
	if slices.Max(payload) != 0 {
		t.Errorf("left: %q", payload)
	}
}

func BenchmarkOpen4KiB(b *testing.B) {
	blob, k := blobOf(credential.TypeHostTPM2)
	raw, err := encryption.Seal(blob, k, plaintext("n", strings.Repeat("x", 4096)))
	if err != nil {
		b.Fatal(err)
	}
	parsed, err := credential.Parse(raw)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(4096)
	b.ReportAllocs()
	for range b.N {
		if _, err := encryption.Open(parsed, k); err != nil {
			b.Fatal(err)
		}
	}
}
