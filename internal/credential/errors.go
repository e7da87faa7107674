package credential

import "github.com/bootseal/bootseal/internal/failure"

const damaged = "on another machine, or with another credential.secret, it cannot be opened either; restore the file from a copy, or encrypt the secret again"

// One error per cause; every error of this package, and of package encryption but for
// those of the random source, wraps exactly one of them.
// The numbers are the checks of section 2.8 of doc/credential-format.md.
var (
	ErrNotBase64      = failure.Damaged.New("not Base64 text", damaged)
	ErrTooLarge       = failure.Damaged.New("credential is too large", "no credential is that large; is it the right file?")
	ErrTooShort       = failure.Damaged.New("credential is too short", damaged)                                                                                    // 1, 6, 8, 9, 14
	ErrUnknownType    = failure.Damaged.New("unknown credential type", damaged)                                                                                    // 2
	ErrScopeMismatch  = failure.Unfit.New("credential is for another scope", "name its user with --uid=, or leave out --user and --uid= for one of the system")    // 5
	ErrKeySize        = failure.Damaged.New("invalid key_size", damaged)                                                                                           // 7
	ErrBlockSize      = failure.Damaged.New("invalid block_size", damaged)                                                                                         // 7
	ErrIVSize         = failure.Damaged.New("invalid iv_size", damaged)                                                                                            // 7
	ErrTagSize        = failure.Damaged.New("invalid tag_size", damaged)                                                                                           // 7
	ErrPCRMask        = failure.Damaged.New("PCR mask out of range", damaged)                                                                                      // 9
	ErrPCRBank        = failure.Damaged.New("invalid PCR bank", damaged)                                                                                           // 9
	ErrPrimaryAlg     = failure.Damaged.New("invalid primary key algorithm", damaged)                                                                              // 9
	ErrTPMBlobSize    = failure.Damaged.New("invalid size of the TPM blob", damaged)                                                                               // 9
	ErrPolicyHashSize = failure.Damaged.New("invalid size of the policy hash", damaged)                                                                            // 9
	ErrPublicKeySize  = failure.Damaged.New("invalid size of the public key", damaged)                                                                             // 9
	ErrSRKSize        = failure.Damaged.New("invalid size of the pinned SRK", damaged)                                                                             // 9
	ErrSRK            = failure.Damaged.New("invalid pinned SRK", damaged)                                                                                         // 9
	ErrScopeFlags     = failure.Damaged.New("unsupported scope flags", damaged)                                                                                    // 11
	ErrNoKey          = failure.Other.New("key is missing or has the wrong size", "this is a mistake in bootseal; please report it")                               // 10, 12
	ErrAuth           = failure.Damaged.New("authentication failed: wrong key or damaged data", damaged)                                                           // 13
	ErrTimestamps     = failure.Damaged.New("timestamp is not before not-after", damaged)                                                                          // 15
	ErrMetadata       = failure.Damaged.New("invalid metadata", damaged)                                                                                           // 16
	ErrName           = failure.Damaged.New("invalid credential name", damaged)                                                                                    // 16
	ErrNameMismatch   = failure.Unfit.New("credential is for another name", "it was encrypted under another name: rename the file, or give the name with --name=") // 17
	ErrExpired        = failure.Unfit.New("credential has expired", "encrypt the secret again with a later --not-after=, or check the machine's clock")            // 18
)
