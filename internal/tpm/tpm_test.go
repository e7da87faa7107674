package tpm

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/internal/credential/vectors"
	"github.com/bootseal/bootseal/internal/encryption"
	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

var secret = []byte("thirty-two bytes that are secret")

// seal seals secret for a type of credential to a TPM.
func seal(t *testing.T, tpm transport.TPM, b *credential.Blob) *credential.Blob {
	t.Helper()
	must(t, Seal(Retry(tpm), b, secret))
	return b
}

func bound(typ credential.Type, mask uint64) *credential.Blob {
	return &credential.Blob{Type: typ, TPM2: &credential.TPM2{PCRMask: mask}}
}

func unseal(t *testing.T, tpm transport.TPM, b *credential.Blob, sigs *Signatures) {
	t.Helper()
	secrets, err := UnsealAll(Retry(tpm), []*credential.Blob{b}, sigs)
	must(t, err)
	if !bytes.Equal(secrets[0], secret) {
		t.Errorf("unsealed %x", secrets[0])
	}
}

// newSigner makes a key for PCR policies.
func newSigner(t *testing.T) (*rsa.PrivateKey, *credential.PublicKey) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	must(t, err)
	return key, &credential.PublicKey{
		PCRMask: 1 << 11,
		PEM:     pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}),
	}
}

// sign signs the PCR values that the TPM has now.
func sign(t *testing.T, tpm *swtpm, key *rsa.PrivateKey, mask uint64) *Signatures {
	t.Helper()
	c := &conn{t: sendFunc(tpm.raw)}
	values, err := c.readPCRs(credential.AlgSHA256, mask)
	must(t, err)
	pol := policyPCR(make([]byte, 32), credential.AlgSHA256, mask, inOrder(values, mask))
	digest := sha256.Sum256(pol)
	sig, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, digest[:])
	must(t, err)
	fp := sha256.Sum256(x509.MarshalPKCS1PublicKey(&key.PublicKey))
	file, err := json.Marshal(map[string]any{"sha256": []map[string]any{{
		"pcrs": credential.PCRs(mask), "pkfp": fmt.Sprintf("%x", fp), "pol": fmt.Sprintf("%x", pol), "sig": sig,
	}}})
	must(t, err)
	sigs, err := ParseSignatures(file)
	must(t, err)
	return sigs
}

// refuseECC makes a TPM without elliptic curves.
func refuseECC(command []byte) ([]byte, error) {
	if commandOf(command) == tpm2.TPMCCCreatePrimary && bytes.Contains(command, []byte{0, 0x23, 0, 0x0b}) {
		return refusal(0x2CA), nil // TPM_RC_TYPE, parameter 2
	}
	return nil, nil
}

func TestSealThenUnseal(t *testing.T) {
	key, public := newSigner(t)
	for _, typ := range []credential.Type{
		credential.TypeTPM2, credential.TypeTPM2PublicKey, credential.TypeTPM2Pinned, credential.TypeTPM2PublicKeyPinned,
	} {
		for _, mask := range []uint64{0, 1 << 7, 1<<7 | 1<<11 | 1<<14} {
			for _, alg := range []uint16{credential.AlgECC, credential.AlgRSA} {
				t.Run(fmt.Sprint(typ, " ", credential.PCRs(mask), " ", alg), func(t *testing.T) {
					tpm := startTPM(t, "", "p1")
					if alg == credential.AlgRSA {
						tpm.before = refuseECC
					}
					b := bound(typ, mask)
					b.PublicKey = public
					seal(t, tpm, b)
					if b.TPM2.PrimaryAlg != alg || b.TPM2.PCRBank != credential.AlgSHA256 || b.TPM2.PCRMask != mask {
						t.Errorf("header %+v", b.TPM2)
					}
					if mask == 0 && typ == credential.TypeTPM2 && !bytes.Equal(b.TPM2.PolicyHash, make([]byte, 32)) {
						t.Errorf("policy of no PCRs is %x", b.TPM2.PolicyHash)
					}
					if len(b.TPM2.Blob) != 240 || binary.BigEndian.Uint32(b.TPM2.Blob[166:]) != 0x412 {
						t.Errorf("blob %x", b.TPM2.Blob)
					}
					raw, err := encryption.Seal(b, encryption.Keys{TPM2: secret}, &encryption.Plaintext{NotAfter: encryption.Infinity, Timestamp: 1})
					must(t, err)
					parsed, err := credential.Parse(raw)
					must(t, err)
					sigs := sign(t, tpm, key, public.PCRMask)
					unseal(t, tpm, parsed, sigs)
					if bytes.Contains(tpm.wire, secret) {
						t.Error("the secret crossed the bus in the clear")
					}

					tpm.measure(7)
					_, err = UnsealAll(Retry(tpm), []*credential.Blob{parsed}, sigs)
					if mask&(1<<7) == 0 {
						must(t, err)
					} else if class(err) != "tpm-policy-mismatch" {
						t.Errorf("with another PCR 7: %v", err)
					}
					if typ.HasPublicKey() && mask&(1<<11) == 0 && mask&(1<<7) == 0 {
						tpm.measure(11)
						if _, err = UnsealAll(Retry(tpm), []*credential.Blob{parsed}, sigs); class(err) != "no-matching-pcr-signature" {
							t.Errorf("with another PCR 11: %v", err)
						}
						unseal(t, tpm, parsed, sign(t, tpm, key, public.PCRMask))
					}
				})
			}
		}
	}
}

