package policy

import (
	"testing"

	"github.com/bootseal/bootseal/internal/credential"
)

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		typ  credential.Type
		mask uint64
		seal Seal
		want string
	}{
		{credential.TypeHost, 0, Seal{Key: KeyAuto}, ""},
		{credential.TypeHost, 0, Seal{Key: KeyNull}, ""},
		{credential.TypeNull, 0, Seal{Key: KeyNull}, ""},
		{credential.TypeNull, 0, Seal{Key: KeyAuto}, `it is sealed with the null key, which protects nothing and has to be allowed by [seal] key = "null"`},
		{credential.TypeHostTPM2Pinned, 0, Seal{Key: KeyTPM2}, ""},
		{credential.TypeHostTPM2, 0, Seal{Key: KeyHostTPM2}, ""},
		{credential.TypeTPM2, 0, Seal{Key: KeyHostTPM2}, `it is sealed with "tpm2", weaker than the "host+tpm2" of [seal]`},
		{credential.TypeHost, 0, Seal{Key: KeyTPM2}, `it is sealed with "host", weaker than the "tpm2" of [seal]`},
		{credential.TypeTPM2, 1<<7 | 1<<14, Seal{Key: KeyTPM2, PCRs: []int{7}}, ""},
		{credential.TypeTPM2, 1 << 7, Seal{Key: KeyTPM2, PCRs: []int{7, 14}}, `it is bound to PCR 7, but [seal] demands PCR 7+14`},
		{credential.TypeTPM2, 0, Seal{Key: KeyAuto, PCRs: []int{7}}, `it is bound to no PCR, but [seal] demands PCR 7`},
		{credential.TypeHost, 0, Seal{Key: KeyAuto, PCRs: []int{7}}, `it is bound to no PCR, but [seal] demands PCR 7`},
	} {
		blob := &credential.Blob{Type: c.typ}
		if c.typ.NeedsTPM2() {
			blob.TPM2 = &credential.TPM2{PCRMask: c.mask}
		}
		got := ""
		if err := c.seal.Check(blob); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%v with %b, %+v: %q; want %q", c.typ, c.mask, c.seal, got, c.want)
		}
	}
}
