package contract

import (
	"fmt"
	"path"
	"strings"

	"github.com/bootseal/bootseal/internal/root"
)

// maxDropIn is how large a drop-in may be, in bytes: no more is read of one, and none is
// made that has more. One of ten credentials has 2 KiB, and the kernel starts nothing
// with a word of more than 128 KiB; of systemd it is the longest line.
const maxDropIn = 1 << 20

// CheckDropIn refuses the text of a drop-in that would not be read.
func CheckDropIn(text string) error {
	if len(text) > maxDropIn {
		return fmt.Errorf("with what the unit itself sets its drop-in would have %d KiB, and has to be below %d; shorten the unit's Exec…=, Condition…=, Assert…= and SetCredential= settings", len(text)>>10, maxDropIn>>10)
	}
	return nil
}

// DropInPath is where the generator's file of that name for a unit is.
func DropInPath(unit, name string) string { return path.Join(Generated, unit+".d", name) }

// DropIn is the text of a drop-in that the generator wrote.
type DropIn string

// ReadDropIn reads the generator's file of that name for a unit. Where there is none
// the error is fs.ErrNotExist: systemd may just be running the generators anew.
func ReadDropIn(dir root.Dir, unit, name string) (DropIn, error) {
	text, err := dir.ReadFile(DropInPath(unit, name), maxDropIn)
	return DropIn(text), err
}

// Settled lists the units that have a drop-in of the generator which makes settings,
// be it that it blocks them: all with a policy. It is sorted.
func Settled(dir root.Dir) []string {
	entries, err := dir.ReadDir(Generated)
	if err != nil {
		return nil
	}
	var all []string
	for _, entry := range entries {
		unit, ok := strings.CutSuffix(entry.Name(), ".d")
		if !ok || !strings.HasSuffix(unit, ".service") {
			continue
		}
		if d, err := ReadDropIn(dir, unit, DropInName); err == nil && strings.Contains(string(d), "\n[Service]\n") {
			all = append(all, unit)
		}
	}
	return all
}

// Answer is what systemd expects to read from the socket.
type Answer int

const (
	NoAnswer     Answer = iota // it is not to ask
	PlainAnswer                // the secret itself, LoadCredential=
	SealedAnswer               // the secret sealed to the host key, LoadCredentialEncrypted=
)

// HidesNotifySocket tells whether the unit's commands are not told where systemd
// listens, though it takes what they say.
func (d DropIn) HidesNotifySocket() bool {
	return strings.Contains(string(d), "\nUnsetEnvironment="+NotifySocket+"\n")
}

// Answer tells what the unit has systemd ask the server for, or load from a file.
func (d DropIn) Answer() Answer {
	switch {
	case strings.Contains(string(d), "\nLoadCredentialEncrypted="):
		return SealedAnswer
	case strings.Contains(string(d), "\nLoadCredential="):
		return PlainAnswer
	}
	return NoAnswer
}
