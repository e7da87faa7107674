package tpm

import (
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/bootseal/bootseal/internal/failure"
)

// One error per cause; whatever fails for a reason of the TPM's wraps one of
// them. errors.As with a *tpm2.TPMRC gives the response code, where there is one.
var (
	ErrLockout        = failure.LockedOut.NewOfTPM("the TPM is in dictionary-attack lockout", "wait, or reset the lockout with \"tpm2_dictionarylockout --clear-lockout\" and the lockout password; a TPM recovers by itself with time")
	ErrOwnerAuth      = failure.Other.NewOfTPM("the owner hierarchy of the TPM has a password", "the TPM's owner password must be empty; see tpm2_changeauth(1)")
	ErrForeignKey     = failure.OtherTPM.New("the secret was sealed by another TPM or before this one was cleared, or it is damaged", "encrypt the secret again on this machine")
	ErrPolicyMismatch = failure.WrongPCRs.New("the TPM policy is not met", "the machine was started in another way than when the secret was sealed (firmware, boot loader or kernel update, Secure Boot keys); "+
		"start it as before, or encrypt the secret again")
	ErrBusy          = failure.Busy.NewOfTPM("the TPM stays busy", failure.TPMBusyHint)
	ErrNoSRK         = failure.OtherTPM.New("the TPM has no storage root key", "encrypt the secret again on this machine")
	ErrBadReply      = failure.TPMFailed.NewOfTPM("the TPM sent an invalid reply", failure.TPMFailedHint)
	ErrTransport     = failure.TPMFailed.NewOfTPM("the TPM cannot be reached", failure.TPMFailedHint)
	ErrTPM           = failure.TPMFailed.New("the TPM refused a command", failure.TPMFailedHint)
	ErrBank          = failure.Other.New("no PCR bank can be used", "name PCRs with --tpm2-pcrs= that the firmware or the kernel measures something into, such as 7")
	ErrTPMBlob       = failure.Damaged.New("invalid TPM blob", "on another machine, or with another credential.secret, it cannot be opened either; restore the file from a copy, or encrypt the secret again")
	ErrPublicKey     = failure.Damaged.New("invalid public key", "expected an RSA key in PEM, as \"openssl rsa -pubout\" writes it")
	ErrSignatureFile = failure.Signature.New("invalid PCR signature file", "make the file again with \"systemd-measure sign\"")
	ErrNoSignatures  = failure.Signature.New("there is no PCR signature file", "install the tpm2-pcr-signature.json that came with the kernel that runs into /run/systemd or /etc/systemd, or name it with --tpm2-signature=")
	ErrNoSignature   = failure.Signature.New("no PCR signature is for this key and these PCR values", "the file must come with the kernel that runs, and be signed with the key that the credential was encrypted for")
	ErrSignature     = failure.Signature.New("the PCR signature is not valid", "the file must come with the kernel that runs, and be signed with the key that the credential was encrypted for")
)

// BlobError says which of the blobs given to [UnsealAll] failed.
type BlobError struct {
	Index int
	Err   error
}

func (e *BlobError) Error() string { return fmt.Sprintf("credential %d: %v", e.Index+1, e.Err) }
func (e *BlobError) Unwrap() error { return e.Err }

// PolicyError is what is known about an [ErrPolicyMismatch].
type PolicyError struct {
	PCRs   []int  // literal PCRs the secret is bound to
	Bank   uint16 // their bank, a TPM_ALG_ID
	Absent []int  // those that this TPM does not have in that bank
	Reason string

	now map[int][]byte // values of PCRs, nil if they are not what is wrong
}

func (e *PolicyError) Error() string { return fmt.Sprintf("%v: %s", ErrPolicyMismatch, e.Reason) }
func (e *PolicyError) Unwrap() error { return ErrPolicyMismatch }

