package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/internal/encryption"
	"github.com/bootseal/bootseal/internal/hostkey"
	"github.com/bootseal/bootseal/internal/machine"
	"github.com/bootseal/bootseal/internal/root"
	"github.com/bootseal/bootseal/internal/systemd"
	"github.com/bootseal/bootseal/internal/tpm"
	"github.com/bootseal/bootseal/internal/tpmdevice"
	"github.com/bootseal/bootseal/policy"
)

// encrypt is the verb of systemd-creds(1), and with --unit= one that takes key,
// PCRs and output from the unit's policy.
func encrypt(args []string) error {
	o, err := parse("encrypt", args, 1, 2)
	if err != nil {
		return err
	}
	if o.unitGiven {
		return o.encryptForUnit()
	}
	if len(o.arguments) < 2 {
		return usagef("encrypt: too few arguments; expected INPUT OUTPUT")
	}
	input, output := o.arguments[0], o.arguments[1]
	if !o.nameGiven && output != "-" {
		o.name = filepath.Base(output)
		if !credential.ValidName(o.name) {
			return usagef("%s: the file name is not a credential's name; give one with --name=", output)
		}
	}
	mask, err := parsePCRs("tpm2-pcrs", o.pcrs)
	if err != nil {
		return err
	}
	pretty := o.pretty && output == "-" && o.name != ""
	if pretty && strings.ContainsAny(o.name, "'\"\\%") {
		return usagef("--name=%q: systemd reads a setting with quotes, backslashes or \"%%\" in the name back as another one", o.name)
	}
	blob, err := o.seal(input, o.key, mask)
	if err != nil {
		return err
	}
	if o.name == "" && !o.nameGiven {
		warn("the credential has no name and will be accepted under any; --name= sets one, or an empty one without this warning")
	}
	text := credential.EncodeText(blob)
	switch {
	case pretty:
		text = credential.EncodePretty(o.name, blob)
	case o.pretty:
		text = credential.EncodePretty("", blob)
	}
	return o.writeSealed(output, text)
}

// encryptForUnit puts NAME's blob where the policy of the unit looks for it.
func (o *options) encryptForUnit() error {
	if o.sealGiven {
		return usagef("encrypt: --unit= takes name, key and PCRs from the policy; expected no other option for them")
	}
	unit := o.unit
	if !strings.Contains(unit, ".") {
		unit += ".service"
	}
	p, err := policy.ForUnit("/", unit)
	if err != nil {
		return err
	}
	name, input := o.arguments[0], "-"
	if len(o.arguments) > 1 {
		input = o.arguments[1]
	}
	var names []string
	for _, c := range p.Credentials {
		if c.Name != name {
			names = append(names, c.Name)
			continue
		}
		o.name = name
		blob, err := o.seal(input, p.Seal.Key, p.Seal.Mask())
		if err != nil {
			return err
		}
		if err := makeStore(c.Source); err != nil {
			return err
		}
		return o.writeSealed(c.Source, credential.EncodeText(blob))
	}
	return usagef("%s has no credential %q; it has %s", p.Path, name, strings.Join(names, ", "))
}

