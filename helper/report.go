package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/pflag"

	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/internal/hostkey"
	"github.com/bootseal/bootseal/internal/machine"
	"github.com/bootseal/bootseal/internal/root"
	"github.com/bootseal/bootseal/internal/secret"
	"github.com/bootseal/bootseal/internal/tpm"
	"github.com/bootseal/bootseal/internal/tpmdevice"
	"github.com/bootseal/bootseal/policy"
)

// outcome is an exit status for a group of causes, with what the user may do
// about them. Statuses below 80 are those of sysexits.h where one fits.
type outcome struct {
	status  int
	meaning string
	hint    string
	causes  []error
}

// outcomes is searched from the top. The last entry is for all other causes.
var outcomes = []outcome{
	{0, "success", "", []error{nil, errHelp, pflag.ErrHelp}},

	{65, "credential damaged or not authentic",
		"on another machine, or with another credential.secret, it cannot be opened either; restore the file from a copy, or encrypt the secret again",
		[]error{
			credential.ErrNotBase64, credential.ErrTooShort, credential.ErrUnknownType, credential.ErrKeySize,
			credential.ErrBlockSize, credential.ErrIVSize, credential.ErrTagSize, credential.ErrPCRMask, credential.ErrPCRBank,
			credential.ErrPrimaryAlg, credential.ErrTPMBlobSize, credential.ErrPolicyHashSize, credential.ErrPublicKeySize,
			credential.ErrSRKSize, credential.ErrSRK, credential.ErrScopeFlags, credential.ErrAuth, credential.ErrTimestamps,
			credential.ErrMetadata, credential.ErrName, tpm.ErrTPMBlob,
		}},
	{65, "", "expected an RSA key in PEM, as \"openssl rsa -pubout\" writes it", []error{tpm.ErrPublicKey}},
	{65, "", "no credential is that large; is it the right file?", []error{credential.ErrTooLarge, root.ErrTooLarge}},

	{66, "credential or input missing", "encrypt the secret with \"bootseal encrypt\"", []error{errNoBlob}},
	{66, "", "check the path", []error{errNoInput}},

	{69, "no TPM",
		"see \"bootseal has-tpm2\"; switch the TPM on in the firmware's settings, load its driver, or name the device with --tpm2-device=",
		[]error{tpmdevice.ErrNoTPM}},

	{75, "TPM busy",
		"try again; if it stays so, find the program that holds the TPM with \"fuser /dev/tpm*\", and use /dev/tpmrm0, which can be shared; " +
			"what ended programs have left in it, \"tpm2_flushcontext --transient-object --tcti=device:/dev/tpm0\" takes away",
		[]error{tpmdevice.ErrBusy, tpm.ErrBusy}},

	{78, "policy invalid or unit blocked", "write the policy file, see \"man bootseal.policy\"", []error{policy.ErrNoPolicy}},
	{78, "", "remove the cause, then run \"systemctl daemon-reload\" and start the unit again", []error{errBlocked, errPreview}},

	{80, "wrong PCRs",
		"the machine was started in another way than when the secret was sealed (firmware, boot loader or kernel update, Secure Boot keys); " +
			"start it as before, or encrypt the secret again",
		[]error{tpm.ErrPolicyMismatch}},

	{81, "sealed by another TPM, or this one was cleared", "encrypt the secret again on this machine",
		[]error{tpm.ErrForeignKey, tpm.ErrNoSRK}},

	{82, "TPM locked out",
		"wait, or reset the lockout with \"tpm2_dictionarylockout --clear-lockout\" and the lockout password; a TPM recovers by itself with time",
		[]error{tpm.ErrLockout}},

	{83, "host key missing or not this machine's",
		"restore /var/lib/systemd/credential.secret and /etc/machine-id of this machine from a copy, or encrypt the secret again",
		[]error{hostkey.ErrMissing, hostkey.ErrForeign, machine.ErrNoMachineID}},
	{83, "", "the file must belong to root with mode 0400 and have no other links", []error{hostkey.ErrUnsafe}},

	{84, "wrong name or user, expired, or null key refused",
		"it was encrypted under another name: rename the file, or give the name with --name=", []error{credential.ErrNameMismatch}},
	{84, "", "name its user with --uid=, or leave out --user and --uid= for one of the system", []error{credential.ErrScopeMismatch}},
	{84, "", "encrypt the secret again with a later --not-after=, or check the machine's clock", []error{credential.ErrExpired}},
	{84, "", "encrypt the secret with a key; --allow-null accepts it all the same", []error{errNullKey}},

	{85, "PCR signature missing or not valid",
		"install the " + signatureFile + " that came with the kernel that runs into /run/systemd or /etc/systemd, or name it with --tpm2-signature=",
		[]error{tpm.ErrNoSignatures}},
	{85, "", "the file must come with the kernel that runs, and be signed with the key that the credential was encrypted for",
		[]error{tpm.ErrNoSignature, tpm.ErrSignature}},
	{85, "", "make the file again with \"systemd-measure sign\"", []error{tpm.ErrSignatureFile}},

	{86, "TPM failed",
		"look for the TPM in \"journalctl -k\", then switch the machine off and on; if it stays so, the TPM or its firmware is broken",
		[]error{tpm.ErrTransport, tpm.ErrBadReply, tpm.ErrTPM, tpmdevice.ErrResponse}},

	{1, "anything else, also wrong usage", "try \"bootseal --help\"", []error{errUsage}},
	{1, "", "leave out --transcode= and --json=", []error{errTranscode}},
	{1, "", "run it in a service that has credentials, or list those of the machine with --system", []error{errNoCredentials}},
	{1, "", "this is a mistake in bootseal; please report it", []error{credential.ErrNoKey}},
	{1, "", "the service did not like the new secret; \"bootseal explain\" may know why", []error{errRolledBack}},
	{1, "", "\"bootseal adopt --undo UNIT\" takes it back to its plaintext files", []error{errAdopted}},
	{1, "", "\"bootseal decrypt FILE\" prints a secret that was sealed in another way", []error{errNotAdopted}},
	{1, "", "remove the cause, and try again", []error{errPutBack}},
	{1, "", "see the units named with \"bootseal check\"", []error{errApply}},
	{1, "", "become root, on a machine that systemd runs", []error{errManager}},
	{1, "", "systemd allows at most 1 MiB", []error{secret.ErrTooLarge}},
	{1, "", "the TPM's owner password must be empty; see tpm2_changeauth(1)", []error{tpm.ErrOwnerAuth}},
	{1, "", "name PCRs with --tpm2-pcrs= that the firmware or the kernel measures something into, such as 7", []error{tpm.ErrBank}},
	{1, "", "", nil},
}

// statusError is an exit status that needs no words.
type statusError int

func (e statusError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// report tells the user what went wrong and what to do next, and returns the
// exit status for it.
func report(err error) int {
	var bare statusError
	if errors.As(err, &bare) {
		return int(bare)
	}
	o := outcomeOf(err)
	if o.status == 0 {
		return 0
	}
	fmt.Fprintf(os.Stderr, "%s: %v\n", program(), err)
	if asSystemdCreds() {
		return 1
	}
	if o.hint != "" {
		fmt.Fprintf(os.Stderr, "hint: %s\n", o.hint)
	}
	return o.status
}

func outcomeOf(err error) outcome {
	for _, o := range outcomes {
		for _, cause := range o.causes {
			if errors.Is(err, cause) {
				return o
			}
		}
	}
	var bad *policy.Error
	if errors.As(err, &bad) {
		return outcome{status: 78, hint: "correct the policy file"}
	}
	return outcomes[len(outcomes)-1]
}
