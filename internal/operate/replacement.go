package operate

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/bootseal/bootseal/internal/atomicfile"
	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/internal/encryption"
	"github.com/bootseal/bootseal/internal/root"
	"github.com/bootseal/bootseal/internal/sealing"
	"github.com/bootseal/bootseal/policy"
)

var (
	// errWeaker says that sealing again would bind to less than before.
	errWeaker = errors.New("not sealed again: it would be weaker")
	// errBrokenOff says that the old credential of an earlier run is still there.
	errBrokenOff = errors.New("an earlier run was broken off")
)

// oldSuffix is added to the name of a blob until the new one has proven itself.
const oldSuffix = ".bootseal-old"

// replacement is a blob that takes another's place.
type replacement struct {
	file     string
	old, new []byte // as they stand in the file
	kind     string // for the user
}

// apply puts the new blob into the file, and the old one beside it.
func (r *replacement) apply() error {
	if err := atomicfile.Write(r.file+oldSuffix, r.old, 0o600); err != nil {
		return err
	}
	return errors.Join(atomicfile.Write(r.file, r.new, 0o600), verify(r.file, r.new))
}

// verify makes sure that what has been proven is what stands in the file.
func verify(file string, text []byte) error {
	found, err := root.Dir("/").ReadFile(file, credential.MaxText)
	if err != nil {
		return err
	}
	if !bytes.Equal(found, text) {
		return fmt.Errorf("%s: %w", file, sealing.ErrUnproven)
	}
	return nil
}

// undo puts the old blob back. Where that fails it is still kept beside it.
func (r *replacement) undo() error {
	if err := atomicfile.Write(r.file, r.old, 0o600); err != nil {
		return err
	}
	return r.finish()
}

// finish removes the old blob.
func (r *replacement) finish() error {
	if err := os.Remove(r.file + oldSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// newReplacement reads the blob of a credential.
func newReplacement(file string) (*replacement, error) {
	if _, err := os.Lstat(file + oldSuffix); err == nil {
		return nil, fmt.Errorf("%s: %w: %s is what was there before it; move it back, or remove it", file, errBrokenOff, file+oldSuffix)
	}
	text, err := root.Dir("/").ReadFile(file, credential.MaxText)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", file, sealing.ErrNoBlob)
	}
	return &replacement{file: file, old: text}, err
}

// seal makes the new blob as the policy's [seal] says.
func (r *replacement) seal(with sealing.Sealer, p *policy.Policy, plain *encryption.Plaintext, old *credential.Blob) error {
	text, t, err := with.SealFor(p, r.file, plain)
	if err != nil {
		return err
	}
	lost := old.Type.Parts() &^ t.Parts()
	if lost&(credential.PartPublicKey|credential.PartScope) != 0 || p.Seal.Key == policy.KeyAuto && lost&(credential.PartHost|credential.PartTPM2) != 0 {
		return fmt.Errorf("%s: %w: from %s to %s", r.file, errWeaker, old.Type, t)
	}
	r.new, r.kind = text, sealKind(p, t)
	return nil
}

// sealKind says what a blob is sealed with.
func sealKind(p *policy.Policy, t credential.Type) string {
	if len(p.Seal.PCRs) > 0 {
		return fmt.Sprintf("%s, PCR %s", t, sealing.JoinPCRs(p.Seal.PCRs))
	}
	return t.String()
}

// replaceAll puts all new blobs in place, or none. It cannot be interrupted.
func replaceAll(all []*replacement) error {
	uninterrupted()
	for i, r := range all {
		if err := r.apply(); err != nil {
			return errors.Join(fmt.Errorf("%s: %w", r.file, err), undoAll(all[:i+1]))
		}
	}
	return nil
}

func undoAll(all []*replacement) error {
	var errs []error
	for _, r := range all {
		errs = append(errs, r.undo())
	}
	return errors.Join(errs...)
}
