package credential_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/internal/credential/vectors"
)

// classes are the manifest's words for our errors.
var classes = []struct {
	err   error
	class string
}{
	{credential.ErrNotBase64, "not-base64"},
	{credential.ErrTooLarge, "too-large"},
	{credential.ErrTooShort, "too-short"},
	{credential.ErrUnknownType, "unknown-type"},
	{credential.ErrScopeMismatch, "scope-mismatch"},
	{credential.ErrKeySize, "bad-key-size"},
	{credential.ErrBlockSize, "bad-block-size"},
	{credential.ErrIVSize, "bad-iv-size"},
	{credential.ErrTagSize, "bad-tag-size"},
	{credential.ErrPCRMask, "pcr-mask-range"},
	{credential.ErrPCRBank, "pcr-bank-invalid"},
	{credential.ErrPrimaryAlg, "primary-alg-invalid"},
	{credential.ErrTPMBlobSize, "bad-tpm-blob-size"},
	{credential.ErrPolicyHashSize, "bad-policy-hash-size"},
	{credential.ErrPublicKeySize, "bad-pk-size"},
	{credential.ErrSRKSize, "bad-srk-size"},
	{credential.ErrSRK, "bad-srk"},
	{credential.ErrScopeFlags, "bad-scope-flags"},
	{credential.ErrNoKey, "no-key"},
	{credential.ErrAuth, "auth-failed"},
	{credential.ErrTimestamps, "bad-timestamps"},
	{credential.ErrMetadata, "bad-metadata"},
	{credential.ErrName, "bad-name"},
	{credential.ErrNameMismatch, "name-mismatch"},
	{credential.ErrExpired, "expired"},
}

func class(err error) string {
	if err == nil {
		return "ok"
	}
	var found []string
	for _, c := range classes {
		if errors.Is(err, c.err) {
			found = append(found, c.class)
		}
	}
	if len(found) != 1 {
		return "classes " + strings.Join(found, ",") + ": " + err.Error()
	}
	return found[0]
}

func open(c vectors.Case, hostKey []byte) (*credential.Blob, *credential.Plaintext, error) {
	raw, err := c.Decoded()
	if err != nil {
		return nil, nil, err
	}
	b, err := credential.Parse(raw)
	if err != nil {
		return nil, nil, err
	}
	p, err := b.Open(credential.Keys{Host: hostKey, Scope: c.Scope})
	if err != nil {
		return b, nil, err
	}
	return b, p, p.Check(c.Name, c.Now)
}

// TestVectors opens all vectors that need no TPM; internal/tpm has the others.
func TestVectors(t *testing.T) {
	set := vectors.Load(t, "testdata/vectors")
	n := 0
	for _, c := range set.Cases {
		if c.State != "" {
			continue
		}
		n++
		t.Run(c.ID, func(t *testing.T) {
			b, p, err := open(c, set.HostKey)
			if got := class(err); got != c.Expect {
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
