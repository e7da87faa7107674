package tpm

import (
	"errors"
	"strings"
	"testing"

	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/internal/credential/vectors"
	"github.com/google/go-tpm/tpm2"
)

// replay is a TPM that answers what it was given: 2-byte lengths and replies.
// When they have run out it is gone.
type replay []byte

func (r *replay) Send([]byte) ([]byte, error) {
	reply, rest, err := take2B(*r, "replies")
	if err != nil {
		return nil, errors.New("no more replies")
	}
	*r = rest
	return append([]byte(nil), reply...), nil
}

// FuzzReply has hostile TPMs answer all commands of unsealing and sealing. None
// can know the session key, so nothing may ever succeed. The seeds in testdata
// are what a TPM answered.
func FuzzReply(f *testing.F) {
	set := vectors.Load(f, vectorDir)
	sigs, err := ParseSignatures(set.Read(f, "keys/sig-p1.json"))
	must(f, err)
	var blobs []*credential.Blob
	for _, file := range []string{
		"blobs/257.13/tpm2-pcr7.cred", "blobs/262/tpm2-pcr7.cred", "blobs/252.39/tpm2+pk.cred", "blobs/257.13/tpm2-pcr7-rsa.cred",
	} {
		raw, err := set.Case(f, file).Decoded()
		must(f, err)
		b, err := credential.Parse(raw)
		must(f, err)
		blobs = append(blobs, b)
	}
	f.Fuzz(func(t *testing.T, which uint8, replies []byte) {
		r := replay(replies)
		var err error
		switch n := int(which) % (len(blobs) + 2); n {
		case len(blobs):
			err = Seal(&r, bound(credential.TypeTPM2, 1<<7), secret)
		case len(blobs) + 1:
			err = Seal(&r, bound(credential.TypeTPM2Pinned, 1<<7), secret)
		default:
			var secrets [][]byte
			secrets, err = UnsealAll(&r, blobs[n:n+1], sigs)
			if secrets != nil {
				t.Error("secrets together with an error")
			}
		}
		if err == nil {
			t.Error("no error")
		} else if !errors.Is(err, ErrBank) && strings.HasPrefix(class(err), "classes") {
			t.Error(class(err))
		}
	})
}

func FuzzSignatures(f *testing.F) {
	set := vectors.Load(f, vectorDir)
	for _, file := range []string{"sig-p1.json", "sig-many.json", "sig-bad.json", "sig-nobank.json"} {
		f.Add(set.Read(f, "keys/"+file))
	}
	f.Add([]byte(`{"sha256":[{"pcrs":[24],"pkfp":"","pol":"","sig":""}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := ParseSignatures(data)
		if err != nil {
			if !errors.Is(err, ErrSignatureFile) {
				t.Error(err)
			}
			return
		}
		for _, list := range s.banks {
			for _, e := range list {
				if e.mask >= 1<<maxPCRs || len(e.pkfp) != 32 || len(e.pol) != 32 {
					t.Errorf("%+v", e)
				}
			}
		}
	})
}

func FuzzPublicKey(f *testing.F) {
	set := vectors.Load(f, vectorDir)
	f.Add(set.Read(f, "keys/pcr.pub.pem"))
	f.Add(set.Read(f, "keys/other.pub.pem"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := parsePublicKey(data)
		if err != nil {
			if !errors.Is(err, ErrPublicKey) {
				t.Error(err)
			}
			return
		}
		if n := len(s.name(s.key.E).Buffer); n != 34 {
			t.Errorf("name of %d bytes", n)
		}
	})
}

// FuzzBlob takes the TPM's parts of a credential apart: the sealed object and
// the pinned storage root key.
func FuzzBlob(f *testing.F) {
	for _, c := range vectors.Load(f, vectorDir).Cases {
		raw, err := c.Decoded()
		if err != nil || c.State == "" {
			continue
		}
		if b, err := credential.Parse(raw); err == nil {
			f.Add(b.TPM2.Blob)
			if b.SRK != nil {
				f.Add(b.SRK.Public)
			}
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if o, err := parseObject(data); err == nil {
			if len(o.private)+len(o.public)+4 != len(data) || len(o.policy) != 32 {
				t.Errorf("%+v", o)
			}
		} else if !errors.Is(err, ErrTPMBlob) {
			t.Error(err)
		}
		p, err := pinned(&credential.SRK{Public: data})
		if err != nil {
			if !errors.Is(err, credential.ErrSRK) {
				t.Error(err)
			}
			return
		}
		// A session is started only if the key can be used.
		c := &conn{t: new(replay)}
		if _, err := c.startSession(tpm2.TPMSEPolicy, p, tpm2.TPMASession{}); !errors.Is(err, ErrTransport) && !errors.Is(err, credential.ErrSRK) {
			t.Error(err)
		}
	})
}
