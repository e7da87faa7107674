// Package report tells the user of a command what went wrong and what to do next,
// on standard error.
package report

import (
	"errors"
	"fmt"
	"os"

	"github.com/bootseal/bootseal/internal/failure"
)

// Program is the name that messages begin with; main sets it to the one that the
// program was called by.
var Program = "bootseal"

// ErrUsage says that the command line is wrong.
var ErrUsage = failure.Other.New("wrong usage", "try \"bootseal --help\"")

type usageError struct{ error }

func (usageError) Is(target error) bool    { return target == error(ErrUsage) }
func (usageError) Failure() *failure.Cause { return ErrUsage }
func (e usageError) Unwrap() error         { return e.error }

// Usagef is an [ErrUsage] with these words alone.
func Usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// Usage makes an error one of usage.
func Usage(err error) error { return usageError{err} }

// Status is an exit status that needs no words.
type Status int

func (s Status) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// Warn says what is not as it should be, but keeps nothing from going on.
func Warn(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s: warning: %s\n", Program, fmt.Sprintf(format, args...))
}

// Error says what went wrong.
func Error(err error) { fmt.Fprintf(os.Stderr, "%s: %v\n", Program, err) }

// Failure says what went wrong and what to do next, and returns the exit status for
// it.
func Failure(err error) int {
	var status Status
	if errors.As(err, &status) {
		return int(status)
	}
	Error(err)
	cause := failure.Of(err)
	if cause.Hint != "" {
		fmt.Fprintf(os.Stderr, "hint: %s\n", cause.Hint)
	}
	return cause.Kind.Status
}

// Plainly says what went wrong as systemd's programs do: without a hint, and every
// status is 1 that no verb has chosen.
func Plainly(err error) int {
	var status Status
	if errors.As(err, &status) {
		return int(status)
	}
	Error(err)
	return 1
}
