package main

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/internal/encryption"
	"github.com/bootseal/bootseal/internal/hostkey"
	"github.com/bootseal/bootseal/internal/machine"
	"github.com/bootseal/bootseal/internal/root"
	"github.com/bootseal/bootseal/internal/tpm"
	"github.com/bootseal/bootseal/internal/tpmdevice"
)

var (
	// errNoBlob says that the sealed credential is not where it should be.
	errNoBlob = errors.New("no sealed credential there")
	// errNullKey says that a null credential was met and is not accepted here.
	errNullKey = errors.New("sealed with the null key, which everybody can do")
)

// sealed is a credential file that has been read, not yet opened.
type sealed struct {
	file string // for messages
	name string // that it must be for; "" for any
	blob *credential.Blob
}

// sealedError says which of several credentials could not be opened. Errors that
// are about none of them are about the TPM.
type sealedError struct {
	sealed *sealed
	err    error
}

func (e *sealedError) Error() string { return fmt.Sprintf("%s: %v", e.sealed.file, e.err) }

func (e *sealedError) Unwrap() error { return e.err }

// readSealed reads and parses a credential file.
func readSealed(file, name string) (*sealed, error) {
	text, err := root.Dir("/").ReadFile(file, credential.MaxText)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", file, errNoBlob)
	}
	if err != nil {
		return nil, err
	}
	return parseSealed(text, file, name)
}

func parseSealed(text []byte, file, name string) (*sealed, error) {
	data, err := credential.DecodeText(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	blob, err := credential.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return &sealed{file, name, blob}, nil
}

// opening is how credentials are opened.
type opening struct {
	device     string            // as --tpm2-device= has it
	signature  string            // file with PCR signatures; "" is systemd's search
	allowNull  bool              // even where Secure Boot is on
	refuseNull bool              // everywhere
	scope      *encryption.Scope // of whose user; nil is the system
	anyScope   bool              // also the system where there is a scope, and root where there is none
	now        time.Time         // when they must not have expired
	booting    bool              // the TPM's driver may still be on its way
}

// open opens all credentials or none, with one connection to the TPM and one
// reading of the host key. The caller wipes what it gets.
func (o opening) open(all []*sealed) ([]*encryption.Plaintext, error) {
	var keys encryption.Keys
	blobs := make([]*credential.Blob, len(all))
	scopes := make([]*encryption.Scope, len(all))
	needsTPM2 := false
	var isSigned *sealed
	for i, s := range all {
		blobs[i] = s.blob
		needsTPM2 = needsTPM2 || s.blob.Type.NeedsTPM2()
		if s.blob.Type.HasPublicKey() && isSigned == nil {
			isSigned = s
		}
		if err := o.acceptNull(s); err != nil {
			return nil, err
		}
		var err error
		if scopes[i], err = o.scopeFor(s.blob.Type); err != nil {
			return nil, &sealedError{s, err}
		}
		if s.blob.Type.NeedsHost() && keys.Host == nil {
			host, err := hostKey()
			if err != nil {
				return nil, &sealedError{s, err}
			}
			keys.Host = host
			defer clear(host)
		}
	}
	var sigs *tpm.Signatures
	if isSigned != nil {
		var err error
		if sigs, err = signatures(o.signature); err != nil {
			return nil, &sealedError{isSigned, err}
		}
	}
	secrets := make([][]byte, len(all))
	if needsTPM2 {
		if o.booting {
			tpmdevice.Await(o.device)
		}
		t, err := tpmdevice.Open(o.device)
		if err != nil {
			return nil, err
		}
		defer t.Close()
		secrets, err = tpm.UnsealAll(tpm.Retry(t), blobs, sigs)
		if err != nil {
			var at *tpm.BlobError
			if errors.As(err, &at) {
				s := all[at.Index]
				return nil, &sealedError{s, s.nameMoved(at.Err)}
			}
			return nil, err
		}
		defer tpm.Wipe(secrets)
	}
	opened := make([]*encryption.Plaintext, 0, len(all))
	for i, s := range all {
		keys.TPM2, keys.Scope = secrets[i], scopes[i]
		p, err := encryption.Open(s.blob, keys)
		if err == nil {
			opened = append(opened, p)
			err = p.Check(s.name, uint64(o.now.UnixMicro()))
		}
		if err != nil {
			wipe(opened)
			return nil, &sealedError{s, err}
		}
	}
	return opened, nil
}

// scopeFor returns the scope to open a credential in.
func (o opening) scopeFor(t credential.Type) (*encryption.Scope, error) {
	switch {
	case t.Scoped() && o.scope == nil && o.anyScope:
		return scopeOf("root")
	case t.Scoped() && o.scope == nil:
		return nil, fmt.Errorf("%w: it is a user's, and no user was named", credential.ErrScopeMismatch)
	case !t.Scoped() && o.scope != nil && !o.anyScope:
		return nil, fmt.Errorf("%w: it is the system's, and a user was named", credential.ErrScopeMismatch)
	case !t.Scoped():
		return nil, nil
	}
	return o.scope, nil
}

// acceptNull refuses null credentials where the machine is not to accept them.
func (o opening) acceptNull(s *sealed) error {
	if s.blob.Type != credential.TypeNull || o.allowNull {
		return nil
	}
	if o.refuseNull {
		return &sealedError{s, errNullKey}
	}
	accepted, err := machine.AcceptsNullKeys("/")
	if err == nil && !accepted {
		err = &sealedError{s, errNullKey}
	}
	return err
}

func hostKey() ([]byte, error) {
	path, err := hostkey.Path()
	if err != nil {
		return nil, err
	}
	id, err := machine.ID("/")
	if err != nil {
		return nil, err
	}
	return hostkey.Read(path, id)
}

func wipe(all []*encryption.Plaintext) {
	for _, p := range all {
		p.Wipe()
	}
}
