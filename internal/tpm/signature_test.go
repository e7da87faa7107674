package tpm

import (
	"errors"
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
