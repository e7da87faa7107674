package tpm

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/internal/credential/vectors"
	"github.com/bootseal/bootseal/internal/encryption"
	"github.com/google/go-tpm/tpm2/transport"
)

// class is the manifest's word for an error, of this package, too.
func class(err error) string {
	return vectors.Class(err, map[error]string{
		ErrLockout:        "tpm-lockout",
		ErrOwnerAuth:      "tpm-owner-auth",
		ErrForeignKey:     "tpm-foreign-key",
		ErrPolicyMismatch: "tpm-policy-mismatch",
		ErrTPMBlob:        "bad-tpm-blob",
		ErrPublicKey:      "bad-pk",
		ErrNoSignatures:   "no-pcr-signature-file",
		ErrNoSignature:    "no-matching-pcr-signature",
		ErrSignature:      "pcr-signature-invalid",
		ErrNoSRK:          "tpm-error",
		ErrTPM:            "tpm-error",
		ErrBusy:           "busy",
		ErrBadReply:       "bad-reply",
		ErrTransport:      "transport",
	})
}

// stricter are the damaged credentials that we refuse for another reason than
// systemd 262 does, keyed by the slug of the manifest.
var stricter = map[string]struct{ class, why string }{
	"iv_size=0":                   {"bad-iv-size", "judged with the main header, before all others"},
	"blob_size=0":                 {"bad-tpm-blob-size", "judged before the fields behind it are misread"},
	"blob_size=1":                 {"bad-tpm-blob", "taken apart here, not by the TPM"},
	"blob_size=239":               {"bad-tpm-blob", "taken apart here, not by the TPM"},
	"blob_size=241":               {"bad-tpm-blob", "the exact end is required"},
	"tpm-private-size-flip":       {"bad-tpm-blob", "taken apart here, not by the TPM"},
	"tpm-public-size-flip":        {"bad-tpm-blob", "taken apart here, not by the TPM"},
	"tpm-public-type-flip":        {"bad-tpm-blob", "only sealed objects are loaded"},
	"policy_hash_size=0":          {"bad-policy-hash-size", "only SHA-256 policies exist"},
	"policy_hash_size=1":          {"bad-policy-hash-size", "only SHA-256 policies exist"},
	"policy_hash_size=31":         {"bad-policy-hash-size", "only SHA-256 policies exist"},
	"policy_hash_size=33":         {"bad-policy-hash-size", "only SHA-256 policies exist"},
	"pcr_mask=0x100000000":        {"pcr-mask-range", "all 64 bits are checked"},
	"pcr_mask=0x8000000000000000": {"pcr-mask-range", "all 64 bits are checked"},
	"pk_pcr_mask=0x10000000000":   {"pcr-mask-range", "all 64 bits are checked"},
	"pk_size=0":                   {"bad-pk-size", "systemd dies on an assertion or misreads what follows"},
	"pk_size=1":                   {"bad-scope-flags", "the scope header is read before the PEM is parsed"},
	"srk_size=0":                  {"bad-srk-size", "systemd falls back to the legacy primary key"},
	"srk_size=135":                {"bad-srk", "taken apart here"},
	"srk_size=137":                {"bad-srk", "trailing bytes in the record"},
	"srk-handle-flip":             {"bad-srk", "only the handle of the storage root key is taken"},
	"srk-name-flip":               {"bad-srk", "the name must be the digest of the public area"},
	"srk-public-point-flip":       {"bad-srk", "the name must be the digest of the public area"},
	"srk-public-attr-flip":        {"bad-srk", "the name must be the digest of the public area"},
	"pk-bad-signature":            {"pcr-signature-invalid", "262 calls every failed verification a TPM error"},
}

// open reads a case as systemd-creds would.
func open(t testing.TB, tpm transport.TPM, set *vectors.Set, c vectors.Case) (*encryption.Plaintext, error) {
	raw, err := c.Decoded()
	if err != nil {
		return nil, err
	}
	b, err := credential.Parse(raw)
	if err != nil {
		return nil, err
	}
	var sigs *Signatures
	if c.Signature != "" {
		data, err := os.ReadFile(filepath.Join(set.Dir, "keys", c.Signature))
		if !errors.Is(err, os.ErrNotExist) {
			must(t, err)
			sigs, err = ParseSignatures(data)
			must(t, err)
		}
	}
	secrets, err := UnsealAll(tpm, []*credential.Blob{b}, sigs)
	if err != nil {
		return nil, err
	}
	p, err := encryption.Open(b, encryption.Keys{Host: set.HostKey, TPM2: secrets[0], Scope: c.Scope})
	if err != nil {
		return nil, err
	}
	return p, p.Check(c.Name, c.Now)
}

func TestVectors(t *testing.T) {
	set := vectors.Load(t, vectorDir)
	type machine struct{ state, profile string }
	cases := make(map[machine][]vectors.Case)
	n := 0
	for _, c := range set.Cases {
		if c.State != "" {
			m := machine{c.State, c.Profile}
			cases[m] = append(cases[m], c)
			n++
		}
	}
	if n < 300 {
		t.Errorf("only %d vectors", n)
	}
	for m, list := range cases {
		t.Run(m.state+" "+m.profile, func(t *testing.T) {
			tpm := startTPM(t, m.state, m.profile)
			for _, c := range list {
				t.Run(c.ID, func(t *testing.T) { testVector(t, tpm, set, c) })
			}
		})
	}
}

func testVector(t *testing.T, tpm *swtpm, set *vectors.Set, c vectors.Case) {
	p, err := open(t, Retry(tpm), set, c)
	tpm.checkClean()
	slug := c.ID[strings.LastIndexByte(c.ID, ' ')+1:]
	if got := class(err); got != c.Expect && got != stricter[slug].class {
		t.Fatalf("got %s (%v), want %s", got, err, c.Expect)
	}
	if err != nil {
		if c.Expect == "ok" {
			t.Errorf("refused: %v", err)
		}
		return
	}
	if c.Expect != "ok" {
		t.Fatal("opened")
	}
	if c.Payload != nil && !bytes.Equal(p.Payload, c.Payload) {
		t.Errorf("payload of %d bytes is not the expected one", len(p.Payload))
	}
	if c.Timestamp != nil && p.Timestamp != *c.Timestamp {
		t.Errorf("timestamp %d, want %d", p.Timestamp, *c.Timestamp)
	}
}