// Response codes (TCG TPM 2.0 part 2, section 6.6). Those of format 1 name the
// handle (0x000), parameter (0x040) or session (0x800) they are about in bits 8
// to 11.
const (
	rcLockout       = tpm2.TPMRC(0x921)
	rcRetry         = tpm2.TPMRC(0x922)
	rcYielded       = tpm2.TPMRC(0x908)
	rcTesting       = tpm2.TPMRC(0x90A)
	rcPCRChanged    = tpm2.TPMRC(0x128)
	rcObjectMemory  = tpm2.TPMRC(0x902)
	rcSessionMemory = tpm2.TPMRC(0x903)
	rcBadAuth1      = tpm2.TPMRC(0x9A2) // TPM_RC_BAD_AUTH, session 1
	rcAuthFail1     = tpm2.TPMRC(0x98E) // TPM_RC_AUTH_FAIL, session 1
	rcPolicyFail1   = tpm2.TPMRC(0x99D) // TPM_RC_POLICY_FAIL, session 1
	rcIntegrity1    = tpm2.TPMRC(0x1DF) // TPM_RC_INTEGRITY, parameter 1
	rcSize1         = tpm2.TPMRC(0x1D5) // TPM_RC_SIZE, parameter 1
	rcHandle1       = tpm2.TPMRC(0x18B) // TPM_RC_HANDLE, handle 1
	rcSignature2    = tpm2.TPMRC(0x2DB) // TPM_RC_SIGNATURE, parameter 2
	rcFormat1       = tpm2.TPMRC(0x080)
	rcFormat1Param  = tpm2.TPMRC(0x040)
	rcFormat1Number = tpm2.TPMRC(0xF00)
)

// causes is what a response code means to each command; what is not here is
// ErrTPM.
var causes = map[tpm2.TPMCC]map[tpm2.TPMRC]error{
	tpm2.TPMCCCreatePrimary:   {rcBadAuth1: ErrOwnerAuth, rcAuthFail1: ErrOwnerAuth},
	tpm2.TPMCCEvictControl:    {rcBadAuth1: ErrOwnerAuth, rcAuthFail1: ErrOwnerAuth},
	tpm2.TPMCCLoad:            {rcIntegrity1: ErrForeignKey, rcSize1: ErrForeignKey, rcHandle1: ErrNoSRK},
	tpm2.TPMCCReadPublic:      {rcHandle1: ErrNoSRK},
	tpm2.TPMCCUnseal:          {rcPolicyFail1: ErrPolicyMismatch},
	tpm2.TPMCCVerifySignature: {rcSignature2: ErrSignature},
}

// classify names the cause of an error of go-tpm's Execute.
func classify(cc tpm2.TPMCC, err error) error {
	var rc tpm2.TPMRC
	cause := error(ErrBadReply)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrTransport), errors.Is(err, ErrBusy), errors.Is(err, ErrBadReply):
		return fmt.Errorf("%s: %w", commandName(cc), err)
	case !errors.As(err, &rc):
	case rc == rcLockout:
		cause = ErrLockout
	case rc == rcObjectMemory, rc == rcSessionMemory: // others fill its slots
		cause = ErrBusy
	case causes[cc][rc] != nil:
		cause = causes[cc][rc]
	default:
		cause = ErrTPM
	}
	return fmt.Errorf("%w: %s: %w", cause, commandName(cc), err)
}

func commandName(cc tpm2.TPMCC) string {
	switch cc {
	case tpm2.TPMCCCreatePrimary:
		return "TPM2_CreatePrimary"
	case tpm2.TPMCCCreate:
		return "TPM2_Create"
	case tpm2.TPMCCLoad:
		return "TPM2_Load"
	case tpm2.TPMCCLoadExternal:
		return "TPM2_LoadExternal"
	case tpm2.TPMCCStartAuthSession:
		return "TPM2_StartAuthSession"
	case tpm2.TPMCCPolicyPCR:
		return "TPM2_PolicyPCR"
	case tpm2.TPMCCPolicyGetDigest:
		return "TPM2_PolicyGetDigest"
	case tpm2.TPMCCPolicyAuthorize:
		return "TPM2_PolicyAuthorize"
	case tpm2.TPMCCPolicyRestart:
		return "TPM2_PolicyRestart"
	case tpm2.TPMCCVerifySignature:
		return "TPM2_VerifySignature"
	case tpm2.TPMCCUnseal:
		return "TPM2_Unseal"
	case tpm2.TPMCCFlushContext:
		return "TPM2_FlushContext"
	case tpm2.TPMCCPCRRead:
		return "TPM2_PCR_Read"
	case tpm2.TPMCCGetCapability:
		return "TPM2_GetCapability"
	case tpm2.TPMCCReadPublic:
		return "TPM2_ReadPublic"
	case tpm2.TPMCCEvictControl:
		return "TPM2_EvictControl"
	}
	return fmt.Sprintf("command 0x%x", uint32(cc))
}

func responseCode(err error) tpm2.TPMRC {
	var rc tpm2.TPMRC
	errors.As(err, &rc)
	return rc
}
