package sealing

import (
	"errors"
	"math/bits"
	"strings"
	"testing"

	"github.com/bootseal/bootseal/internal/report"
)

func TestParsePCRs(t *testing.T) {
	for list, want := range map[string]uint64{
		"": 0, "+": 0, "0": 1, "7": 1 << 7, "7+14": 1<<7 | 1<<14, "14,7": 1<<7 | 1<<14, "23": 1 << 23, "0x7": 1 << 7, "7+": 1 << 7,
		"secure-boot-policy+shim-policy": 1<<7 | 1<<14, "kernel-boot": 1 << 11, "9,ima": 1<<9 | 1<<10,
	} {
		if got, err := ParsePCRs("tpm2-pcrs", list); got != want || err != nil {
			t.Errorf("%q: %#x, %v; want %#x", list, got, err, want)
		}
	}
	for _, list := range []string{"24", "-1", "x", "7 14", "7+7", "7+secure-boot-policy", "7:sha256", "Kernel-Boot", "1_1", "08", "999999999999999999999"} {
		if got, err := ParsePCRs("tpm2-pcrs", list); !errors.Is(err, report.ErrUsage) {
			t.Errorf("%q: %#x, %v; want a usage error", list, got, err)
		}
	}
}

func FuzzParsePCRs(f *testing.F) {
	f.Add("7+14,23")
	f.Fuzz(func(t *testing.T, list string) {
		mask, err := ParsePCRs("tpm2-pcrs", list)
		if err == nil && (bits.Len64(mask) > 24 || mask == 0 != (strings.Trim(list, "+,") == "")) {
			t.Errorf("%q became %#x", list, mask)
		}
	})
}
