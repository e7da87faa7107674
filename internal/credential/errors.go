package credential

import "errors"

// One error per cause; every error of this package, and of package encryption but for
// those of the random source, wraps exactly one of them.
// The numbers are the checks of section 2.8 of the format document.
var (
	ErrNotBase64      = errors.New("not Base64 text")
	ErrTooLarge       = errors.New("credential is too large")
	ErrTooShort       = errors.New("credential is too short")                          // 1, 6, 8, 9, 14
	ErrUnknownType    = errors.New("unknown credential type")                          // 2
	ErrScopeMismatch  = errors.New("credential is for another scope")                  // 5
	ErrKeySize        = errors.New("invalid key_size")                                 // 7
	ErrBlockSize      = errors.New("invalid block_size")                               // 7
	ErrIVSize         = errors.New("invalid iv_size")                                  // 7
	ErrTagSize        = errors.New("invalid tag_size")                                 // 7
	ErrPCRMask        = errors.New("PCR mask out of range")                            // 9
	ErrPCRBank        = errors.New("invalid PCR bank")                                 // 9
	ErrPrimaryAlg     = errors.New("invalid primary key algorithm")                    // 9
	ErrTPMBlobSize    = errors.New("invalid size of the TPM blob")                     // 9
	ErrPolicyHashSize = errors.New("invalid size of the policy hash")                  // 9
	ErrPublicKeySize  = errors.New("invalid size of the public key")                   // 9
	ErrSRKSize        = errors.New("invalid size of the pinned SRK")                   // 9
	ErrSRK            = errors.New("invalid pinned SRK")                               // 9
	ErrScopeFlags     = errors.New("unsupported scope flags")                          // 11
	ErrNoKey          = errors.New("key is missing or has the wrong size")             // 10, 12
	ErrAuth           = errors.New("authentication failed: wrong key or damaged data") // 13
	ErrTimestamps     = errors.New("timestamp is not before not-after")                // 15
	ErrMetadata       = errors.New("invalid metadata")                                 // 16
	ErrName           = errors.New("invalid credential name")                          // 16
	ErrNameMismatch   = errors.New("credential is for another name")                   // 17
	ErrExpired        = errors.New("credential has expired")                           // 18
)
