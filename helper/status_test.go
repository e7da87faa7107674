package main

import (
	"errors"
	"fmt"
	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/internal/failure"
	"github.com/bootseal/bootseal/internal/hook"
	"github.com/bootseal/bootseal/internal/hostkey"
	"github.com/bootseal/bootseal/internal/report"
	"github.com/bootseal/bootseal/internal/sealing"
	"github.com/bootseal/bootseal/internal/stdio"
	"github.com/bootseal/bootseal/internal/tpm"
	"github.com/bootseal/bootseal/internal/tpmdevice"
	"github.com/bootseal/bootseal/policy"
	"testing"
)

// The statuses that other programs rely on, for errors that no script can
// provoke as well as for those that they do.
func TestExitStatus(t *testing.T) {
	for cause, want := range map[error]int{
		credential.ErrAuth:          65,
		credential.ErrNotBase64:     65,
		credential.ErrUnknownType:   65,
		tpm.ErrTPMBlob:              65,
		sealing.ErrNoBlob:           66,
		stdio.ErrNotFound:           66,
		tpmdevice.ErrNoTPM:          69,
		tpmdevice.ErrBusy:           75,
		tpm.ErrBusy:                 75,
		policy.ErrNoPolicy:          78,
		hook.ErrBlocked:             78,
		&policy.Error{}:             78,
		tpm.ErrPolicyMismatch:       80,
		tpm.ErrForeignKey:           81,
		tpm.ErrNoSRK:                81,
		tpm.ErrLockout:              82,
		hostkey.ErrMissing:          83,
		hostkey.ErrForeign:          83,
		hostkey.ErrUnsafe:           83,
		credential.ErrNameMismatch:  84,
		credential.ErrExpired:       84,
		sealing.ErrNullKey:          84,
		credential.ErrScopeMismatch: 84,
		tpm.ErrPublicKey:            65,
		tpm.ErrNoSignatures:         85,
		tpm.ErrNoSignature:          85,
		tpm.ErrSignature:            85,
		tpm.ErrSignatureFile:        85,
		tpm.ErrTransport:            86,
		tpm.ErrBadReply:             86,
		tpm.ErrTPM:                  86,
		tpmdevice.ErrResponse:       86,
		report.ErrUsage:             1,
		errors.New("else"):          1,
	} {
		err := fmt.Errorf("opening the file: %w", fmt.Errorf("the cause: %w", cause))
		if want == 69 || want == 75 {
			// That is how they come from the transport.
			err = fmt.Errorf("%w: %w", tpm.ErrTransport, err)
		}
		if got := failure.Of(err); got.Kind.Status != want {
			t.Errorf("%v: exit status %d, want %d", err, got.Kind.Status, want)
		} else if want > 1 && got.Hint == "" {
			t.Errorf("%v: no hint", err)
		}
	}
	seen := map[int]bool{}
	for _, k := range failure.Kinds() {
		if seen[k.Status] || k.Meaning == "" {
			t.Errorf("status %d has two meanings, or none", k.Status)
		}
		if k != failure.Other && (k.Status < failure.First || k.Status > failure.Last) {
			t.Errorf("status %d is not between %d and %d, of which units are told", k.Status, failure.First, failure.Last)
		}
		seen[k.Status] = true
	}
}