// TestCommands counts what the TPM is asked for. UnsealAll shows that beside what
// systemd-creds sends.
func TestCommands(t *testing.T) {
	tpm := startTPM(t, "a", "p1")
	set := vectors.Load(t, vectorDir)
	sigs, err := ParseSignatures(set.Read(t, "keys/sig-p1.json"))
	must(t, err)
	for _, c := range []struct {
		typ      credential.Type
		mask     uint64
		n        int
		commands int
	}{
		{credential.TypeTPM2, 1 << 7, 1, 7},
		{credential.TypeTPM2, 1 << 7, 10, 43},
		{credential.TypeTPM2, 0, 1, 6},
		{credential.TypeTPM2, 0, 10, 33},
		{credential.TypeTPM2Pinned, 1 << 7, 1, 5},
		{credential.TypeTPM2Pinned, 1 << 7, 10, 41},
		{credential.TypeTPM2Pinned, 0, 1, 4},
		{credential.TypeTPM2Pinned, 0, 10, 31},
		{credential.TypeTPM2PublicKey, 0, 1, 12},
		{credential.TypeTPM2PublicKey, 0, 10, 93},
		{credential.TypeTPM2PublicKey, 1 << 7, 1, 13},
		{credential.TypeTPM2PublicKey, 1 << 7, 10, 103},
		{credential.TypeTPM2PublicKeyPinned, 0, 1, 10},
		{credential.TypeTPM2PublicKeyPinned, 0, 10, 91},
		{credential.TypeTPM2PublicKeyPinned, 1 << 7, 1, 11},
		{credential.TypeTPM2PublicKeyPinned, 1 << 7, 10, 101},
	} {
		t.Run(fmt.Sprint(c.typ, " ", credential.PCRs(c.mask), " ", c.n), func(t *testing.T) {
			blobs := make([]*credential.Blob, c.n)
			for i := range blobs {
				b := bound(c.typ, c.mask)
				if c.typ.HasPublicKey() {
					b.PublicKey = &credential.PublicKey{PCRMask: 1 << 11, PEM: set.Read(t, "keys/pcr.pub.pem")}
				}
				blobs[i] = seal(t, tpm, b)
			}
			tpm.sent = nil
			secrets, err := UnsealAll(tpm, blobs, sigs) // no Retry: each is sent once
			must(t, err)
			for _, s := range secrets {
				if !bytes.Equal(s, secret) {
					t.Errorf("unsealed %x", s)
				}
			}
			if len(tpm.sent) != c.commands {
				t.Errorf("%d commands, want %d: %x", len(tpm.sent), c.commands, tpm.sent)
			}
			tpm.checkClean()
		})
	}
}

// TestMixed unseals, in one call, what different writers made for different
// parents, banks and policies.
func TestMixed(t *testing.T) {
	set := vectors.Load(t, vectorDir)
	tpm := startTPM(t, "a", "p1")
	var blobs []*credential.Blob
	var cases []vectors.Case
	for _, file := range []string{
		"blobs/257.13/tpm2-pcr7.cred", "blobs/257.13/host.cred", "blobs/262/tpm2-pcr7.cred", "blobs/252.39/tpm2+pk.cred",
		"blobs/255.4/host+tpm2-pcr7.cred", "blobs/262/tpm2+pk.cred", "written/host+tpm2-with-pk-scoped-exp0.cred", "blobs/257.13/tpm2-nopcr.cred",
	} {
		c := set.Case(t, file)
		raw, err := c.Decoded()
		must(t, err)
		b, err := credential.Parse(raw)
		must(t, err)
		blobs, cases = append(blobs, b), append(cases, c)
	}
	rsa := bound(credential.TypeTPM2, 1<<14)
	tpm.before = refuseECC
	blobs = append(blobs, seal(t, tpm, rsa))
	tpm.before = nil
	sha1 := bound(credential.TypeTPM2, 1<<7)
	sha1.TPM2.PCRBank = credential.AlgSHA1
	blobs = append(blobs, seal(t, tpm, sha1))

	sigs, err := ParseSignatures(set.Read(t, "keys/sig-p1.json"))
	must(t, err)
	secrets, err := UnsealAll(Retry(tpm), blobs, sigs)
	must(t, err)
	for i, c := range cases {
		p, err := encryption.Open(blobs[i], encryption.Keys{Host: set.HostKey, TPM2: secrets[i], Scope: c.Scope})
		if err != nil || !bytes.Equal(p.Payload, c.Payload) {
			t.Errorf("%s: %v", c.ID, err)
		}
	}
	if secrets[1] != nil {
		t.Error("a secret from the TPM for a credential that needs none")
	}
	for _, s := range secrets[len(cases):] {
		if !bytes.Equal(s, secret) {
			t.Errorf("unsealed %x", s)
		}
	}
}

// TestEveryBit flips each bit of credentials and has the TPM try to open them.
func TestEveryBit(t *testing.T) {
	set := vectors.Load(t, vectorDir)
	tpm := startTPM(t, "a", "p1")
	for _, file := range []string{"blobs/257.13/tpm2-pcr7.cred", "blobs/262/host+tpm2-pcr7.cred"} {
		c := set.Case(t, file)
		raw, err := c.Decoded()
		must(t, err)
		c.Text, c.Blob = nil, raw
		if _, err := open(t, Retry(tpm), set, c); err != nil {
			t.Fatal("before any flip: ", err)
		}
		for bit := range 8 * len(raw) {
			raw[bit/8] ^= 1 << (bit % 8)
			if _, err := open(t, Retry(tpm), set, c); err == nil || strings.HasPrefix(class(err), "classes") {
				t.Errorf("%s with bit %d of byte %d flipped: %v", file, bit%8, bit/8, err)
			}
			raw[bit/8] ^= 1 << (bit % 8)
		}
		tpm.checkClean()
	}
}

