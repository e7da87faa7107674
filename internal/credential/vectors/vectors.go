// Package vectors reads ../testdata/vectors for tests: credentials made by real
// systemd-creds binaries, and what those say to each (see the README.md there).
package vectors

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/internal/encryption"
)

// Types is section 2.6 of doc/credential-format.md.
var Types = []credential.Type{
	credential.TypeHost, credential.TypeHostScoped, credential.TypeTPM2, credential.TypeTPM2PublicKey,
	credential.TypeHostTPM2, credential.TypeHostTPM2Scoped, credential.TypeHostTPM2PublicKey,
	credential.TypeHostTPM2PublicKeyScoped, credential.TypeTPM2Pinned, credential.TypeTPM2PublicKeyPinned,
	credential.TypeHostTPM2Pinned, credential.TypeHostTPM2ScopedPinned, credential.TypeHostTPM2PublicKeyPinned,
	credential.TypeHostTPM2PublicKeyScopedPinned, credential.TypeNull,
}

// A Case is a credential, the circumstances it is read under, and the verdict.
type Case struct {
	ID        string
	Text      []byte // the file; nil if Blob is given
	Blob      []byte
	Type      string // "" is not known
	Name      string // asked for; "" is none
	Now       uint64
	State     string // TPM: "a" or "b"; "" is none
	Profile   string // PCR extends
	Signature string // file in keys/; "" is none
	Scope     *encryption.Scope
	Expect    string // class of systemd 262
	Payload   []byte // where Expect is "ok"; nil is not known
	Timestamp *uint64
	NotAfter  *uint64
	Verdicts  map[string]string // class by version of systemd
}

// Set is everything in the folder.
type Set struct {
	Dir      string
	HostKey  []byte
	Cases    []Case
	Pretty   []Pretty
	Profiles map[string]struct {
		Events []struct {
			PCR     int
			Digests map[string]string // bank to hex
		}
	}
}

// Pretty is the output of systemd-creds encrypt --pretty.
type Pretty struct {
	File, Maker, Name string
}

type vector struct {
	File, Base, Blob, Slug, Type string
	Name                         *string
	TimestampUsec                *uint64 `json:"timestamp_usec"`
	NotAfterUsec                 *uint64 `json:"not_after_usec"`
	Payload                      string
	PayloadHex                   *string `json:"payload_hex"`
	TPM                          *struct{ State, Profile string }
	UID                          *uint32
	User                         *string
	Patch                        [][2]any
	Truncate                     *int
	AppendHex                    string `json:"append_hex"`
	Changed                      map[string]any
	Expect                       string
	Verdicts                     map[string]string
}

// Load reads the folder; dir is its path from the test's folder.
func Load(t testing.TB, dir string) *Set {
	t.Helper()
	s := &Set{Dir: dir}
	var manifest struct {
		MachineID                                                  string `json:"machine_id"`
		Users                                                      map[string]uint32
		Now                                                        uint64 `json:"validation_time_usec"`
		Vectors, Crafted, Written, Text, Large, Corrupt, Scenarios []vector
		Pretty                                                     []Pretty
	}
	unmarshal(t, s.Read(t, "manifest.json"), &manifest)
	unmarshal(t, s.Read(t, "tpm/profiles.json"), &s.Profiles)
	s.HostKey = s.Read(t, "host/credential.secret")[16:]
	s.Pretty = manifest.Pretty
	machine, err := hex.DecodeString(manifest.MachineID)
	check(t, err)
	user := func(name string) *encryption.Scope {
		return &encryption.Scope{UID: manifest.Users[name], User: name, MachineID: [16]byte(machine)}
	}
	byFile := make(map[string]Case)
	fromFile := func(v vector) Case {
		c := Case{ID: v.File, Text: s.Read(t, v.File), Now: manifest.Now, Signature: "sig-p1.json",
			Type:   strings.ReplaceAll(v.Type, "-with-pk", "-with-public-key"),
			Expect: v.Expect, Verdicts: v.Verdicts, Timestamp: v.TimestampUsec, NotAfter: v.NotAfterUsec}
		if v.Name != nil {
			c.Name = *v.Name
		}
		if v.TPM != nil {
			c.State, c.Profile = v.TPM.State, v.TPM.Profile
		}
		if v.User != nil {
			c.Scope = user(*v.User)
		}
		switch n, counted := strings.CutPrefix(v.Payload, "ctr:"); {
		case counted:
			var size int
			check(t, json.Unmarshal([]byte(n), &size))
			c.Payload = Counter(size)
		case v.PayloadHex != nil:
			c.Payload, err = hex.DecodeString(*v.PayloadHex)
			check(t, err)
		}
		return c
	}
	for _, list := range [][]vector{manifest.Vectors, manifest.Crafted, manifest.Written, manifest.Text, manifest.Large} {
		for _, v := range list {
			if v.File == "" { // too large to be shipped
				continue
			}
			c := fromFile(v)
			byFile[v.File] = c
			s.Cases = append(s.Cases, c)
		}
	}
	for _, v := range manifest.Corrupt {
		c := byFile[v.Base]
		c.ID = v.Base + " " + v.Slug
		c.Expect, c.Verdicts, c.Payload, c.Type = v.Expect, v.Verdicts, nil, ""
		blob, err := credential.DecodeText(c.Text)
		check(t, err)
		c.Text = nil
		for _, p := range v.Patch {
			bytes, err := hex.DecodeString(p[1].(string))
			check(t, err)
			copy(blob[int(p[0].(float64)):], bytes)
		}
		if v.Truncate != nil {
			blob = blob[:*v.Truncate]
		}
		tail, err := hex.DecodeString(v.AppendHex)
		check(t, err)
		c.Blob = append(blob, tail...)
		s.Cases = append(s.Cases, c)
	}
	for _, v := range manifest.Scenarios {
		c := byFile[v.Blob]
		c.ID = v.Blob + " " + v.Slug
		c.Expect, c.Verdicts = v.Expect, v.Verdicts
		for key, value := range v.Changed {
			text, _ := value.(string)
			switch key {
			case "name":
				c.Name = text
			case "time":
				at, err := time.Parse("2006-01-02 15:04:05 MST", text)
				check(t, err)
				c.Now = uint64(at.UnixMicro())
			case "prof":
				c.Profile = text
			case "state":
				c.State = strings.TrimSuffix(text, "x")
			case "sig":
				c.Signature = text
			case "user":
				c.Scope = nil
				if text != "" {
					c.Scope = user(text)
				}
			case "env": // below: it prevails
			default:
				t.Fatalf("%s: unknown change %q", c.ID, key)
			}
		}
		environment, _ := v.Changed["env"].(map[string]any)
		for variable := range environment {
			switch variable {
			case "SYSTEMD_CREDENTIAL_VALIDATE_NAME":
				c.Name = ""
			case "SYSTEMD_CREDENTIAL_VALIDATE_NOT_AFTER":
				c.Now = 0
			default:
				t.Fatalf("%s: unknown variable %s", c.ID, variable)
			}
		}
		s.Cases = append(s.Cases, c)
	}
	return s
}

