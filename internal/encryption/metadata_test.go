package encryption

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/bootseal/bootseal/internal/credential"
)

func metadata(nameSize uint32, rest string) []byte {
	b := binary.LittleEndian.AppendUint64(nil, 1)
	b = binary.LittleEndian.AppendUint64(b, Infinity)
	b = binary.LittleEndian.AppendUint32(b, nameSize)
	return append(b, rest...)
}

func TestMetadataSizes(t *testing.T) {
	long := strings.Repeat("n", 400)
	for _, c := range []struct {
		buf  []byte
		want error
	}{
		{metadata(0, "1234"), nil},
		{metadata(4, "name"), nil},
		{metadata(5, "names"), credential.ErrMetadata}, // its padding is missing
		{metadata(5, "names\x00\x00\x00\x00\x00\x00\x00"), nil},
		{metadata(12, "namesnamesnam"), nil},
		{metadata(13, "namesnamesnam"), credential.ErrMetadata},
		{metadata(255, long), nil},
		{metadata(256, long), credential.ErrMetadata},
		{metadata(1<<31, long), credential.ErrMetadata},
		{metadata(1<<32-1, long), credential.ErrMetadata},
		{metadata(0, "123"), credential.ErrTooShort},
	} {
		if _, err := parsePlaintext(c.buf); !errors.Is(err, c.want) {
			t.Errorf("%x: got %v, want %v", c.buf, err, c.want)
		}
	}
}

// FuzzOpen takes what comes out of the cipher apart.
func FuzzOpen(f *testing.F) {
	for _, name := range []string{"", "vector", "a/b", "name\x00"} {
		b := metadata(uint32(len(name)), name)
		b = append(b, make([]byte, align8(len(b))-len(b))...)
		f.Add(append(b, "payload"...))
		f.Add(b[:23])
	}
	f.Fuzz(func(t *testing.T, buf []byte) {
		p, err := parsePlaintext(buf)
		if err != nil {
			return
		}
		if p.Name != "" && !credential.ValidName(p.Name) {
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