func TestBanks(t *testing.T) {
	for _, c := range []struct {
		profile string
		mask    uint64
		want    uint16
		bank    uint16 // 0 is refused
	}{
		{"p1", 1 << 7, 0, credential.AlgSHA256},
		{"p1", 1<<7 | 1<<3, 0, credential.AlgSHA256},
		{"p1", 1 << 7, credential.AlgSHA1, credential.AlgSHA1},
		{"sha1only", 1 << 7, 0, credential.AlgSHA1},
		{"sha384only", 1 << 7, 0, credential.AlgSHA384},
		{"sha1only", 1 << 7, credential.AlgSHA256, 0},
		{"zero", 1 << 7, 0, 0},
		{"p1", 1 << 3, 0, 0},
		{"p1", 1 << 17, 0, 0}, // all ones
		{"zero", 0, 0, credential.AlgSHA256},
	} {
		t.Run(fmt.Sprint(c.profile, credential.PCRs(c.mask), c.want), func(t *testing.T) {
			tpm := startTPM(t, "a", c.profile)
			b := bound(credential.TypeTPM2, c.mask)
			b.TPM2.PCRBank = c.want
			err := Seal(Retry(tpm), b, secret)
			if c.bank == 0 {
				if !errors.Is(err, ErrBank) || b.TPM2.Blob != nil {
					t.Errorf("not refused: %v", err)
				}
				return
			}
			must(t, err)
			if b.TPM2.PCRBank != c.bank {
				t.Errorf("bank 0x%04x", b.TPM2.PCRBank)
			}
			unseal(t, tpm, b, nil)
		})
	}
}

// TestNoPCRsOf250: what no systemd since reads is called by its name.
func TestNoPCRsOf250(t *testing.T) {
	raw, err := vectors.Load(t, vectorDir).Case(t, "blobs/250.14/tpm2-nopcr.cred").Decoded()
	must(t, err)
	b, err := credential.Parse(raw)
	must(t, err)
	tpm := startTPM(t, "a", "p1")
	if _, err := UnsealAll(Retry(tpm), []*credential.Blob{b}, nil); class(err) != "tpm-policy-mismatch" || !strings.Contains(err.Error(), "250 or 251") {
		t.Error(err)
	}
}

// TestSignedBanks: signed PCRs may be measured later, literal ones may not.
func TestSignedBanks(t *testing.T) {
	key, public := newSigner(t)
	for _, c := range []struct {
		profile string
		literal uint64
		bank    uint16 // 0 is refused
	}{
		{"zero", 0, credential.AlgSHA256},
		{"zero", 1 << 7, 0},
		{"sha1only", 0, credential.AlgSHA1},
		{"p1", 1 << 7, credential.AlgSHA256},
	} {
		tpm := startTPM(t, "a", c.profile)
		b := bound(credential.TypeTPM2PublicKey, c.literal)
		b.PublicKey = public
		err := Seal(Retry(tpm), b, secret)
		if c.bank == 0 {
			if !errors.Is(err, ErrBank) || b.TPM2.Blob != nil {
				t.Errorf("%s %v: not refused: %v", c.profile, c.literal, err)
			}
			continue
		}
		must(t, err)
		if b.TPM2.PCRBank != c.bank {
			t.Errorf("%s: bank 0x%04x", c.profile, b.TPM2.PCRBank)
		}
		if c.bank == credential.AlgSHA256 {
			tpm.measure(11)
			unseal(t, tpm, b, sign(t, tpm, key, public.PCRMask))
		}
	}
}

// withoutBank makes a TPM that has no PCRs of a bank allocated, as firmware can.
func withoutBank(t *testing.T, bank uint16) func(command, reply []byte) []byte {
	return func(command, reply []byte) []byte {
		pattern := []byte{byte(bank >> 8), byte(bank), 3, 0xff, 0xff, 0xff}
		if at := bytes.Index(reply, pattern); commandOf(command) == tpm2.TPMCCGetCapability && at >= 0 {
			clear(reply[at+3 : at+6])
		}
		if commandOf(command) == tpm2.TPMCCPCRRead && bytes.Contains(command, pattern[:3]) {
			rsp, err := tpm2.Marshal(tpm2.TPMLPCRSelection{}), error(nil)
			must(t, err)
			body := append(append(bytes.Clone(reply[headerSize:headerSize+4]), rsp...), 0, 0, 0, 0)
			head := append(bytes.Clone(reply[:headerSize]), body...)
			binary.BigEndian.PutUint32(head[2:], uint32(len(head)))
			return head
		}
		return reply
	}
}

func TestAbsentBank(t *testing.T) {
	tpm := startTPM(t, "a", "p1")
	b := seal(t, tpm, bound(credential.TypeTPM2, 1<<7))
	tpm.measure(7)
	tpm.after = withoutBank(t, credential.AlgSHA256)
	_, err := UnsealAll(Retry(tpm), []*credential.Blob{b}, nil)
	var policy *PolicyError
	if !errors.As(err, &policy) || !slices.Equal(policy.Absent, []int{7}) || !strings.Contains(err.Error(), "this TPM has no PCR 7 there") {
		t.Errorf("unsealing: %v", err)
	}
	b = bound(credential.TypeTPM2, 1<<7)
	must(t, Seal(Retry(tpm), b, secret))
	if b.TPM2.PCRBank != credential.AlgSHA384 {
		t.Errorf("sealed to bank 0x%04x", b.TPM2.PCRBank)
	}
	b.TPM2.PCRBank = credential.AlgSHA256
	if err := Seal(Retry(tpm), b, secret); !errors.Is(err, ErrBank) {
		t.Errorf("sealing: %v", err)
	}
	// Nor one in which a PCR is missing that is not asked for.
	tpm.after = func(_, reply []byte) []byte {
		if at := bytes.Index(reply, []byte{0, credential.AlgSHA256, 3, 0xff, 0xff, 0xff}); at >= 0 {
			reply[at+5] = 0x7f
		}
		return reply
	}
	b = bound(credential.TypeTPM2, 1<<7)
	must(t, Seal(Retry(tpm), b, secret))
	if b.TPM2.PCRBank != credential.AlgSHA384 {
		t.Errorf("sealed to bank 0x%04x", b.TPM2.PCRBank)
	}
}

