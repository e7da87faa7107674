package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/bootseal/bootseal/internal/atomicfile"
	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/internal/secret"
)

// errNoInput says that a file named at the prompt does not exist.
var errNoInput = errors.New("no such file")

// decrypt is the verb of systemd-creds(1).
func decrypt(args []string) error {
	o, err := parse("decrypt", args, 1, 2)
	if err != nil {
		return err
	}
	if o.unitGiven {
		return usagef("decrypt: --unit= is for encrypt")
	}
	input, output := o.arguments[0], "-"
	if len(o.arguments) > 1 {
		output = o.arguments[1]
	}
	if !o.nameGiven && input != "-" {
		o.name = filepath.Base(input)
		if !credential.ValidName(o.name) {
			return usagef("%s: the file name is not a credential's name; give one with --name=", input)
		}
	}
	at, _, err := o.times(time.Now())
	if err != nil {
		return err
	}
	text, err := readInput(input, credential.MaxText)
	if errors.Is(err, secret.ErrTooLarge) {
		return fmt.Errorf("%s: %w", input, credential.ErrTooLarge)
	}
	if err != nil {
		return err
	}
	s, err := parseSealed(text, input, o.name)
	if err != nil {
		return err
	}
	if kind := s.blob.Type; kind.Scoped() || kind.HasPublicKey() {
		return fmt.Errorf("%s: bootseal cannot open credentials of the type %s yet; systemd-creds of systemd %d or newer can", input, kind, s.blob.Since())
	}
	if s.blob.Type == credential.TypeNull {
		warn("%s is encrypted with the null key: everybody could have made it", input)
	}
	all, err := opening{device: o.device, allowNull: o.allowNull, now: time.UnixMicro(int64(at))}.open([]*sealed{s})
	if err != nil {
		return err
	}
	defer wipe(all)
	payload := all[0].Payload
	ended := len(payload) > 0 && payload[len(payload)-1] == '\n'
	terminal := output == "-" && term.IsTerminal(int(os.Stdout.Fd()))
	if !ended && (o.newline == "yes" || o.newline == "auto" && terminal) {
		whole := make([]byte, len(payload)+1)
		defer clear(whole)
		copy(whole, payload)
		whole[len(payload)] = '\n'
		payload = whole
	}
	return writeOutput(output, payload)
}

// readInput reads a file, or standard input for "-", of at most limit bytes. The
// caller clears it.
func readInput(path string, limit int) ([]byte, error) {
	in := os.Stdin
	if path != "-" {
		var err error
		in, err = os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("reading %s: %w", path, errNoInput)
		}
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", path, cause(err))
		}
		defer in.Close()
	}
	data, err := secret.Read(in, limit)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, cause(err))
	}
	return data, nil
}

// writeOutput writes a file that only its owner can read, whole or not at all,
// or to standard output for "-".
func writeOutput(path string, data []byte) error {
	if path == "-" {
		if _, err := os.Stdout.Write(data); err != nil {
			return fmt.Errorf("writing to standard output: %w", cause(err))
		}
		return nil
	}
	// The file is replaced, and these would be too.
	real, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	st, err := os.Stat(real)
	if strings.HasPrefix(real, "/dev/") || strings.HasPrefix(real, "/proc/") || err == nil && !st.Mode().IsRegular() {
		return usagef("%s: expected the path of a regular file, or - for standard output", path)
	}
	// It takes no time, and broken off it would leave a part behind.
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	return atomicfile.Write(path, data, 0o600)
}

// cause leaves out of an error of package os the path, which the caller names.
func cause(err error) error {
	var at *fs.PathError
	if errors.As(err, &at) {
		return at.Err
	}
	return err
}

func warn(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bootseal: warning: %s\n", fmt.Sprintf(format, args...))
}
