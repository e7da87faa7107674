package tpm

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/internal/credential/vectors"
)

// TestPolicyMet asks of every vector that systemd 262 opens, or refuses for its
// policy, whether PolicyMet says the same without unsealing.
func TestPolicyMet(t *testing.T) {
	set := vectors.Load(t, vectorDir)
	type machine struct{ state, profile string }
	tpms := map[machine]*swtpm{}
	counts := map[string]int{}
	for _, c := range set.Cases {
		switch c.Expect {
		case "ok", "tpm-policy-mismatch", "no-pcr-signature-file", "no-matching-pcr-signature":
		default:
			continue
		}
		if c.State == "" {
			continue
		}
		raw, err := c.Decoded()
		must(t, err)
		b, err := credential.Parse(raw)
		if err != nil {
			continue // stricter than systemd
		}
		if !b.Type.NeedsTPM2() {
			continue
		}
		if _, err := parseObject(b.TPM2.Blob); err != nil {
			continue
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
		m := machine{c.State, c.Profile}
		if tpms[m] == nil {
			tpms[m] = startTPM(t, c.State, c.Profile)
		}
		if got := class(PolicyMet(Retry(tpms[m]), b, sigs)); got != c.Expect {
			t.Errorf("%s: got %s, want %s", c.ID, got, c.Expect)
		}
		if b.Type.PinnedSRK() && c.Expect == "ok" {
			here, err := PinnedHere(Retry(tpms[m]), b)
			if err != nil || !here {
				t.Errorf("%s: pinned to another TPM, %v", c.ID, err)
			}
		}
		tpms[m].checkClean()
		counts[c.Expect]++
	}
	if counts["ok"] < 50 || counts["tpm-policy-mismatch"] == 0 || counts["no-matching-pcr-signature"] == 0 {
		t.Errorf("too few vectors: %v", counts)
	}
}