func TestCauses(t *testing.T) {
	type state struct {
		tpm    *swtpm
		legacy *credential.Blob
		pinned *credential.Blob
	}
	for name, c := range map[string]struct {
		change         func(*testing.T, *state)
		legacy, pinned string // classes
		sealing        string
		words          string
	}{
		"other PCR": {func(t *testing.T, s *state) { s.tpm.measure(7) },
			"tpm-policy-mismatch", "tpm-policy-mismatch", "ok", "bound to PCR 7 of the sha256 bank"},
		"other PCR, not bound": {func(t *testing.T, s *state) { s.tpm.measure(8) }, "ok", "ok", "ok", ""},
		"power cycle with the same measurements": {func(t *testing.T, s *state) { s.tpm.restart(); s.tpm.measure(7) },
			"ok", "ok", "ok", ""},
		"cleared": {func(t *testing.T, s *state) {
			_, err := tpm2.Clear{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHLockout, Auth: tpm2.PasswordAuth(nil)}}.Execute(sendFunc(s.tpm.raw))
			must(t, err)
		}, "tpm-foreign-key", "tpm-error", "ok", ""},
		"locked out": {func(t *testing.T, s *state) {
			// TPM2_DictionaryAttackParameters, which go-tpm lacks: no tries at all.
			reply, err := s.tpm.raw(unhex("8002" + "00000027" + "0000013a" + "4000000a" +
				"00000009" + "40000009" + "0000" + "00" + "0000" +
				"00000000" + "000003e8" + "000003e8"))
			must(t, err)
			if !bytes.Equal(reply[6:10], make([]byte, 4)) {
				t.Fatalf("reply %x", reply)
			}
		}, "tpm-lockout", "ok", "tpm-lockout", "lockout"},
		"owner password": {func(t *testing.T, s *state) {
			_, err := tpm2.HierarchyChangeAuth{
				AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
				NewAuth:    tpm2.TPM2BAuth{Buffer: []byte("owner")},
			}.Execute(sendFunc(s.tpm.raw))
			must(t, err)
		}, "tpm-owner-auth", "ok", "tpm-owner-auth", "password"},
	} {
		t.Run(name, func(t *testing.T) {
			tpm := startTPM(t, "", "")
			tpm.measure(7)
			s := &state{tpm: tpm}
			s.legacy = seal(t, tpm, bound(credential.TypeTPM2, 1<<7))
			s.pinned = seal(t, tpm, bound(credential.TypeTPM2Pinned, 1<<7))
			c.change(t, s)
			_, err := UnsealAll(Retry(tpm), []*credential.Blob{s.legacy}, nil)
			if got := class(err); got != c.legacy {
				t.Errorf("legacy: got %s (%v), want %s", got, err, c.legacy)
			}
			if err != nil && !strings.Contains(err.Error(), c.words) {
				t.Errorf("%v: does not say %q", err, c.words)
			}
			_, err = UnsealAll(Retry(tpm), []*credential.Blob{s.pinned}, nil)
			if got := class(err); got != c.pinned {
				t.Errorf("pinned: got %s (%v), want %s", got, err, c.pinned)
			}
			tpm.measure(7)
			err = Seal(Retry(tpm), bound(credential.TypeTPM2, 1<<7), secret)
			if got := class(err); got != c.sealing {
				t.Errorf("sealing: got %s (%v), want %s", got, err, c.sealing)
			}
		})
	}
}

// TestWhichFailed: the error tells which of several credentials it is about.
func TestWhichFailed(t *testing.T) {
	tpm := startTPM(t, "a", "p1")
	good := seal(t, tpm, bound(credential.TypeTPM2, 1<<14))
	bad := seal(t, tpm, bound(credential.TypeTPM2, 1<<7))
	tpm.measure(7)
	secrets, err := UnsealAll(Retry(tpm), []*credential.Blob{good, {Type: credential.TypeNull}, bad, good}, nil)
	var which *BlobError
	if !errors.As(err, &which) || which.Index != 2 || secrets != nil {
		t.Errorf("got %v, %v", secrets, err)
	}
}

