package credential

import (
	"encoding/binary"
	"testing"
)

// FuzzOpen takes what comes out of the cipher apart.
func FuzzOpen(f *testing.F) {
	for _, name := range []string{"", "vector", "a/b", "name\x00"} {
		b := make([]byte, metadataHeader, 64)
		binary.LittleEndian.PutUint64(b, 1735689600000000)
		binary.LittleEndian.PutUint64(b[8:], Infinity)
		binary.LittleEndian.PutUint32(b[16:], uint32(len(name)))
		b = pad8(append(b, name...))
		f.Add(append(b, "payload"...))
		f.Add(b[:23])
	}
	f.Fuzz(func(t *testing.T, buf []byte) {
		p, err := parsePlaintext(buf)
		if err != nil {
			return
		}
		if p.Name != "" && !ValidName(p.Name) {
			t.Errorf("name %q", p.Name)
		}
		if align8(metadataHeader+len(p.Name))+len(p.Payload) != len(buf) {
			t.Errorf("%d bytes of payload and a name of %d out of %d", len(p.Payload), len(p.Name), len(buf))
		}
		if p.Timestamp != Infinity && p.NotAfter != Infinity && p.Timestamp >= p.NotAfter {
			t.Errorf("timestamp %d, not after %d", p.Timestamp, p.NotAfter)
		}
	})
}
