package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bootseal/bootseal/internal/atomicfile"
	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/internal/secret"
)

var (
	// errNoInput says that a file named at the prompt does not exist.
	errNoInput = errors.New("no such file")
	// errNotWritable says that output is to go to a folder, a disk or a socket.
	errNotWritable = errors.New("it is neither a file, nor a pipe or character device")
	// errOthers says that output is to go to somebody else's pipe or device.
	errOthers = errors.New("the pipe or device belongs neither to root nor to who runs this, but to user")
)

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
	if !validates("NOT_AFTER") {
		at = 0
	}
	return opening{
		device: o.device, signature: o.signature,
		allowNull: o.allowNull, refuseNull: o.refuseNull,
		scope: o.scope,
		now:   time.UnixMicro(int64(at)),
	}, err
}

// validates tells whether a part of a credential is to be checked, which the
// environment of systemd-creds can say.
func validates(part string) bool {
	yes, set := boolean(os.Getenv("SYSTEMD_CREDENTIAL_VALIDATE_" + part))
	return yes || !set || !asSystemdCreds()
}

// decrypt opens the text of a credential file and writes the secret.
func (o *options) decrypt(how opening, text []byte, file, name, output string) error {
	if !validates("NAME") {
		name = ""
	}
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
	st, err := os.Stat(path)
	if isDescriptor(path) || err == nil && !st.Mode().IsRegular() {
		return writeThrough(path, data)
	}
	// It takes no time, and broken off it would leave a part behind.
	signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	return atomicfile.Write(path, data, 0o600)
}

// isDescriptor tells whether a path is one of the links to what this process has
// open, see proc_pid_fd(5).
func isDescriptor(path string) bool {
	dir, err := filepath.Abs(filepath.Dir(path))
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return false
	}
	own := fmt.Sprintf("/proc/%d/", os.Getpid())
	return strings.HasPrefix(dir+"/", own) || dir == "/dev" && slices.Contains([]string{"stdin", "stdout", "stderr"}, filepath.Base(path))
}

// writeThrough writes to a device or a pipe, or to what /dev/stdout is, perhaps a
// file that already holds something.
func writeThrough(path string, data []byte) error {
	if err := throughTo(path, data); err != nil {
		return fmt.Errorf("writing %s: %w", path, cause(err))
	}
	return nil
}

func throughTo(path string, data []byte) error {
	var st unix.Stat_t
	given := isDescriptor(path)
	if !given { // opening a pipe waits for the other end
		if err := unix.Stat(path, &st); err != nil {
			return err
		}
		if err := safeToWrite(&st); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if !given { // it may have been exchanged
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			return err
		}
		if err := safeToWrite(&st); err != nil {
			return err
		}
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// safeToWrite refuses pipes and devices at whose other end somebody else may be.
func safeToWrite(st *unix.Stat_t) error {
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFIFO && kind != unix.S_IFCHR {
		return errNotWritable
	}
	if st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%w %d", errOthers, st.Uid)
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
