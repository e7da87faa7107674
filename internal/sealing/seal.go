package sealing

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/bootseal/bootseal/internal/atomicfile"
	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/internal/encryption"
	"github.com/bootseal/bootseal/internal/hostkey"
	"github.com/bootseal/bootseal/internal/machine"
	"github.com/bootseal/bootseal/internal/report"
	"github.com/bootseal/bootseal/internal/root"
	"github.com/bootseal/bootseal/internal/stdio"
	"github.com/bootseal/bootseal/internal/systemd"
	"github.com/bootseal/bootseal/internal/tpm"
	"github.com/bootseal/bootseal/internal/tpmdevice"
	"github.com/bootseal/bootseal/policy"
)

// ErrUnproven says that a new blob does not open to what was sealed.
var ErrUnproven = errors.New("the new credential does not hold what was sealed")

// Sealer is how credentials are sealed.
type Sealer struct {
	Device        string            // as --tpm2-device= has it
	Signature     string            // file with PCR signatures, for the proof; "" is systemd's search
	Key           string            // one of KeyWords, or KeyTPM2Best
	PCRs          uint64            // mask of the PCRs to bind to
	PublicKey     string            // file with the key whose signatures are accepted; "" is systemd's search
	PublicKeyPCRs *uint64           // mask of the PCRs that it signs; nil is systemd's default
	Scope         *encryption.Scope // for whose user; nil is the system
	Compat        int               // the systemd that is to read it; 0 is the one that runs
	// Lenient says that options which mean nothing together are taken, and only a
	// TPM that the kernel knows is one, as systemd-creds has it.
	Lenient bool
}

// SealFor makes the text of a blob as the policy's [seal] says, and opens it for a
// proof. The file is where it is to go.
func (s Sealer) SealFor(p *policy.Policy, file string, plain *encryption.Plaintext) ([]byte, credential.Type, error) {
	s.Key, s.PCRs = p.Seal.Key, p.Seal.Mask()
	data, err := s.Seal(plain)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", file, err)
	}
	text := credential.EncodeText(data)
	sealed, err := Parse(text, file, plain.Name)
	if err != nil {
		return nil, 0, err
	}
	how := Opener{Device: s.Device, Signature: s.Signature, Now: time.Now()}
	if p.Seal.Key == policy.KeyNull {
		how.Null = NullAccepted
	}
	opened, err := how.Open([]*File{sealed})
	if err != nil {
		return nil, 0, err
	}
	defer Wipe(opened)
	if !bytes.Equal(opened[0].Payload, plain.Payload) {
		return nil, 0, fmt.Errorf("%s: %w", file, ErrUnproven)
	}
	return text, sealed.Blob.Type, nil
}

// MakeStore makes the folder where blobs lie by default, if the file is to go there.
func MakeStore(file string) error {
	if filepath.Dir(file) != policy.CredentialStore {
		return nil
	}
	return atomicfile.MakeFolder(policy.CredentialStore, 0o700)
}

// Seal makes a binary credential.
func (s *Sealer) Seal(plain *encryption.Plaintext) ([]byte, error) {
	keys, blob, err := s.makeKeys()
	if err != nil {
		return nil, err
	}
	defer clear(keys.Host)
	defer clear(keys.TPM2)
	sealed, err := encryption.Seal(blob, keys, plain)
	if err != nil {
		return nil, fmt.Errorf("encrypting: %w", err)
	}
	return sealed, s.checkTarget(sealed)
}

// The words of --with-key= that stand for other ones, by what the machine has.
const (
	keyAutoInitrd = "auto-initrd"
	KeyTPM2Best   = "-T" // no word: the option of that name
)