// TestPCRChanged: somebody extends another PCR between policy and unseal.
func TestPCRChanged(t *testing.T) {
	for _, c := range []struct {
		times int
		want  string
	}{{1, "ok"}, {pcrRetries, "ok"}, {pcrRetries + 1, "busy"}} {
		t.Run(fmt.Sprint(c.times), func(t *testing.T) {
			tpm := startTPM(t, "a", "p1")
			b := seal(t, tpm, bound(credential.TypeTPM2, 1<<7))
			n := 0
			tpm.before = func(command []byte) ([]byte, error) {
				if commandOf(command) == tpm2.TPMCCUnseal && n < c.times {
					n++
					tpm.measure(1)
				}
				return nil, nil
			}
			_, err := UnsealAll(Retry(tpm), []*credential.Blob{b}, nil)
			if class(err) != c.want {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

// TestRetryNeeded: the first Load below a legacy primary key after a start of the
// TPM asks to be sent again.
func TestRetryNeeded(t *testing.T) {
	tpm := startTPM(t, "a", "p1")
	b := seal(t, tpm, bound(credential.TypeTPM2, 0))
	tpm.restart()
	_, err := UnsealAll(tpm, []*credential.Blob{b}, nil)
	if responseCode(err) != rcRetry {
		t.Errorf("this TPM does not show what is tested: %v", err)
	}
	tpm.restart()
	unseal(t, tpm, b, nil)
}

func TestRetry(t *testing.T) {
	for _, rc := range []tpm2.TPMRC{rcRetry, rcYielded, rcTesting, rcObjectMemory, rcSessionMemory} {
		var slept time.Duration
		sleep := func(d time.Duration) { slept += d }
		command := []byte{0x80, 1, 0, 0, 0, 10, 0, 0, 1, 0x44}
		n := 0
		r := &retry{sleep: sleep, t: sendFunc(func(got []byte) ([]byte, error) {
			n++
			if !bytes.Equal(got, command) {
				t.Errorf("sent %x", got)
			}
			if n < 5 {
				return refusal(rc), nil
			}
			return refusal(tpm2.TPMRCSuccess), nil
		})}
		reply, err := r.Send(command)
		if err != nil || !bytes.Equal(reply, refusal(tpm2.TPMRCSuccess)) || n != 5 {
			t.Errorf("%x, %v after %d", reply, err, n)
		}

		slept = 0
		r.t = sendFunc(func([]byte) ([]byte, error) { return refusal(rc), nil })
		if _, err = r.Send(command); !errors.Is(err, ErrBusy) || slept > 21*time.Second {
			t.Errorf("%v after %v", err, slept)
		}
		if _, err := UnsealAll(r, []*credential.Blob{golden(t)}, nil); class(err) != "busy" {
			t.Errorf("unsealing: %v", err)
		}
	}
}

// golden is a credential of systemd 257, made for the TPM "a".
func golden(t testing.TB) *credential.Blob {
	t.Helper()
	raw, err := vectors.Load(t, vectorDir).Case(t, "blobs/257.13/tpm2-pcr7.cred").Decoded()
	must(t, err)
	b, err := credential.Parse(raw)
	must(t, err)
	return b
}

// TestBrokenReplies has each reply of sealing and unsealing, in turn, replaced
// or damaged. Nothing may be left in the TPM and nothing may come out of it.
func TestBrokenReplies(t *testing.T) {
	key, public := newSigner(t)
	tpm := startTPM(t, "a", "p1")
	legacy := bound(credential.TypeTPM2PublicKey, 1<<7)
	legacy.PublicKey = public
	blobs := []*credential.Blob{seal(t, tpm, legacy), seal(t, tpm, bound(credential.TypeTPM2Pinned, 1<<7)), golden(t)}
	sigs := sign(t, tpm, key, public.PCRMask)
	run := map[string]func() error{
		"unseal": func() error {
			secrets, err := UnsealAll(Retry(tpm), blobs, sigs)
			if err == nil && (!bytes.Equal(secrets[0], secret) || !bytes.Equal(secrets[1], secret)) {
				t.Errorf("no error, but unsealed %x", secrets)
			}
			return err
		},
		"seal": func() error { return Seal(Retry(tpm), bound(credential.TypeTPM2, 1<<7), secret) },
	}
	at, n := 0, 0
	hit := func() bool { n++; return n-1 == at }
	faults := map[string]struct {
		before func(command []byte) ([]byte, error)
		after  func(command, reply []byte) []byte
		// unauthenticated commands may get a wrong but well-formed reply unnoticed
		mayPass bool
	}{
		"error code": {before: func(command []byte) ([]byte, error) {
			if commandOf(command) != tpm2.TPMCCFlushContext && hit() {
				return refusal(0x101), nil
			}
			return nil, nil
		}},
		"empty": {after: func(command, reply []byte) []byte {
			switch commandOf(command) {
			case tpm2.TPMCCCreatePrimary, tpm2.TPMCCLoad, tpm2.TPMCCLoadExternal, tpm2.TPMCCStartAuthSession:
				return reply // without the handle there is nothing to free it by
			}
			if hit() {
				return nil
			}
			return reply
		}},
		"cut": {after: func(_, reply []byte) []byte {
			if hit() && len(reply) > headerSize {
				reply = reply[:len(reply)-1]
				binary.BigEndian.PutUint32(reply[2:], uint32(len(reply)))
			}
			return reply
		}, mayPass: true},
		"padded": {after: func(_, reply []byte) []byte {
			if hit() {
				reply = append(reply, 0)
				binary.BigEndian.PutUint32(reply[2:], uint32(len(reply)))
			}
			return reply
		}, mayPass: true},
		"last bit": {after: func(_, reply []byte) []byte {
			if hit() && len(reply) > headerSize {
				reply[len(reply)-1] ^= 1
			}
			return reply
		}, mayPass: true},
		"success without content": {after: func(_, reply []byte) []byte {
			if hit() && len(reply) > headerSize+4 {
				reply = reply[:headerSize+4]
				binary.BigEndian.PutUint32(reply[2:], uint32(len(reply)))
			}
			return reply
		}, mayPass: true},
	}
	for what, f := range run {
		for name, fault := range faults {
			t.Run(what+" "+name, func(t *testing.T) {
				defer func() { tpm.before, tpm.after = nil, nil }()
				tpm.before, tpm.after = fault.before, fault.after
				for at = 0; ; at++ {
					n = 0
					err := f()
					if n <= at {
						break
					}
					if err == nil && !fault.mayPass {
						t.Errorf("reply %d: no error", at)
					}
					if err != nil && strings.HasPrefix(class(err), "classes") {
						t.Errorf("reply %d: %s", at, class(err))
					}
					tpm.checkClean()
				}
				if at < 3 {
					t.Errorf("only %d replies", at)
				}
			})
		}
	}
}

// TestPanic: handles are given back even so.
func TestPanic(t *testing.T) {
	tpm := startTPM(t, "a", "p1")
	b := seal(t, tpm, bound(credential.TypeTPM2, 1<<7))
	for _, at := range []tpm2.TPMCC{tpm2.TPMCCLoad, tpm2.TPMCCStartAuthSession, tpm2.TPMCCPolicyPCR, tpm2.TPMCCUnseal} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%x: no panic", at)
				}
			}()
			tpm.before = func(command []byte) ([]byte, error) {
				if commandOf(command) == at {
					panic("transport")
				}
				return nil, nil
			}
			UnsealAll(Retry(tpm), []*credential.Blob{b}, nil)
		}()
		tpm.checkClean()
	}
}

// TestNoLockout: however often unsealing fails, the TPM does not count it.
func TestNoLockout(t *testing.T) {
	tpm := startTPM(t, "a", "p1")
	mismatch := seal(t, tpm, bound(credential.TypeTPM2, 1<<7))
	pinned := seal(t, tpm, bound(credential.TypeTPM2Pinned, 1<<7))
	foreign := golden(t)
	foreign.TPM2.Blob[20] ^= 1
	tpm.measure(7)
	for range 40 { // more than the tries it allows
		for _, b := range []*credential.Blob{mismatch, pinned, foreign} {
			if _, err := UnsealAll(Retry(tpm), []*credential.Blob{b}, nil); err == nil {
				t.Fatal("unsealed")
			}
		}
	}
	const lockoutCounter = 0x20E // TPM_PT_LOCKOUT_COUNTER
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapTPMProperties, Property: lockoutCounter, PropertyCount: 1}.Execute(sendFunc(tpm.raw))
	must(t, err)
	properties, err := rsp.CapabilityData.Data.TPMProperties()
	must(t, err)
	if p := properties.TPMProperty[0]; p.Property != lockoutCounter || p.Value != 0 {
		t.Errorf("lockout counter: %+v", p)
	}
	unseal(t, tpm, seal(t, tpm, bound(credential.TypeTPM2, 1<<7)), nil)
}

