package encryption_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/internal/credential/vectors"
	"github.com/bootseal/bootseal/internal/encryption"
)

func open(c vectors.Case, hostKey []byte) (*credential.Blob, *encryption.Plaintext, error) {
	raw, err := c.Decoded()
	if err != nil {
		return nil, nil, err
	}
	b, err := credential.Parse(raw)
	if err != nil {
		return nil, nil, err
	}
	p, err := encryption.Open(b, encryption.Keys{Host: hostKey, Scope: c.Scope})
	if err != nil {
		return b, nil, err
	}
	return b, p, p.Check(c.Name, c.Now)
}

// TestVectors opens all vectors that need no TPM; internal/tpm has the others.
func TestVectors(t *testing.T) {
	set := vectors.Load(t, vectorDir)
	n := 0
	for _, c := range set.Cases {
		if c.State != "" {
			continue
		}
		n++
		t.Run(c.ID, func(t *testing.T) {
			b, p, err := open(c, set.HostKey)
			if got := vectors.Class(err, nil); got != c.Expect {
				t.Fatalf("got %s (%v), want %s", got, err, c.Expect)
			}
			if err != nil {
				if strings.ContainsAny(err.Error(), "\n") {
					t.Errorf("error of several lines: %q", err)
				}
				return
			}
			if c.Payload != nil && !bytes.Equal(p.Payload, c.Payload) {
				t.Errorf("payload of %d bytes is not the expected one", len(p.Payload))
			}
			if c.Type != "" && b.Type.String() != c.Type {
				t.Errorf("type %v, want %s", b.Type, c.Type)
			}
			if c.Timestamp != nil && p.Timestamp != *c.Timestamp {
				t.Errorf("timestamp %d, want %d", p.Timestamp, *c.Timestamp)
			}
			if c.NotAfter != nil && p.NotAfter != *c.NotAfter {
				t.Errorf("not-after %d, want %d", p.NotAfter, *c.NotAfter)
			}
		})
	}
	if n < 150 {
		t.Errorf("only %d vectors", n)
	}
}

// FuzzKeys: nothing but what everybody can make opens without its keys. The seeds
// are the vectors.
func FuzzKeys(f *testing.F) {
	for _, c := range vectors.Load(f, vectorDir).Cases {
		if raw, err := c.Decoded(); err == nil && len(raw) < 8192 {
			f.Add(raw)
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, err := credential.Parse(raw)
		if err != nil {
			return
		}
		_, k := blobOf(b.Type)
		if _, err := encryption.Open(b, k); err == nil && b.Type != credential.TypeNull {
			t.Error("opened without its keys")
		}
	})
}