// makeStore makes the folder where blobs lie by default, if the file is to go there.
func makeStore(file string) error {
	if filepath.Dir(file) != policy.CredentialStore {
		return nil
	}
	if err := os.Mkdir(policy.CredentialStore, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// writeSealed writes a blob where it was asked for.
func (o *options) writeSealed(output string, text []byte) error {
	if err := writeOutput(output, text); err != nil || output == "-" {
		return err
	}
	o.notePCRs(output, text)
	return nil
}

// seal encrypts the input and returns the blob.
func (o *options) seal(input, key string, mask uint64) ([]byte, error) {
	timestamp, notAfter, err := o.times(time.Now())
	if err != nil {
		return nil, err
	}
	if notAfter <= timestamp {
		return nil, usagef("--not-after=%s is not after the timestamp of the credential", o.notAfter)
	}
	payload, err := readInput(input, credential.MaxPayload)
	if err != nil {
		return nil, err
	}
	defer clear(payload)
	return o.sealPlaintext(key, mask, &encryption.Plaintext{Name: o.name, Timestamp: timestamp, NotAfter: notAfter, Payload: payload})
}

// sealPlaintext seals with what the word key stands for.
func (o *options) sealPlaintext(key string, mask uint64, plain *encryption.Plaintext) ([]byte, error) {
	keys, blob, err := o.makeKeys(key, mask)
	if err != nil {
		return nil, err
	}
	defer clear(keys.Host)
	defer clear(keys.TPM2)
	sealed, err := encryption.Seal(blob, keys, plain)
	if err != nil {
		return nil, fmt.Errorf("encrypting: %w", err)
	}
	return sealed, o.checkTarget(sealed)
}

// The words of --with-key= that stand for other ones, by what the machine has.
const (
	keyAutoInitrd = "auto-initrd"
	keyTPM2Best   = "-T" // no word: the option of that name
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

func keyWords() []string {
	words := []string{policy.KeyAuto, keyAutoInitrd}
	for _, k := range keyTypes {
		words = append(words, k.word)
	}
	return words
}

// makeKeys makes the keys that the word key stands for, and a blob with the
// headers that belong to them.
func (o *options) makeKeys(key string, mask uint64) (keys encryption.Keys, blob *credential.Blob, err error) {
	defer func() {
		if err != nil {
			clear(keys.Host)
			clear(keys.TPM2)
		}
	}()
	blob = &credential.Blob{}
	parts, err := o.parts(key, mask, blob)
	if err != nil {
		return keys, nil, err
	}
	if parts == credential.PartNull {
		warn("the null key keeps nothing secret, and everybody can make such a credential")
	}
	if blob.Type, err = parts.Type(); err != nil {
		return keys, nil, err
	}
	keys.Scope = o.scope
	if blob.Type.NeedsHost() {
		if keys.Host, err = makeHostKey(); err != nil {
			return keys, nil, err
		}
	}
	if !blob.Type.NeedsTPM2() {
		return keys, blob, nil
	}
	device, err := tpmdevice.Open(o.device)
	if err != nil {
		return keys, nil, err
	}
	defer device.Close()
	keys.TPM2 = make([]byte, tpm.SecretSize)
	if _, err = rand.Read(keys.TPM2); err != nil {
		return keys, nil, err
	}
	blob.TPM2 = &credential.TPM2{PCRMask: mask}
	if err = tpm.Seal(tpm.Retry(device), blob, keys.TPM2); err != nil {
		return keys, nil, err
	}
	return keys, blob, nil
}

// parts finds out which keys the word key means here, and reads the public key
// into the blob if it is one of them.
func (o *options) parts(key string, mask uint64, blob *credential.Blob) (parts credential.Parts, err error) {
	ifFound := false // the public key
	switch key {
	case policy.KeyAuto, keyAutoInitrd:
		ifFound = true
		parts, err = o.autoParts(key, mask)
	case keyTPM2Best:
		ifFound = true
		parts = credential.PartTPM2
	default:
		for _, k := range keyTypes {
			if k.word == key {
				parts = k.parts
			}
		}
	}
	if err != nil {
		return 0, err
	}
	version, _ := o.target()
	if ifFound && parts&credential.PartTPM2 != 0 {
		// As 262 does: only what the firmware has measured can be signed for.
		if o.publicKey != "" || machine.FirmwareTPM2("/") && systemd.SignedPolicies.In(version) {
			parts |= credential.PartPublicKey
		}
	}
	if parts&credential.PartPublicKey != 0 {
		blob.PublicKey, err = o.signer()
		if ifFound && o.publicKey == "" && errors.Is(err, errNoInput) {
			parts &^= credential.PartPublicKey
			err = nil
		}
		if err != nil {
			return 0, err
		}
	}
	if !asSystemdCreds() {
		if mask != 0 && parts&credential.PartTPM2 == 0 {
			return 0, usagef("PCRs are for credentials that are sealed to the TPM, not for --with-key=%s", key)
		}
		if (o.publicKey != "" || o.publicKeyPCRsGiven) && parts&credential.PartPublicKey == 0 {
			return 0, usagef("a public key is for --with-key=tpm2-with-public-key or host+tpm2-with-public-key, not for %s", key)
		}
	}
	if o.scope != nil {
		if parts&credential.PartHost == 0 {
			return 0, usagef("credentials of one user need the host key: expected --with-key=host or one with host+")
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
func (o *options) target() (version int, binding bool) {
	if o.compat != 0 {
		return o.compat, true
	}
	running, err := systemd.Version("/")
	if err != nil || !systemd.EncryptedCredentials.In(running) {
		return systemd.EncryptedCredentials.From, false
	}
	return running, false
}

// checkTarget refuses what the systemd meant to read it could not.
func (o *options) checkTarget(sealed []byte) error {
	blob, err := credential.Parse(sealed)
	if err != nil {
		return err
	}
	version, binding := o.target()
	since := blob.Since()
	if since <= version {
		return nil
	}
	if binding {
		return usagef("--compat=%d: only systemd %d and newer could decrypt this (%s, %d bytes); use other keys, or bind it to PCRs",
			version, since, blob.Type, len(sealed))
	}
	if running, err := systemd.Version("/"); err == nil && running == version {
		warn("only systemd %d and newer can decrypt this, and %d runs here", since, running)
	}
	return nil
}

// autoParts picks the host key unless it would be gone after a reboot, and the
// TPM if there is one. It says so when that is not both. For an initrd, which has
// no host key, it picks the TPM, or nothing. PCRs need the TPM.
func (o *options) autoParts(key string, mask uint64) (credential.Parts, error) {
	device, err := tpmdevice.Open(o.device)
	if err == nil {
		device.Close()
		// systemd-creds asks the kernel, whatever TPM it is told to use.
		if support, _ := machine.Support("/"); asSystemdCreds() && !support.Driver {
			err = fmt.Errorf("%w that the kernel knows of", tpmdevice.ErrNoTPM)
		}
	}
	if err != nil && (mask != 0 || !errors.Is(err, tpmdevice.ErrNoTPM)) {
		return 0, err
	}
	if key == keyAutoInitrd {
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
		warn("sealing to the TPM only: %s, where the host key would be, is gone after a reboot", filepath.Dir(path))
		return credential.PartTPM2, nil
	case !temporary:
		warn("sealing to the host key only: %v", err)
		return credential.PartHost, nil
	}
	return 0, fmt.Errorf("there is nothing to seal to: %s, where the host key would be, is gone after a reboot, and %w", filepath.Dir(path), err)
}

// makeHostKey returns the host key, and makes it first if there is none.
func makeHostKey() ([]byte, error) {
	key, path, err := ensureHostKey()
	if err != nil {
		return nil, err
	}
	if medium, err := machine.EncryptedMedium("/", path); err != nil || medium == machine.Unencrypted {
		warn("Credential secret file '%s' is not located on encrypted media, using anyway.", path) // systemd's words
	}
	return key, nil
}

func ensureHostKey() (key []byte, path string, err error) {
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
