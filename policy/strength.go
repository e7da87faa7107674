package policy

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/internal/root"
)

// ReadBlob reads the blob of a policy's credential, of at most credential.MaxText
// bytes, and makes sure that it is sealed as strongly as the policy demands. An error
// is one of reading, such as fs.ErrNotExist, or of package credential, or says what is
// too weak.
func ReadBlob(dir root.Dir, p *Policy, c Credential) (*credential.Blob, error) {
	blob, err := readBlob(dir, c.Source)
	if err == nil {
		err = p.Seal.Check(blob)
	}
	if errors.Is(err, fs.ErrPermission) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf(`credential %s, %s: %w; seal it again with "bootseal encrypt --unit=%s %s"`, c.Name, c.Source, err, p.Unit, c.Name)
	}
	return blob, nil
}

func readBlob(dir root.Dir, file string) (*credential.Blob, error) {
	text, err := dir.ReadFile(file, credential.MaxText)
	if err != nil {
		return nil, err
	}
	data, err := credential.DecodeText(text)
	if err != nil {
		return nil, err
	}
	return credential.Parse(data)
}

// Check holds a blob against what [seal] demands. The error says what is too weak.
func (s Seal) Check(blob *credential.Blob) error {
	var host, tpm2 bool
	switch s.Key {
	case KeyHost:
		host = true
	case KeyTPM2:
		tpm2 = true
	case KeyHostTPM2:
		host, tpm2 = true, true
	}
	if blob.Type == credential.TypeNull && s.Key != KeyNull {
		return fmt.Errorf(`it is sealed with the null key, which protects nothing and has to be allowed by [seal] key = "null"`)
	}
	if host && !blob.Type.NeedsHost() || tpm2 && !blob.Type.NeedsTPM2() {
		return fmt.Errorf(`it is sealed with %q, weaker than the %q of [seal]`, blob.Type, s.Key)
	}
	if len(s.PCRs) == 0 {
		return nil
	}
	var bound []int
	if blob.TPM2 != nil {
		bound = credential.PCRs(blob.TPM2.PCRMask)
	}
	for _, pcr := range s.PCRs {
		if !slices.Contains(bound, pcr) {
			return fmt.Errorf(`it is bound to %s, but [seal] demands %s`, pcrs(bound), pcrs(s.PCRs))
		}
	}
	return nil
}

// pcrs names PCRs in a sentence.
func pcrs(list []int) string {
	if len(list) == 0 {
		return "no PCR"
	}
	var s []string
	for _, pcr := range list {
		s = append(s, strconv.Itoa(pcr))
	}
	return "PCR " + strings.Join(s, "+")
}
