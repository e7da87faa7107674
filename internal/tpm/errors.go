package tpm

import (
	"errors"
	"fmt"
)

// One error per cause; whatever fails wraps exactly one of them. A TPM's
// response code, where there is one, can be had with errors.As(err, *tpm2.TPMRC).
var (
	ErrLockout        = errors.New("TPM is in dictionary-attack lockout")
	ErrOwnerAuth      = errors.New("owner hierarchy of the TPM has a password")
	ErrForeignKey     = errors.New("secret was sealed by another TPM, before this one was cleared, or is damaged")
	ErrPolicyMismatch = errors.New("TPM policy does not match")
	ErrBusy           = errors.New("TPM stays busy")
	ErrNoSRK          = errors.New("TPM has no storage root key")
	ErrBadReply       = errors.New("TPM sent an invalid reply")
	ErrTransport      = errors.New("cannot talk to the TPM")
	ErrTPM            = errors.New("TPM refused a command")
	ErrBank           = errors.New("no usable PCR bank")
	ErrTPMBlob        = errors.New("invalid TPM blob")
	ErrPublicKey      = errors.New("invalid public key")
	ErrSignatureFile  = errors.New("invalid PCR signature file")
	ErrNoSignatures   = errors.New("no PCR signature file")
	ErrNoSignature    = errors.New("no PCR signature matches")
	ErrSignature      = errors.New("PCR signature is not valid")
)

// BlobError says which of the blobs given to [UnsealAll] failed.
type BlobError struct {
	Index int
	Err   error
}

func (e *BlobError) Error() string { return fmt.Sprintf("credential %d: %v", e.Index+1, e.Err) }
func (e *BlobError) Unwrap() error { return e.Err }

// PolicyError is the detail of an [ErrPolicyMismatch].
type PolicyError struct {
	PCRs   []int  // literal PCRs the secret is bound to
	Bank   uint16 // a TPM_ALG_ID
	Absent []int  // those of them that the bank does not have on this TPM
	Reason string
}

func (e *PolicyError) Error() string { return e.Reason }
func (e *PolicyError) Unwrap() error { return ErrPolicyMismatch }
