package credential_test

import (
	"bytes"
	"testing"

	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/internal/credential/vectors"
)

// The seeds are the vectors, with which each ordinary test run starts.

func FuzzParse(f *testing.F) {
	for _, c := range vectors.Load(f, vectorDir).Cases {
		if raw, err := c.Decoded(); err == nil && len(raw) < 8192 {
			f.Add(raw)
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, err := credential.Parse(raw)
		if err != nil {
			if got := vectors.Class(err, nil); got != "ok" && bytes.HasPrefix([]byte(got), []byte("classes")) {
				t.Error(got)
			}
			return
		}
		if since := b.Since(); since < 250 || since > 262 {
			t.Errorf("since %d", since)
		}
		headers, ciphertext := b.Split()
		if again, err := b.Headers(); err != nil || len(again) != len(headers) || len(headers)+len(ciphertext) != len(raw) || len(ciphertext) < credential.MinMetadata+credential.TagSize {
			t.Errorf("headers of %d bytes, marshalled %d, %v, and %d after them", len(headers), len(again), err, len(ciphertext))
		}
	})
}

func FuzzDecodeText(f *testing.F) {
	for _, c := range vectors.Load(f, vectorDir).Cases {
		if len(c.Text) > 0 && len(c.Text) < 8192 {
			f.Add(c.Text)
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		raw, err := credential.DecodeText(text)
		if err != nil {
			if vectors.Class(err, nil) != "not-base64" && vectors.Class(err, nil) != "too-large" {
				t.Error(err)
			}
			return
		}
		again, err := credential.DecodeText(credential.EncodeText(raw))
		if err != nil || !bytes.Equal(again, raw) {
			t.Errorf("%x encoded and decoded is %x, %v", raw, again, err)
		}
	})
}