// keyTypes are the other words, and what they stand for.
var keyTypes = []struct {
	word  string
	parts credential.Parts
}{
	{policy.KeyHost, credential.PartHost},
	{policy.KeyTPM2, credential.PartTPM2},
	{"tpm2-with-public-key", credential.PartTPM2 | credential.PartPublicKey},
	{policy.KeyHostTPM2, credential.PartHost | credential.PartTPM2},
	{"tpm2+host", credential.PartHost | credential.PartTPM2},
	{"host+tpm2-with-public-key", credential.PartHost | credential.PartTPM2 | credential.PartPublicKey},
	{"tpm2-with-public-key+host", credential.PartHost | credential.PartTPM2 | credential.PartPublicKey},
	{policy.KeyNull, credential.PartNull},
	{"tpm2-absent", credential.PartNull}, // until 255
}

// KeyWords are those that --with-key= takes.
func KeyWords() []string {
	words := []string{policy.KeyAuto, keyAutoInitrd}
	for _, k := range keyTypes {
		words = append(words, k.word)
	}
	return words
}

// makeKeys makes the keys that the word key stands for, and a blob with the
// headers that belong to them.
func (s *Sealer) makeKeys() (keys encryption.Keys, blob *credential.Blob, err error) {
	defer func() {
		if err != nil {
			clear(keys.Host)
			clear(keys.TPM2)
		}
	}()
	blob = &credential.Blob{}
	parts, err := s.parts(blob)
	if err != nil {
		return keys, nil, err
	}
	if parts == credential.PartNull {
		report.Warn("the null key keeps nothing secret, and everybody can make such a credential")
	}
	if blob.Type, err = parts.Type(); err != nil {
		return keys, nil, err
	}
	keys.Scope = s.Scope
	if blob.Type.NeedsHost() {
		if keys.Host, err = MakeHostKey(); err != nil {
			return keys, nil, err
		}
	}
	if !blob.Type.NeedsTPM2() {
		return keys, blob, nil
	}
	device, err := tpmdevice.Open(s.Device)
	if err != nil {
		return keys, nil, err
	}
	defer device.Close()
	keys.TPM2 = make([]byte, tpm.SecretSize)
	if _, err = rand.Read(keys.TPM2); err != nil {
		return keys, nil, err
	}
	blob.TPM2 = &credential.TPM2{PCRMask: s.PCRs}
	if err = tpm.Seal(tpm.Retry(device), blob, keys.TPM2); err != nil {
		return keys, nil, err
	}
	return keys, blob, nil
}

// parts finds out which keys the word key means here, and reads the public key
// into the blob if it is one of them.
func (s *Sealer) parts(blob *credential.Blob) (parts credential.Parts, err error) {
	ifFound := false // the public key
	switch s.Key {
	case policy.KeyAuto, keyAutoInitrd:
		ifFound = true
		parts, err = s.autoParts()
	case KeyTPM2Best:
		ifFound = true
		parts = credential.PartTPM2
	default:
		for _, k := range keyTypes {
			if k.word == s.Key {
				parts = k.parts
			}
		}
	}
	if err != nil {
		return 0, err
	}
	version, _ := s.target()
	if ifFound && parts&credential.PartTPM2 != 0 {
		// As 262 does: only what the firmware has measured can be signed for.
		if s.PublicKey != "" || machine.FirmwareTPM2("/") && systemd.SignedPolicies.In(version) {
			parts |= credential.PartPublicKey
		}
	}
	if parts&credential.PartPublicKey != 0 {
		blob.PublicKey, err = s.signer()
		if ifFound && s.PublicKey == "" && errors.Is(err, stdio.ErrNotFound) {
			parts &^= credential.PartPublicKey
			err = nil
		}
		if err != nil {
			return 0, err
		}
	}
	if !s.Lenient {
		if s.PCRs != 0 && parts&credential.PartTPM2 == 0 {
			return 0, report.Usagef("PCRs are for credentials that are sealed to the TPM, not for --with-key=%s", s.Key)
		}
		if (s.PublicKey != "" || s.PublicKeyPCRs != nil) && parts&credential.PartPublicKey == 0 {
			return 0, report.Usagef("a public key is for --with-key=tpm2-with-public-key or host+tpm2-with-public-key, not for %s", s.Key)
		}
	}
	if s.Scope != nil {
		if parts&credential.PartHost == 0 {
			return 0, report.Usagef("credentials of one user need the host key: expected --with-key=host or one with host+")
		}
		parts |= credential.PartScope
	}
	if parts&credential.PartTPM2 != 0 && systemd.PinnedSRK.In(version) {
		parts |= credential.PartSRK
	}
	return parts, nil
}

