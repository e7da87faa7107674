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
	"github.com/bootseal/bootseal/internal/machine"
	"github.com/bootseal/bootseal/internal/root"
	"github.com/bootseal/bootseal/internal/tpm"
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
	mask, err := parsePCRs(o.pcrs)
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
	if pretty {
		text = credential.EncodePretty(o.name, blob)
	}
	return writeOutput(output, text)
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
		var mask uint64
		for _, n := range p.Seal.PCRs {
			mask |= 1 << n
		}
		o.name = name
		blob, err := o.seal(input, p.Seal.Key, mask)
		if err != nil {
			return err
		}
		if filepath.Dir(c.Source) == policy.CredentialStore {
			if err := os.Mkdir(policy.CredentialStore, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
		}
		return writeOutput(c.Source, credential.EncodeText(blob))
	}
	return usagef("%s has no credential %q; it has %s", p.Path, name, strings.Join(names, ", "))
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
	keys, blob, err := o.makeKeys(key, mask)
	if err != nil {
		return nil, err
	}
	defer clear(keys.Host)
	defer clear(keys.TPM2)
	sealed, err := blob.Seal(keys, &credential.Plaintext{Name: o.name, Timestamp: timestamp, NotAfter: notAfter, Payload: payload})
	if err != nil {
		return nil, fmt.Errorf("encrypting: %w", err)
	}
	return sealed, nil
}

// makeKeys makes the keys that the word key stands for, and a blob with the
// headers that belong to them.
func (o *options) makeKeys(key string, mask uint64) (keys credential.Keys, blob *credential.Blob, err error) {
	defer func() {
		if err != nil {
			clear(keys.Host)
			clear(keys.TPM2)
		}
	}()
	parts := map[string]credential.Parts{
		policy.KeyNull:     credential.PartNull,
		policy.KeyHost:     credential.PartHost,
		policy.KeyTPM2:     credential.PartTPM2,
		policy.KeyHostTPM2: credential.PartHost | credential.PartTPM2,
	}[key]
	if key == policy.KeyAuto {
		if parts, err = o.autoParts(mask); err != nil {
			return keys, nil, err
		}
	}
	if parts == credential.PartNull {
		warn("the null key keeps nothing secret, and everybody can make such a credential")
	}
	kind, err := parts.Type()
	if err != nil {
		return keys, nil, err
	}
	blob = &credential.Blob{Type: kind}
	if parts&credential.PartHost != 0 {
		if keys.Host, err = makeHostKey(); err != nil {
			return keys, nil, err
		}
	}
	if parts&credential.PartTPM2 == 0 {
		if mask != 0 {
			return keys, nil, usagef("PCRs are for credentials that are sealed to the TPM, not for --with-key=%s", key)
		}
		return keys, blob, nil
	}
	device, err := machine.OpenTPM(o.device)
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

// autoParts picks the host key unless it would be gone after a reboot, and the
// TPM if there is one. It says so when that is not both. PCRs need the TPM.
func (o *options) autoParts(mask uint64) (credential.Parts, error) {
	path, err := machine.HostKeyPath()
	if err != nil {
		return 0, err
	}
	temporary, err := machine.Temporary(filepath.Dir(path))
	if err != nil {
		return 0, err
	}
	device, err := machine.OpenTPM(o.device)
	if err == nil {
		device.Close()
	} else if mask != 0 || !errors.Is(err, machine.ErrNoTPM) {
		return 0, err
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
	path, err := machine.HostKeyPath()
	if err != nil {
		return nil, err
	}
	id, err := machine.ID(root.Dir("/"))
	if err != nil {
		return nil, err
	}
	key, err := machine.CreateHostKey(path, id)
	if err != nil {
		return nil, err
	}
	if medium, err := machine.EncryptedMedium("/", path); err != nil || medium == machine.Unencrypted {
		warn("the host key %s is not on an encrypted disk; using it anyway", path)
	}
	return key, nil
}
