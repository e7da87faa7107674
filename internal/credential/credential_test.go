package credential_test

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/internal/credential/vectors"
)

const vectorDir = "testdata/vectors"

// made returns a credential of a type, with made-up contents of the headers and
// that many bytes more of ciphertext than the least.
func made(t testing.TB, typ credential.Type, payload int) []byte {
	t.Helper()
	b := &credential.Blob{Type: typ, IV: make([]byte, credential.IVSize)}
	b.TPM2 = &credential.TPM2{PCRMask: 1 << 7, PCRBank: credential.AlgSHA256, PrimaryAlg: credential.AlgECC,
		Blob: bytes.Repeat([]byte{3}, 240), PolicyHash: bytes.Repeat([]byte{4}, 32)}
	b.PublicKey = &credential.PublicKey{PCRMask: 1 << 11, PEM: []byte("-----BEGIN PUBLIC KEY-----\n")}
	b.SRK = &credential.SRK{Public: bytes.Repeat([]byte{5}, 90)}
	headers, err := b.Headers()
	if err != nil {
		t.Fatal(err)
	}
	return append(headers, make([]byte, credential.MinMetadata+payload+credential.TagSize)...)
}

// TestHeaders: what is marshalled is read back.
func TestHeaders(t *testing.T) {
	for _, typ := range vectors.Types {
		raw := made(t, typ, 5)
		b, err := credential.Parse(raw)
		if err != nil {
			t.Fatalf("%v: %v", typ, err)
		}
		if b.Type != typ || typ.NeedsTPM2() != (b.TPM2 != nil) || typ.HasPublicKey() != (b.PublicKey != nil) || typ.PinnedSRK() != (b.SRK != nil) {
			t.Errorf("%v read back as %+v", typ, b)
		}
		headers, ciphertext := b.Split()
		again, err := b.Headers()
		if err != nil || !bytes.Equal(again, headers) || len(ciphertext) != credential.MinMetadata+5+credential.TagSize {
			t.Errorf("%v: headers %x, %v; want %x, and %d bytes after them", typ, again, err, headers, len(ciphertext))
		}
	}
}

// TestText: what systemd-creds wrote is what we write.
func TestText(t *testing.T) {
	set := vectors.Load(t, vectorDir)
	n := 0
	for _, c := range set.Cases {
		if !strings.HasPrefix(c.ID, "blobs/") || strings.Contains(c.ID, " ") {
			continue
		}
		n++
		raw, err := c.Decoded()
		if err != nil {
			t.Fatal(err)
		}
		if got := credential.EncodeText(raw); !bytes.Equal(got, c.Text) {
			t.Errorf("%s: encoded as\n%s", c.ID, got)
		}
	}
	if n == 0 {
		t.Error("no vectors")
	}
}

func TestPretty(t *testing.T) {
	set := vectors.Load(t, vectorDir)
	n := 0
	for _, p := range set.Pretty {
		if strings.HasPrefix(p.Maker, "252") && strings.HasSuffix(p.File, "odd.txt") {
			continue // 252 does not escape the name
		}
		n++
		want := string(set.Read(t, p.File))
		_, value, _ := strings.Cut(want, ": \\\n")
		raw, err := credential.DecodeText([]byte(strings.ReplaceAll(value, "\\", "")))
		if err != nil {
			t.Fatal(err)
		}
		if got := string(credential.EncodePretty(p.Name, raw)); got != want {
			t.Errorf("%s: got\n%s\nwant\n%s", p.File, got, want)
		}
	}
	if n == 0 {
		t.Error("no vectors")
	}
}

func TestTextLimits(t *testing.T) {
	for _, c := range []struct {
		text []byte
		want string
	}{
		{bytes.Repeat([]byte{' '}, credential.MaxText), "ok"},
		{bytes.Repeat([]byte{' '}, credential.MaxText+1), "too-large"},
		{credential.EncodeText(make([]byte, credential.MaxBlob)), "ok"},
		{credential.EncodeText(make([]byte, credential.MaxBlob+1)), "too-large"},
	} {
		if _, err := credential.DecodeText(c.text); vectors.Class(err, nil) != c.want {
			t.Errorf("%d bytes: %v, want %s", len(c.text), err, c.want)
		}
	}
	if _, err := credential.Parse(make([]byte, credential.MaxBlob+1)); vectors.Class(err, nil) != "too-large" {
		t.Error(err)
	}
}

