package tpm

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"testing"
)

func TestSignatures(t *testing.T) {
	const entry = `"pcrs":[11],"pkfp":"` + "aa000000000000000000000000000000000000000000000000000000000000aa" +
		`","pol":"` + "bb000000000000000000000000000000000000000000000000000000000000bb" + `","sig":"AAAA"`
	for _, c := range []struct {
		file    string
		entries int // -1 is refused
	}{
		{`{}`, 0},
		{`{"sha256":[]}`, 0},
		{`{"sha256":[{` + entry + `}]}`, 1},
		{`{"sha256":[{` + entry + `},{` + entry + `,"extra":1}],"sha3":5}`, 2},
		{`{"sha256":[{` + entry + `,"ref":"other"}]}`, 0},
		{`{"sha256":[{"pcrs":[11]}]}`, 0},
		{`{"SHA256":[{` + entry + `}]}`, 0},
		{`{"sha256":[{` + strings.Replace(entry, "pcrs", "PCRS", 1) + `}]}`, 0},
		{`{"sha256":[{` + strings.Replace(entry, "11", "24", 1) + `}]}`, -1},
		{`{"sha256":[{` + strings.Replace(entry, "11", "-1", 1) + `}]}`, -1},
		{`{"sha256":[{` + strings.Replace(entry, "11", "1.5", 1) + `}]}`, -1},
		{`{"sha256":[{` + strings.Replace(entry, "[11]", "11", 1) + `}]}`, -1},
		{`{"sha256":[{` + strings.Replace(entry, "aa0000", "aa", 1) + `}]}`, -1},
		{`{"sha256":[{` + strings.Replace(entry, "AAAA", "%", 1) + `}]}`, -1},
		{`{"sha256":[{` + strings.Replace(entry, "11", `"11"`, 1) + `}]}`, -1},
		{`{"sha256":{` + entry + `}}`, -1},
		{`[]`, -1},
		{``, -1},
		{`{"sha256":[]} x`, -1},
		{strings.Repeat(" ", MaxSignatureFile) + `{}`, -1},
	} {
		s, err := ParseSignatures([]byte(c.file))
		if c.entries < 0 {
			if !errors.Is(err, ErrSignatureFile) {
				t.Errorf("%.80s: %v", c.file, err)
			}
			continue
		}
		if err != nil || len(s.banks["sha256"]) != c.entries {
			t.Errorf("%.80s: %+v, %v", c.file, s, err)
		}
	}
}

func TestPublicKeys(t *testing.T) {
	for _, c := range []struct {
		bits     uint
		exponent int
		ok       bool
	}{
		{2048, 65537, true}, {1024, 3, true}, {16384, 65537, true},
		{512, 65537, false}, {1016, 65537, false}, {2047, 65537, false}, {16392, 65537, false}, {2048, 1, false},
	} {
		n := new(big.Int).Lsh(big.NewInt(1), c.bits-1)
		der, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: n.SetBit(n, 0, 1), E: c.exponent})
		must(t, err)
		s, err := parsePublicKey(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
		if c.ok && (err != nil || s.key.N.Cmp(n) != 0) || !c.ok && !errors.Is(err, ErrPublicKey) {
			t.Errorf("%d bits, exponent %d: %v", c.bits, c.exponent, err)
		}
	}
}
