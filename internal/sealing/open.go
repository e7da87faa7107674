// Package sealing opens and makes credential files on this machine: with its keys,
// for its users, for the systemd that runs here. Whoever opens one says for whom, by
// one of the ways named here; null keys, which everybody can seal with, are refused
// unless that way accepts them.
package sealing

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/internal/encryption"
	"github.com/bootseal/bootseal/internal/failure"
	"github.com/bootseal/bootseal/internal/hostkey"
	"github.com/bootseal/bootseal/internal/machine"
	"github.com/bootseal/bootseal/internal/root"
	"github.com/bootseal/bootseal/internal/tpm"
	"github.com/bootseal/bootseal/internal/tpmdevice"
)

var (
	// ErrNoBlob says that the sealed credential is not where it should be.
	ErrNoBlob = failure.Missing.New("no sealed credential there", "encrypt the secret with \"bootseal encrypt\"")
	// ErrNullKey says that a null credential was met and is not accepted here.
	ErrNullKey = failure.Unfit.New("sealed with the null key, which everybody can do", "encrypt the secret with a key; --allow-null accepts it all the same")
)

// File is a credential file that has been read, not yet opened.
type File struct {
	Path string // for messages
	Name string // that it must be for; "" for any
	Blob *credential.Blob
}

// FileError says which of several credentials could not be opened. Errors that
// are about none of them are about the TPM.
type FileError struct {
	File *File
	Err  error
}

func (e *FileError) Error() string { return fmt.Sprintf("%s: %v", e.File.Path, e.Err) }

func (e *FileError) Unwrap() error { return e.Err }

// Read reads and parses a credential file.
func Read(file, name string) (*File, error) {
	text, err := root.Dir("/").ReadFile(file, credential.MaxText)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", file, ErrNoBlob)
	}
	if err != nil {
		return nil, err
	}
	return Parse(text, file, name)
}

// Parse parses the text of a credential file.
func Parse(text []byte, file, name string) (*File, error) {
	data, err := credential.DecodeText(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	blob, err := credential.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return &File{file, name, blob}, nil
}

// Null says whether credentials with the null key are accepted.
type Null int

const (
	NullByMachine Null = iota // where systemd would accept them
	NullAccepted              // also where Secure Boot is on
	NullRefused               // nowhere
)

// Opener is how credentials are opened.
type Opener struct {
	Device    string // as --tpm2-device= has it
	Signature string // file with PCR signatures; "" is systemd's search
	Null      Null
	Scope     *encryption.Scope // of whose user; nil is the system
	Now       time.Time         // when they must not have expired

	anyScope bool // also the system where there is a scope, and root where there is none
	booting  bool // the TPM's driver may still be on its way
}

// ForUnit opens for a unit, as PID 1 does: also what is for root, and what is for
// nobody in particular.
func ForUnit(null Null) Opener {
	return Opener{Null: null, Now: time.Now(), anyScope: true}
}

// ForBootingUnit is ForUnit where the machine may still be on its way up: the TPM
// is waited for.
func ForBootingUnit(null Null) Opener {
	o := ForUnit(null)
	o.booting = true
	return o
}

// ForAnyScope opens a credential whoever it is for, to be sealed again or for a try.
func ForAnyScope(device, signature string, null Null) Opener {
	o := ForUnit(null)
	o.Device, o.Signature = device, signature
	return o
}

// AsPassed is the opener for what PID 1 has passed on: its scope is its own.
func (o Opener) AsPassed() Opener {
	o.anyScope = true
	return o
}

// Try opens all credentials and keeps none of them. The errors are those of Open.
func (o Opener) Try(all []*File) error {
	opened, err := o.Open(all)
	Wipe(opened)
	return err
}

// Open opens all credentials or none, with one connection to the TPM and one
// reading of the host key. The caller wipes what it gets.
func (o Opener) Open(all []*File) ([]*encryption.Plaintext, error) {
	var keys encryption.Keys
	blobs := make([]*credential.Blob, len(all))
	scopes := make([]*encryption.Scope, len(all))
	needsTPM2 := false
	var isSigned *File
	for i, s := range all {
		blobs[i] = s.Blob
		needsTPM2 = needsTPM2 || s.Blob.Type.NeedsTPM2()
		if s.Blob.Type.HasPublicKey() && isSigned == nil {
			isSigned = s
		}
		if err := o.acceptNull(s); err != nil {
			return nil, err
		}
		var err error
		if scopes[i], err = o.scopeFor(s.Blob.Type); err != nil {
			return nil, &FileError{s, err}
		}
		if s.Blob.Type.NeedsHost() && keys.Host == nil {
			host, err := HostKey()
			if err != nil {
				return nil, &FileError{s, err}
			}
			keys.Host = host
			defer clear(host)
		}
	}
	var sigs *tpm.Signatures
	if isSigned != nil {
		var err error
		if sigs, err = Signatures(o.Signature); err != nil {
			return nil, &FileError{isSigned, err}
		}
	}
	secrets := make([][]byte, len(all))
	if needsTPM2 {
		if o.booting {
			tpmdevice.Await(o.Device)
		}
		t, err := tpmdevice.Open(o.Device)
		if err != nil {
			return nil, err
		}
		defer t.Close()
		secrets, err = tpm.UnsealAll(tpm.Retry(t), blobs, sigs)
		if err != nil {
			var at *tpm.BlobError
			if errors.As(err, &at) {
				s := all[at.Index]
				return nil, &FileError{s, s.NameChangedPCRs(at.Err)}
			}
			return nil, err
		}
		defer tpm.Wipe(secrets)
	}
	opened := make([]*encryption.Plaintext, 0, len(all))
	for i, s := range all {
		keys.TPM2, keys.Scope = secrets[i], scopes[i]
		p, err := encryption.Open(s.Blob, keys)
		if err == nil {
			opened = append(opened, p)
			err = p.Check(s.Name, uint64(o.Now.UnixMicro()))
		}
		if err != nil {
			Wipe(opened)
			return nil, &FileError{s, err}
		}
	}
	return opened, nil
}

// scopeFor returns the scope to open a credential in.
func (o Opener) scopeFor(t credential.Type) (*encryption.Scope, error) {
	switch {
	case t.Scoped() && o.Scope == nil && o.anyScope:
		return ScopeOf("root")
	case t.Scoped() && o.Scope == nil:
		return nil, fmt.Errorf("%w: it is a user's, and no user was named", credential.ErrScopeMismatch)
	case !t.Scoped() && o.Scope != nil && !o.anyScope:
		return nil, fmt.Errorf("%w: it is the system's, and a user was named", credential.ErrScopeMismatch)
	case !t.Scoped():
		return nil, nil
	}
	return o.Scope, nil
}

// acceptNull refuses null credentials where the machine is not to accept them.
func (o Opener) acceptNull(s *File) error {
	if s.Blob.Type != credential.TypeNull || o.Null == NullAccepted {
		return nil
	}
	if o.Null == NullRefused {
		return &FileError{s, ErrNullKey}
	}
	accepted, err := machine.AcceptsNullKeys("/")
	if err == nil && !accepted {
		err = &FileError{s, ErrNullKey}
	}
	return err
}

// HostKey reads the host key of this machine. The caller clears it.
func HostKey() ([]byte, error) {
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

// Wipe overwrites the payloads.
func Wipe(all []*encryption.Plaintext) {
	for _, p := range all {
		p.Wipe()
	}
}