// TestSlotsTaken: somebody else holds all sessions, or all objects, of a TPM, past
// a resource manager or where there is none, for a while or for ever.
func TestSlotsTaken(t *testing.T) {
	tpm := startTPM(t, "a", "p1")
	b := seal(t, tpm, bound(credential.TypeTPM2, 1<<7))
	other := &conn{t: sendFunc(tpm.raw)}
	for what, take := range map[string]func() error{
		"session": func() error {
			p, err := other.createPrimary(legacyTemplates, credential.AlgECC)
			for err == nil {
				_, err = other.startSession(tpm2.TPMSEPolicy, p, tpm2.TPMASession{})
			}
			return err
		},
		"object": func() (err error) {
			for err == nil {
				_, err = other.createPrimary(legacyTemplates, credential.AlgECC)
			}
			return err
		},
	} {
		if err := take(); class(err) != "busy" {
			t.Errorf("taking each %s: %v", what, err)
		}
		var slept time.Duration
		r := &retry{t: tpm, sleep: func(d time.Duration) { slept += d }}
		if _, err := UnsealAll(r, []*credential.Blob{b}, nil); class(err) != "busy" || slept < 10*time.Second || slept > 21*time.Second {
			t.Errorf("no %s left: %v after %v", what, err, slept)
		}
		waits := 0
		r.sleep = func(time.Duration) {
			if waits++; waits == 3 {
				must(t, other.close(nil))
			}
		}
		if _, err := UnsealAll(r, []*credential.Blob{b}, nil); err != nil || waits != 3 {
			t.Errorf("no %s left for a while: %v after %d waits", what, err, waits)
		}
	}
}

// TestExponentZero: systemd 255.0 to 255.2 wrote the exponent 65537 of a public
// key as 0, which only trying can tell when literal PCRs are bound as well.
func TestExponentZero(t *testing.T) {
	tpm := startTPM(t, "a", "p1")
	key, public := newSigner(t)
	signer, err := parsePublicKey(public.PEM)
	must(t, err)
	b := bound(credential.TypeTPM2PublicKey, 1<<7)
	b.PublicKey = public
	seal(t, tpm, b)

	c := &conn{t: Retry(tpm)}
	values, err := c.readPCRs(credential.AlgSHA256, 1<<7)
	must(t, err)
	b.TPM2.PolicyHash = policyPCR(policyAuthorize(signer.name(0)), credential.AlgSHA256, 1<<7, inOrder(values, 1<<7))
	parent, err := c.createPrimary(legacyTemplates, credential.AlgECC)
	must(t, err)
	b.TPM2.Blob, err = c.create(parent, b.TPM2.PolicyHash, secret)
	must(t, c.close(err))

	sigs := sign(t, tpm, key, public.PCRMask)
	unseal(t, tpm, b, sigs)
	tpm.measure(7)
	if _, err := UnsealAll(Retry(tpm), []*credential.Blob{b}, sigs); class(err) != "tpm-policy-mismatch" {
		t.Errorf("with another PCR 7: %v", err)
	}
}

// TestForeignSigner: a credential whose public key was exchanged, with a good
// signature by the new key.
func TestForeignSigner(t *testing.T) {
	tpm := startTPM(t, "a", "p1")
	_, public := newSigner(t)
	b := bound(credential.TypeTPM2PublicKey, 0)
	b.PublicKey = public
	seal(t, tpm, b)
	key, other := newSigner(t)
	b.PublicKey = other
	_, err := UnsealAll(Retry(tpm), []*credential.Blob{b}, sign(t, tpm, key, other.PCRMask))
	if class(err) != "tpm-policy-mismatch" || !strings.Contains(err.Error(), "public key") {
		t.Error(err)
	}
}

// TestGone: a TPM that goes away half-way is not asked again and again.
func TestGone(t *testing.T) {
	tpm := startTPM(t, "a", "p1")
	b := seal(t, tpm, bound(credential.TypeTPM2, 1<<7))
	gone := errors.New("no such device")
	for at := range 6 {
		n := 0
		_, err := UnsealAll(Retry(sendFunc(func(command []byte) ([]byte, error) {
			n++
			if n > at {
				return nil, gone
			}
			return tpm.raw(command)
		})), []*credential.Blob{b}, nil)
		if class(err) != "transport" || !errors.Is(err, gone) || n > at+2 {
			t.Errorf("%v after %d commands", err, n)
		}
		tpm.free()
	}
}

