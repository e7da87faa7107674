package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path"

	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/internal/root"
	"github.com/bootseal/bootseal/internal/tpm"
)

// Where systemd looks for what belongs to signed PCR policies; the last folder is
// for the initrd alone, into which the boot stub puts the files of the kernel
// image.
const (
	publicKeyFile = "tpm2-pcr-public-key.pem"
	signatureFile = "tpm2-pcr-signature.json"
	initrdFolder  = "/.extra"

	maxPublicKey = 1 << 20
	// signedPCRs are those that public keys sign if none are named:
	// systemd-stub(7) measures the kernel image into PCR 11.
	signedPCRs = 1 << 11
)

var signedFolders = []string{"/etc/systemd", "/run/systemd", "/usr/local/lib/systemd", "/usr/lib/systemd"}

// readSigned reads the file that was given, or else the first of the name base in
// signedFolders. The error is fs.ErrNotExist where there is none.
func readSigned(given, base string, limit int64) (data []byte, file string, err error) {
	if given != "" {
		data, err = root.Dir("/").ReadFile(given, limit)
		return data, given, err
	}
	folders := signedFolders
	if _, err := root.Dir("/").ReadFile("/etc/initrd-release", limit); err == nil {
		folders = append(folders[:len(folders):len(folders)], initrdFolder)
	}
	for _, folder := range folders {
		file = path.Join(folder, base)
		if data, err = root.Dir("/").ReadFile(file, limit); !errors.Is(err, fs.ErrNotExist) {
			return data, file, err
		}
	}
	return nil, "", fmt.Errorf("no %s in %v: %w", base, folders, fs.ErrNotExist)
}

// signatures reads the PCR signatures, nil if there are none.
func signatures(given string) (*tpm.Signatures, error) {
	data, file, err := readSigned(given, signatureFile, tpm.MaxSignatureFile)
	if errors.Is(err, fs.ErrNotExist) {
		if given != "" {
			return nil, fmt.Errorf("reading %s: %w", given, errNoInput)
		}
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading PCR signatures: %w", err)
	}
	s, err := tpm.ParseSignatures(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return s, nil
}

// signer reads the public key whose signatures over PCRs are to be accepted.
func (o *options) signer() (*credential.PublicKey, error) {
	data, _, err := readSigned(o.publicKey, publicKeyFile, maxPublicKey)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading the public key: %w: %w", errNoInput, err)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the public key: %w", err)
	}
	key := &credential.PublicKey{PCRMask: signedPCRs, PEM: data}
	if o.publicKeyPCRsGiven {
		if key.PCRMask, err = parsePCRs("tpm2-public-key-pcrs", o.publicKeyPCRs); err != nil {
			return nil, err
		}
		if key.PCRMask == 0 {
			return nil, usagef("--tpm2-public-key-pcrs=: without PCRs no systemd could open the credential")
		}
	}
	return key, nil
}