// target returns the oldest systemd that is to read what is encrypted, and
// whether what it cannot read is out of the question. If nobody said so it is the
// one that runs here. On those that read nothing it is the oldest that does, but
// there it is bootseal that reads, so that all is well as long as later ones can.
func (s *Sealer) target() (version int, binding bool) {
	if s.Compat != 0 {
		return s.Compat, true
	}
	running, err := systemd.Version("/")
	if err != nil || !systemd.EncryptedCredentials.In(running) {
		return systemd.EncryptedCredentials.From, false
	}
	return running, false
}

// checkTarget refuses what the systemd meant to read it could not.
func (s *Sealer) checkTarget(sealed []byte) error {
	blob, err := credential.Parse(sealed)
	if err != nil {
		return err
	}
	version, binding := s.target()
	since := blob.Since()
	if since <= version {
		return nil
	}
	if binding {
		return report.Usagef("--compat=%d: only systemd %d and newer could decrypt this (%s, %d bytes); use other keys, or bind it to PCRs",
			version, since, blob.Type, len(sealed))
	}
	if running, err := systemd.Version("/"); err == nil && running == version {
		report.Warn("only systemd %d and newer can decrypt this, and %d runs here", since, running)
	}
	return nil
}

// autoParts picks the host key unless it would be gone after a reboot, and the
// TPM if there is one. It says so when that is not both. For an initrd, which has
// no host key, it picks the TPM, or nothing. PCRs need the TPM.
func (s *Sealer) autoParts() (credential.Parts, error) {
	device, err := tpmdevice.Open(s.Device)
	if err == nil {
		device.Close()
		// systemd-creds asks the kernel, whatever TPM it is told to use.
		if support, _ := machine.Support("/"); s.Lenient && !support.Driver {
			err = fmt.Errorf("%w that the kernel knows of", tpmdevice.ErrNoTPM)
		}
	}
	if err != nil && (s.PCRs != 0 || !errors.Is(err, tpmdevice.ErrNoTPM)) {
		return 0, err
	}
	if s.Key == keyAutoInitrd {
		if err != nil {
			return credential.PartNull, nil
		}
		return credential.PartTPM2, nil
	}
	path, pathErr := hostkey.Path()
	if pathErr != nil {
		return 0, pathErr
	}
	temporary, tempErr := machine.Temporary(filepath.Dir(path))
	if tempErr != nil {
		return 0, tempErr
	}
	switch {
	case err == nil && !temporary:
		return credential.PartHost | credential.PartTPM2, nil
	case err == nil:
		report.Warn("sealing to the TPM only: %s, where the host key would be, is gone after a reboot", filepath.Dir(path))
		return credential.PartTPM2, nil
	case !temporary:
		report.Warn("sealing to the host key only: %v", err)
		return credential.PartHost, nil
	}
	return 0, fmt.Errorf("there is nothing to seal to: %s, where the host key would be, is gone after a reboot, and %w", filepath.Dir(path), err)
}

// MakeHostKey returns the host key, and makes it first if there is none.
func MakeHostKey() ([]byte, error) {
	key, path, err := EnsureHostKey()
	if err != nil {
		return nil, err
	}
	if medium, err := machine.EncryptedMedium("/", path); err != nil || medium == machine.Unencrypted {
		report.Warn("Credential secret file '%s' is not located on encrypted media, using anyway.", path) // systemd's words
	}
	return key, nil
}

func EnsureHostKey() (key []byte, path string, err error) {
	if path, err = hostkey.Path(); err != nil {
		return nil, "", err
	}
	id, err := machine.ID(root.Dir("/"))
	if err != nil {
		return nil, "", err
	}
	key, err = hostkey.Create(path, id)
	return key, path, err
}
