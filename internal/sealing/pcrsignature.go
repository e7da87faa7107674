package sealing

import (
	"errors"
	"fmt"
	"io/fs"
	"path"

	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/internal/report"
	"github.com/bootseal/bootseal/internal/root"
	"github.com/bootseal/bootseal/internal/stdio"
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

var signatureFolders = []string{"/etc/systemd", "/run/systemd", "/usr/local/lib/systemd", "/usr/lib/systemd"}

// findFile reads the file that was given, or else the first of the name base in
// signatureFolders. The error is fs.ErrNotExist where there is none.
func findFile(given, base string, limit int64) (data []byte, file string, err error) {
	if given != "" {
		data, err = root.Dir("/").ReadFile(given, limit)
		return data, given, err
	}
	folders := signatureFolders
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

// Signatures reads the PCR signatures, nil if there are none.
func Signatures(given string) (*tpm.Signatures, error) {
	data, file, err := findFile(given, signatureFile, tpm.MaxSignatureFile)
	if errors.Is(err, fs.ErrNotExist) {
		if given != "" {
			return nil, fmt.Errorf("reading %s: %w", given, stdio.ErrNotFound)
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
func (s *Sealer) signer() (*credential.PublicKey, error) {
	data, _, err := findFile(s.PublicKey, publicKeyFile, maxPublicKey)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading the public key: %w: %w", stdio.ErrNotFound, err)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the public key: %w", err)
	}
	key := &credential.PublicKey{PCRMask: signedPCRs, PEM: data}
	if s.PublicKeyPCRs != nil {
		if key.PCRMask = *s.PublicKeyPCRs; key.PCRMask == 0 {
			return nil, report.Usagef("--tpm2-public-key-pcrs=: without PCRs no systemd could open the credential")
		}
	}
	return key, nil
}