// Read reads a file of the folder.
func (s *Set) Read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(s.Dir, name))
	check(t, err)
	return b
}

// Case returns the case of a file.
func (s *Set) Case(t testing.TB, id string) Case {
	t.Helper()
	for _, c := range s.Cases {
		if c.ID == id {
			return c
		}
	}
	t.Fatalf("no vector %s", id)
	return Case{}
}

// Decoded returns the case's binary credential.
func (c Case) Decoded() ([]byte, error) {
	if c.Text == nil {
		return c.Blob, nil
	}
	return credential.DecodeText(c.Text)
}

// Counter is the payload "ctr:N" of the manifest.
func Counter(n int) []byte {
	var out []byte
	for i := uint64(0); len(out) < n; i++ {
		block := sha256.Sum256(binary.BigEndian.AppendUint64([]byte("systemd-credential-vector"), i))
		out = append(out, block[:]...)
	}
	return out[:n]
}

// classes are the manifest's words for the errors of package credential.
var classes = map[error]string{
	credential.ErrNotBase64:      "not-base64",
	credential.ErrTooLarge:       "too-large",
	credential.ErrTooShort:       "too-short",
	credential.ErrUnknownType:    "unknown-type",
	credential.ErrScopeMismatch:  "scope-mismatch",
	credential.ErrKeySize:        "bad-key-size",
	credential.ErrBlockSize:      "bad-block-size",
	credential.ErrIVSize:         "bad-iv-size",
	credential.ErrTagSize:        "bad-tag-size",
	credential.ErrPCRMask:        "pcr-mask-range",
	credential.ErrPCRBank:        "pcr-bank-invalid",
	credential.ErrPrimaryAlg:     "primary-alg-invalid",
	credential.ErrTPMBlobSize:    "bad-tpm-blob-size",
	credential.ErrPolicyHashSize: "bad-policy-hash-size",
	credential.ErrPublicKeySize:  "bad-pk-size",
	credential.ErrSRKSize:        "bad-srk-size",
	credential.ErrSRK:            "bad-srk",
	credential.ErrScopeFlags:     "bad-scope-flags",
	credential.ErrNoKey:          "no-key",
	credential.ErrAuth:           "auth-failed",
	credential.ErrTimestamps:     "bad-timestamps",
	credential.ErrMetadata:       "bad-metadata",
	credential.ErrName:           "bad-name",
	credential.ErrNameMismatch:   "name-mismatch",
	credential.ErrExpired:        "expired",
}

// Class is the manifest's word for what became of a credential: "ok" without an
// error. The words for errors of other packages are in more. What is none of them, or
// several, gives "classes " and all that it is.
func Class(err error, more map[error]string) string {
	if err == nil {
		return "ok"
	}
	var found []string
	for _, known := range []map[error]string{classes, more} {
		for cause, class := range known {
			if errors.Is(err, cause) {
				found = append(found, class)
			}
		}
	}
	if len(found) != 1 {
		return "classes " + strings.Join(found, ",") + ": " + err.Error()
	}
	return found[0]
}

func unmarshal(t testing.TB, data []byte, v any) {
	t.Helper()
	check(t, json.Unmarshal(data, v))
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
