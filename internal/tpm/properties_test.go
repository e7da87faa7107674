package tpm

import (
	"strconv"
	"strings"
	"testing"
)

func TestReadProperties(t *testing.T) {
	tpm := startTPM(t, "a", "")
	p, err := ReadProperties(Retry(tpm))
	must(t, err)
	tpm.checkClean()
	// swtpm is built on IBM's reference code.
	if p.Manufacturer != "IBM" || !strings.Contains(p.Vendor, "SW") || !p.AESCFB || p.OwnerAuthSet || p.InLockout || p.LockoutCounter != 0 || p.MaxAuthFail == 0 {
		t.Errorf("%+v", p)
	}
	parts := strings.Split(p.Firmware, ".")
	if len(parts) != 4 {
		t.Fatalf("firmware %q", p.Firmware)
	}
	year, err := strconv.Atoi(parts[0]) // 0x20yy of the date of the library
	if err != nil || year < 0x2010 || year > 0x2040 {
		t.Errorf("firmware %q", p.Firmware)
	}
}

func FuzzCharacters(f *testing.F) {
	f.Add(uint32(0x49424d00))
	f.Fuzz(func(t *testing.T, value uint32) {
		for _, r := range characters(value) {
			if r < ' ' || r > '~' {
				t.Errorf("%q in 0x%x", r, value)
			}
		}
	})
}
