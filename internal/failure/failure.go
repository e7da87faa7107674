// Package failure says for each cause of an error what kind it is of, and what its
// user may do about it. It is a leaf: every package declares its own errors with one
// of the kinds here, and only what speaks to users asks for them.
package failure

import (
	"slices"
	"strings"
)

// A Kind is a group of causes with an exit status of its own.
type Kind struct {
	Status  int    // below 80 those of sysexits.h(3head) where one fits
	Meaning string // for the user

	rank int
}

// First and Last are the bounds of the statuses of kinds, but for 1: sysexits.h begins
// with 64. Between them are some that no kind has yet.
const (
	First = 64
	Last  = 86
)

// The kinds, in the order in which they count: of an error that has causes of
// several kinds the first says what is wrong, the others what came of it.
var (
	Damaged   = kind(65, "credential damaged or not authentic")
	Missing   = kind(66, "credential or input missing")
	NoTPM     = kind(69, "no TPM")
	Busy      = kind(75, "TPM busy")
	Blocked   = kind(78, "policy invalid or unit blocked")
	WrongPCRs = kind(80, "wrong PCRs")
	OtherTPM  = kind(81, "sealed by another TPM, or this one was cleared")
	LockedOut = kind(82, "TPM locked out")
	HostKey   = kind(83, "host key missing or not this machine's")
	Unfit     = kind(84, "wrong name or user, expired, or null key refused")
	Signature = kind(85, "PCR signature missing or not valid")
	TPMFailed = kind(86, "TPM failed")
	Other     = kind(1, "anything else, also wrong usage")
)

var (
	kinds      []*Kind
	everything []*Cause // that have been declared, in the order of packages
)

func kind(status int, meaning string) *Kind {
	k := &Kind{status, meaning, len(kinds)}
	kinds = append(kinds, k)
	return k
}

// Kinds lists all of them, in their order.
func Kinds() []*Kind { return slices.Clone(kinds) }

// Hints that the device of a TPM and its commands have in common.
const (
	TPMBusyHint = "try again; if it stays so, find the program that holds the TPM with \"fuser /dev/tpm*\", and use /dev/tpmrm0, which can be shared; " +
		"what ended programs have left in it, \"tpm2_flushcontext --transient-object --tcti=device:/dev/tpm0\" takes away"
	TPMFailedHint = "look for the TPM in \"journalctl -k\", then switch the machine off and on; if it stays so, the TPM or its firmware is broken"
)

// A Cause is an error to be wrapped, and looked for with [errors.Is].
type Cause struct {
	Kind *Kind
	// Hint is what the user may do, a part of a sentence; may be empty.
	Hint string
	// OfTPM says that it keeps every secret in the TPM, not just one.
	OfTPM bool

	text string
}

// New declares a cause.
func (k *Kind) New(text, hint string) *Cause {
	c := &Cause{Kind: k, Hint: hint, text: text}
	everything = append(everything, c)
	return c
}

// NewOfTPM declares a cause that keeps every secret in the TPM.
func (k *Kind) NewOfTPM(text, hint string) *Cause {
	c := k.New(text, hint)
	c.OfTPM = true
	return c
}

func (c *Cause) Error() string { return c.text }

// Failure makes a Cause what [Of] looks for.
func (c *Cause) Failure() *Cause { return c }

// unknown is the cause of errors that name none.
var unknown = &Cause{Kind: Other}

// Of finds the cause of an error: of those that it wraps the one whose kind comes
// first, and of these the outermost. An error of another type takes part by a
// method Failure. It is never nil; err is not.
func Of(err error) *Cause {
	best, depth := unknown, -1
	walk(err, 0, func(c *Cause, at int) {
		if depth < 0 || c.Kind.rank < best.Kind.rank || c.Kind == best.Kind && at < depth {
			best, depth = c, at
		}
	})
	return best
}

func walk(err error, depth int, found func(*Cause, int)) {
	if f, ok := err.(interface{ Failure() *Cause }); ok {
		found(f.Failure(), depth)
	}
	switch e := err.(type) {
	case interface{ Unwrap() error }:
		if inner := e.Unwrap(); inner != nil {
			walk(inner, depth+1, found)
		}
	case interface{ Unwrap() []error }:
		for _, inner := range e.Unwrap() {
			walk(inner, depth+1, found)
		}
	}
}

// OfTPM tells whether an error keeps every secret in the TPM, not just one.
func OfTPM(err error) bool {
	of := false
	walk(err, 0, func(c *Cause, _ int) { of = of || c.OfTPM })
	return of
}

// SplitHint takes the hint off a text that [WithHint] has made. ok is false where
// it ends in none.
func SplitHint(text string) (before, hint string, ok bool) {
	for _, c := range everything {
		if rest, found := strings.CutSuffix(text, "; "+c.Hint); found && c.Hint != "" {
			return rest, c.Hint, true
		}
	}
	return text, "", false
}

// WithHint is an error in one text with what the user may do about it.
func WithHint(err error) string {
	if hint := Of(err).Hint; hint != "" {
		return err.Error() + "; " + hint
	}
	return err.Error()
}
