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
	how, err := o.opening()
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
	return o.decrypt(how, text, input, o.name, output)
}

// opening returns how the options want credentials to be opened.
func (o *options) opening() (opening, error) {
	at, _, err := o.times(time.Now())
	return opening{
		device: o.device, signature: o.signature,
		allowNull: o.allowNull, refuseNull: o.refuseNull,
		scope: o.scope,
		now:   time.UnixMicro(int64(at)),
	}, err
}

// decrypt opens the text of a credential file and writes the secret.
func (o *options) decrypt(how opening, text []byte, file, name, output string) error {
	s, err := parseSealed(text, file, name)
	if err != nil {
		return err
	}
	if s.blob.Type == credential.TypeNull && !how.allowNull {
		warn("%s is encrypted with the null key: everybody could have made it", file)
	}
	all, err := how.open([]*sealed{s})
	if err != nil {
		return err
	}
	defer wipe(all)
	return o.write(output, all[0].Payload)
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
	// Regular files are replaced, and others must not be.
	real, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	st, err := os.Stat(real)
	if strings.HasPrefix(real, "/dev/") || strings.HasPrefix(real, "/proc/") || err == nil && !st.Mode().IsRegular() {
		return writeThrough(path, data)
	}
	// It takes no time, and broken off it would leave a part behind.
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	return atomicfile.Write(path, data, 0o600)
}

// writeThrough writes to a device or a pipe, or to what /dev/stdout is, perhaps a
// file that already holds something.
func writeThrough(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|unix.O_NOCTTY, 0)
	if err == nil {
		_, err = f.Write(data)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, cause(err))
	}
	return nil
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
	fmt.Fprintf(os.Stderr, "%s: warning: %s\n", program(), fmt.Sprintf(format, args...))
}