// TestForgedReplies: replies that are well-formed, but are not those of an
// honest TPM to what it was asked.
func TestForgedReplies(t *testing.T) {
	key, public := newSigner(t)
	tpm := startTPM(t, "a", "p1")
	signed := bound(credential.TypeTPM2PublicKey, 0)
	signed.PublicKey = public
	seal(t, tpm, signed)
	sigs := sign(t, tpm, key, public.PCRMask)
	unsealing := func() error {
		_, err := UnsealAll(Retry(tpm), []*credential.Blob{signed}, sigs)
		return err
	}
	sealing := func() error { return Seal(Retry(tpm), bound(credential.TypeTPM2Pinned, 1<<7), secret) }
	// TPM2_PCR_Read: counter, selections (number, bank, size, three bytes), number of values.
	const selected = headerSize + 4 + 4 + 3
	const value = selected + 3 + 4
	otherName := func(reply []byte) []byte {
		at := bytes.Index(reply, []byte{0, 34, 0, credential.AlgSHA256}) // TPM2B_NAME
		reply[at+4] ^= 1
		return reply
	}
	for name, c := range map[string]struct {
		run     func() error
		command tpm2.TPMCC
		forge   func(reply []byte) []byte
	}{
		"name of the primary key":      {unsealing, tpm2.TPMCCCreatePrimary, otherName},
		"name of the sealed object":    {unsealing, tpm2.TPMCCLoad, otherName},
		"name of the public key":       {unsealing, tpm2.TPMCCLoadExternal, otherName},
		"name of the storage root key": {sealing, tpm2.TPMCCReadPublic, otherName},
		"short nonce": {unsealing, tpm2.TPMCCStartAuthSession, func(reply []byte) []byte {
			const nonce = headerSize + 4
			reply = reply[:nonce+2+16]
			binary.BigEndian.PutUint16(reply[nonce:], 16)
			return reply
		}},
		"another PCR": {sealing, tpm2.TPMCCPCRRead, func(reply []byte) []byte {
			reply[selected] = 1 << 6
			return reply
		}},
		"short PCR value": {sealing, tpm2.TPMCCPCRRead, func(reply []byte) []byte {
			reply = reply[:value+2+20]
			binary.BigEndian.PutUint16(reply[value:], 20)
			return reply
		}},
		// Whoever frees it frees somebody else's key.
		"persistent handle": {unsealing, tpm2.TPMCCLoad, func(reply []byte) []byte {
			binary.BigEndian.PutUint32(reply[headerSize:], credential.SRKHandle)
			return reply
		}},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() { tpm.before, tpm.after = nil, nil }()
			tpm.before = func(command []byte) ([]byte, error) {
				if commandOf(command) == tpm2.TPMCCFlushContext && binary.BigEndian.Uint32(command[headerSize:]) == credential.SRKHandle {
					t.Error("the storage root key was to be freed")
				}
				return nil, nil
			}
			forged := false
			tpm.after = func(command, reply []byte) []byte {
				if forged || commandOf(command) != c.command || binary.BigEndian.Uint32(reply[6:]) != 0 {
					return reply
				}
				forged = true
				reply = c.forge(reply)
				binary.BigEndian.PutUint32(reply[2:], uint32(len(reply)))
				return reply
			}
			if err := c.run(); class(err) != "bad-reply" || !forged {
				t.Error(err)
			}
			tpm.free() // what has another handle than it was said to have
		})
	}
}

// TestOtherSRK: what a credential is pinned to must be a storage key, and nothing
// but it.
func TestOtherSRK(t *testing.T) {
	tpm := startTPM(t, "a", "p1")
	b := seal(t, tpm, bound(credential.TypeTPM2Pinned, 0))
	public := b.SRK.Public
	unrestricted := bytes.Clone(public)
	unrestricted[5] &^= 1 // attribute "restricted"
	signing := bytes.Clone(public)
	signing[5] |= 4 // attribute "sign"
	sha384 := bytes.Clone(public)
	sha384[3] = credential.AlgSHA384 // nameAlg
	for name, other := range map[string][]byte{
		"unrestricted": unrestricted, "SHA-384": sha384, "signing": signing, "trailing byte": append(bytes.Clone(public), 0), "cut": public[:len(public)-1],
	} {
		b.SRK = &credential.SRK{Public: other}
		tpm.sent = nil
		if _, err := UnsealAll(Retry(tpm), []*credential.Blob{b}, nil); class(err) != "bad-srk" || len(tpm.sent) > 0 {
			t.Errorf("%s: %v after %x", name, err, tpm.sent)
		}
	}
	b.SRK = &credential.SRK{Public: public}
	unseal(t, tpm, b, nil)
}

// TestTwoPins: no credential is opened in a session that is salted to what another
// one is pinned to.
func TestTwoPins(t *testing.T) {
	tpm := startTPM(t, "a", "p1")
	b := seal(t, tpm, bound(credential.TypeTPM2Pinned, 0))
	other := seal(t, startTPM(t, "", ""), bound(credential.TypeTPM2Pinned, 0))
	elsewhere := *b
	elsewhere.SRK = other.SRK
	var which *BlobError
	if _, err := UnsealAll(Retry(tpm), []*credential.Blob{b, &elsewhere}, nil); !errors.As(err, &which) || which.Index != 1 {
		t.Errorf("pinned to another key, and opened: %v", err)
	}
	unseal(t, tpm, b, nil)
}

func TestSecretSize(t *testing.T) {
	tpm := startTPM(t, "a", "p1")
	for _, n := range []int{0, SecretSize - 1, SecretSize + 1} {
		if err := Seal(Retry(tpm), bound(credential.TypeTPM2, 0), make([]byte, n)); err == nil {
			t.Errorf("sealed %d bytes", n)
		}
	}
	b := seal(t, tpm, bound(credential.TypeTPM2, 0))
	c := &conn{t: Retry(tpm)}
	parent, err := c.createPrimary(legacyTemplates, credential.AlgECC)
	must(t, err)
	b.TPM2.Blob, err = c.create(parent, b.TPM2.PolicyHash, secret[1:])
	must(t, c.close(err))
	if secrets, err := UnsealAll(Retry(tpm), []*credential.Blob{b}, nil); class(err) != "bad-reply" || secrets != nil {
		t.Errorf("unsealed %x, %v", secrets, err)
	}
}