// TestPlaintextInstead: whoever mistakes a secret for a credential does not find
// a part of it in the log.
func TestPlaintextInstead(t *testing.T) {
	errorOf := func(text string) string {
		raw, err := credential.DecodeText([]byte(text))
		if err == nil {
			_, err = credential.Parse(raw)
		}
		if err == nil {
			t.Fatalf("%q is taken for a credential", text)
		}
		return err.Error()
	}
	for _, pair := range [][2]string{
		{"pass!word", "pass%word"},
		{"cGFzc3dvcmQgb2YgYSBzZXJ2aWNlIG9mIG91cnMh", "UGFzc3dvcmQgb2YgYSBzZXJ2aWNlIG9mIG91cnMh"}, // a key that is Base64
	} {
		if one, other := errorOf(pair[0]), errorOf(pair[1]); one != other {
			t.Errorf("%q and %q", one, other)
		}
	}
	// A type that is still to come is named.
	raw := made(t, credential.TypeHost, 0)
	copy(raw, "\xab\xcd\xef")
	if _, err := credential.Parse(raw); vectors.Class(err, nil) != "unknown-type" || !strings.Contains(err.Error(), fmt.Sprintf("%x", raw[:16])) {
		t.Error(err)
	}
}

// TestSince compares with what each version of systemd said of each vector.
func TestSince(t *testing.T) {
	set := vectors.Load(t, vectorDir)
	n := 0
	for _, c := range set.Cases {
		oldest := 0
		for version, verdict := range c.Verdicts {
			major, err := strconv.Atoi(version[:3])
			if err != nil {
				t.Fatal(err)
			}
			if verdict == "ok" && (oldest == 0 || major < oldest) {
				oldest = major
			}
		}
		raw, err := c.Decoded()
		if oldest == 0 || err != nil || strings.HasPrefix(c.ID, "text/") || strings.Contains(c.ID, " ") {
			continue
		}
		n++
		b, err := credential.Parse(raw)
		if c.Expect != "ok" {
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", c.ID, err)
		}
		if c.ID == "written/tpm2-with-pk-exp0.cred" {
			continue // the exponent cannot be told without parsing the key
		}
		if b.Since() != oldest {
			t.Errorf("%s (%v): since %d, but the oldest to open it was %d: %v", c.ID, b.Type, b.Since(), oldest, c.Verdicts)
		}
	}
	if n < 150 {
		t.Errorf("only %d vectors", n)
	}
}

func TestTypes(t *testing.T) {
	seen := make(map[string]bool)
	for _, typ := range vectors.Types {
		if seen[typ.String()] {
			t.Errorf("%v twice", typ)
		}
		seen[typ.String()] = true
		back, err := typ.Parts().Type()
		if err != nil || back != typ {
			t.Errorf("%v: parts give %v, %v", typ, back, err)
		}
	}
	for _, word := range []string{"host", "tpm2", "host+tpm2", "tpm2-with-public-key", "host+tpm2-with-public-key", "null"} {
		if !seen[word] {
			t.Errorf("--with-key=%s has no type", word)
		}
	}
	for _, parts := range []credential.Parts{
		credential.PartScope, credential.PartTPM2 | credential.PartScope, credential.PartHost | credential.PartPublicKey, credential.PartSRK,
	} {
		if typ, err := parts.Type(); vectors.Class(err, nil) != "unknown-type" {
			t.Errorf("parts %b give %v", parts, typ)
		}
	}
	if fmt.Sprint(credential.Type(0), credential.Type(99)) != "Type(0) Type(99)" {
		t.Error("invalid types are printed as valid")
	}
}

func TestValidName(t *testing.T) {
	valid := []string{"a", "step-ca", "a b", "~", ".x", "-x", "...", strings.Repeat("n", 255)}
	for c := byte(' '); c <= '~'; c++ {
		if c != ':' && c != '/' && c != '.' {
			valid = append(valid, string(rune(c)))
		}
	}
	for _, name := range valid {
		if !credential.ValidName(name) {
			t.Errorf("%q refused", name)
		}
	}
	for _, name := range []string{"", ".", "..", "a:b", "a/b", "a\x00", "\x1f", "\x7f", "ä", "\xe4", strings.Repeat("n", 256)} {
		if credential.ValidName(name) {
			t.Errorf("%q taken", name)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	raw := made(b, credential.TypeHostTPM2, 4096)
	b.ReportAllocs()
	for range b.N {
		if _, err := credential.Parse(raw); err != nil {
			b.Fatal(err)
		}
	}
}
