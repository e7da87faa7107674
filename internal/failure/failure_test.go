package failure

import (
	"errors"
	"fmt"
	"testing"
)

var (
	errFile   = Damaged.New("damaged file", "restore it")
	errBus    = Other.New("no bus", "start it")
	errUndone = Other.New("undone", "try again")
	errDevice = NoTPM.NewOfTPM("no device", "plug it in")
	errSend   = TPMFailed.NewOfTPM("cannot send", "switch it off and on")
)

type typed struct{ error }

func (typed) Failure() *Cause { return errFile }

func TestOf(t *testing.T) {
	for name, c := range map[string]struct {
		err   error
		want  *Cause
		ofTPM bool
	}{
		"none":                         {errors.New("else"), unknown, false},
		"itself":                       {errBus, errBus, false},
		"wrapped":                      {fmt.Errorf("a: %w", fmt.Errorf("b: %w", errFile)), errFile, false},
		"the first kind":               {fmt.Errorf("%w: %w", errSend, errDevice), errDevice, true},
		"the first kind, deeper":       {fmt.Errorf("%w: %w", errSend, fmt.Errorf("c: %w", fmt.Errorf("d: %w", errDevice))), errDevice, true},
		"of one kind, the outermost":   {fmt.Errorf("%w; %w", fmt.Errorf("reload: %w", errBus), errUndone), errUndone, false},
		"a type of its own":            {fmt.Errorf("a: %w", typed{errors.New("x")}), errFile, false},
		"joined":                       {errors.Join(errors.New("x"), errBus), errBus, false},
		"one that is not of the TPM's": {fmt.Errorf("%w: %w", errFile, errBus), errFile, false},
	} {
		if got := Of(c.err); got != c.want {
			t.Errorf("%s: %v; want %v", name, got, c.want)
		}
		if OfTPM(c.err) != c.ofTPM {
			t.Errorf("%s: keeps every secret in the TPM: %v; want %v", name, !c.ofTPM, c.ofTPM)
		}
	}
}

// What a hook has put into a status line comes apart again.
func TestSplitHint(t *testing.T) {
	err := fmt.Errorf("/blob; really: %w", errFile)
	cause, hint, ok := SplitHint(WithHint(err))
	if cause != err.Error() || hint != "restore it" || !ok {
		t.Errorf("%q, %q, %v", cause, hint, ok)
	}
	if cause, hint, ok := SplitHint("ready; steady"); ok {
		t.Errorf("%q, %q of a text without a hint", cause, hint)
	}
}