// TestParseObject: only what seals a secret under a SHA-256 policy is loaded.
func TestParseObject(t *testing.T) {
	object := func(public []byte) []byte {
		blob := append([]byte{0, 1, 0xAA}, 0, byte(len(public)))
		return append(blob, public...)
	}
	digest := make([]byte, sha256.Size)
	good := sealedPublic(digest, digest)
	if _, err := parseObject(object(good)); err != nil {
		t.Error(err)
	}
	key, nameAlg, policySize := bytes.Clone(good), bytes.Clone(good), bytes.Clone(good)
	key[1], nameAlg[3], policySize[9] = credential.AlgECC, credential.AlgSHA1, sha256.Size-1
	for name, public := range map[string][]byte{
		"another type": key, "another nameAlg": nameAlg, "another policy size": policySize,
		"no policy": sealedPublic(nil, digest), "SHA-1 policy": sealedPublic(digest[:20], digest), "short": good[:9], "empty": nil,
	} {
		if _, err := parseObject(object(public)); class(err) != "bad-tpm-blob" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestNonces: no nonce is used twice, or an old reply could be replayed.
func TestNonces(t *testing.T) {
	tpm := startTPM(t, "a", "p1")
	b := seal(t, tpm, bound(credential.TypeTPM2, 0))
	var nonces []string
	tpm.before = func(command []byte) ([]byte, error) {
		nonce := []byte(nil) // a TPM2B_NONCE and what follows it
		switch commandOf(command) {
		case tpm2.TPMCCStartAuthSession:
			nonce = command[headerSize+8:] // two handles
		case tpm2.TPMCCUnseal, tpm2.TPMCCCreate:
			nonce = command[headerSize+12:] // handle, size of the authorization area, session
		default:
			return nil, nil
		}
		nonces = append(nonces, string(nonce[2:2+binary.BigEndian.Uint16(nonce)]))
		return nil, nil
	}
	_, err := UnsealAll(Retry(tpm), []*credential.Blob{b, b, b}, nil)
	must(t, err)
	must(t, Seal(Retry(tpm), bound(credential.TypeTPM2, 0), secret))
	slices.Sort(nonces)
	if n := len(nonces); n != 6 || len(slices.Compact(nonces)) != n || len(nonces[0]) != sha256.Size {
		t.Errorf("nonces %x", nonces)
	}
}

// TestReplyHeaders: what is not even the form of a reply does not get further.
func TestReplyHeaders(t *testing.T) {
	const tagNoSessions, tagSessions = 0x8001, 0x8002
	command := unhex("8002" + "0000000a" + "00000157") // TPM2_Load
	reply := func(tag uint16, size int, rest string) []byte {
		r := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(nil, tag), uint32(size))
		return append(append(r, 0, 0, 0, 0), unhex(rest)...)
	}
	for name, c := range map[string]struct {
		reply []byte
		ok    bool
	}{
		"good":              {reply(tagSessions, 14, "80000000"), true},
		"empty":             {nil, false},
		"cut":               {reply(tagSessions, 10, "")[:9], false},
		"longest":           {reply(tagSessions, maxReply, "80000000"+strings.Repeat("00", maxReply-14)), true},
		"too long":          {reply(tagSessions, maxReply+1, "80000000"+strings.Repeat("00", maxReply-13)), false},
		"size too large":    {reply(tagSessions, 15, "80000000"), false},
		"size too small":    {reply(tagSessions, 13, "80000000"), false},
		"huge size":         {reply(tagSessions, 1<<32-1, "80000000"), false},
		"no sessions":       {reply(tagNoSessions, 14, "80000000"), false},
		"unknown tag":       {reply(0xC4, 14, "80000000"), false},
		"no handle":         {reply(tagSessions, 10, ""), false},
		"half a handle":     {reply(tagSessions, 12, "8000"), false},
		"persistent handle": {reply(tagSessions, 14, "81000001"), false},
		"handle of a PCR":   {reply(tagSessions, 14, "00000007"), false},
	} {
		_, err := (&conn{t: sendFunc(func([]byte) ([]byte, error) { return c.reply, nil })}).Send(command)
		if c.ok && err != nil || !c.ok && class(err) != "bad-reply" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestMoved: with the values of the PCRs at sealing, the error names those that
// have changed; values of another time, or of another credential, are not believed.
func TestMoved(t *testing.T) {
	key, public := newSigner(t)
	for _, typ := range []credential.Type{credential.TypeTPM2, credential.TypeTPM2PublicKeyPinned} {
		t.Run(typ.String(), func(t *testing.T) {
			tpm := startTPM(t, "a", "p1")
			tpm.measure(7)
			b := bound(typ, 1<<7|1<<14)
			b.PublicKey = public
			seal(t, tpm, b)
			sealed, err := Digests(Retry(tpm), b)
			must(t, err)
			sigs := sign(t, tpm, key, public.PCRMask)
			const general = "bound to PCRs 7, 14 of the sha256 bank, and at least one of them"
			fails := func(digests []byte, words string) {
				t.Helper()
				_, unsealing := UnsealAll(Retry(tpm), []*credential.Blob{b}, sigs)
				for _, err := range []error{unsealing, PolicyMet(Retry(tpm), b, sigs)} {
					var differs *PolicyError
					if !errors.As(err, &differs) {
						t.Fatalf("error %v", err)
					}
					if got := differs.Since(b, digests).Error(); !strings.Contains(got, words) {
						t.Errorf("%s: does not say %q", got, words)
					}
				}
			}
			tpm.measure(14)
			later, err := Digests(Retry(tpm), b)
			must(t, err)
			fails(sealed, "bound to PCRs 7, 14 of the sha256 bank, and since it was sealed another value is in PCR 14")
			fails(nil, general)
			fails(later, general)
			fails(sealed[:len(sealed)-1], general)
			tpm.measure(7)
			fails(sealed, "another value is in PCRs 7, 14")
		})
	}
}
