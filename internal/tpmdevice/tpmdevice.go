// Package tpmdevice opens the TPM 2.0 that --tpm2-device= names and carries single
// commands to it, each within a bounded time. What they mean is package tpm's.
package tpmdevice

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/google/go-tpm/tpm2/transport"

	"github.com/bootseal/bootseal/internal/failure"
	"github.com/bootseal/bootseal/internal/machine"
	"github.com/bootseal/bootseal/internal/root"
)

var (
	// ErrNoTPM says that there is no TPM 2.0 device where one was looked for.
	ErrNoTPM = failure.NoTPM.NewOfTPM("no TPM 2.0 device", "see \"bootseal has-tpm2\"; switch the TPM on in the firmware's settings, load its driver, or name the device with --tpm2-device=")
	// ErrBusy says that another program holds the TPM, or that it did not
	// answer in time.
	ErrBusy = failure.Busy.NewOfTPM("TPM is busy", failure.TPMBusyHint)
	// ErrResponse says that what came back is no answer of a TPM.
	ErrResponse = failure.TPMFailed.NewOfTPM("malformed TPM response", failure.TPMFailedHint)
)

const (
	defaultTPM = "device:/dev/tpmrm0"

	// headerSize is that of a command and of a response: tag, size, code (TPM
	// 2.0 part 1, "Command/Response Structure").
	headerSize = 10
	// maxResponse is what Linux hands out at most (TPM_BUFSIZE).
	maxResponse = 4096

	// connectTime, commandTime and createTime bound one exchange with the TPM;
	// a kernel device waits for ever otherwise. A key takes the slowest chips
	// known about a minute (RSA), anything else less than two seconds. systemd gives
	// a unit 90 s to start by default; before that the hook has to say why not.
	connectTime = 5 * time.Second
	commandTime = 30 * time.Second
	createTime  = 75 * time.Second
	// driverTime bounds the wait for the kernel's driver.
	driverTime = 30 * time.Second
)

// Open opens the TPM that spec names, in the syntax of --tpm2-device=
// (systemd-creds(1)):
//
//	/dev/tpmrm0, device:/dev/tpmrm0   a kernel device
//	swtpm:path=/run/sock              a software TPM's socket
//	swtpm:host=localhost,port=2321    the same over TCP; these are the defaults
//	auto                              the only kernel device there is
//
// An empty spec and auto stand for $SYSTEMD_TPM2_DEVICE where that is set; else an
// empty one is /dev/tpmrm0.
//
// Errors are ErrNoTPM and ErrBusy, here and from each Send, and
// ErrResponse. The device is for one caller at a time. A response code is
// the caller's to read; nothing is sent twice.
func Open(spec string) (transport.TPMCloser, error) {
	if named := os.Getenv("SYSTEMD_TPM2_DEVICE"); named != "" && (spec == "" || spec == "auto") {
		spec = named
	}
	if spec == "" {
		spec = defaultTPM
	}
	tpm, err := openTPM(spec)
	if err != nil {
		return nil, fmt.Errorf("opening the TPM %q: %w", spec, err)
	}
	return tpm, nil
}

func openTPM(spec string) (transport.TPMCloser, error) {
	driver, conf, found := strings.Cut(spec, ":")
	switch {
	case spec == "auto":
		path, err := onlyTPM("/")
		if err != nil {
			return nil, err
		}
		return openDevice(path)
	case strings.HasPrefix(spec, "/"):
		return openDevice(spec)
	case found && driver == "device" && conf == "":
		return openDevice(strings.TrimPrefix(defaultTPM, "device:"))
	case found && driver == "device":
		return openDevice(conf)
	case driver == "swtpm":
		return openSwtpm(conf)
	}
	return nil, errors.New(`expected device:PATH, swtpm:path=PATH, swtpm:host=HOST,port=PORT, an absolute path or "auto"`)
}

// Await waits, for half a minute at most, until there is the kernel device that
// spec names (see [Open]), if the firmware announces a TPM 2.0: when a machine
// boots, its driver may come later than the units that need it.
func Await(spec string) {
	if spec == "" {
		spec = os.Getenv("SYSTEMD_TPM2_DEVICE")
	}
	path := strings.TrimPrefix(spec, "device:")
	if path == "" {
		path = strings.TrimPrefix(defaultTPM, "device:")
	}
	if !filepath.IsAbs(path) || !machine.AnnouncesTPM2("/") {
		return
	}
	for end := time.Now().Add(driverTime); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			return
		}
	}
}

// onlyTPM returns the device node of the machine's only TPM 2.0.
func onlyTPM(dir root.Dir) (string, error) {
	entries, err := dir.ReadDir("/sys/class/tpmrm")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	switch len(entries) {
	case 0:
		return "", ErrNoTPM
	case 1:
		return "/dev/" + entries[0].Name(), nil
	}
	return "", fmt.Errorf("there are %d of them: name one with --tpm2-device=", len(entries))
}

// device is a TPM in the kernel, opened in blocking mode: reads and writes that
// may be interrupted at any time. os.File would put it into non-blocking mode,
// where the driver answers a read that comes too early with end of file.
type device struct {
	fd     int
	broken error
}

func openDevice(path string) (*device, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("%q is not an absolute path", path)
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	for err == unix.EINTR {
		fd, err = unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	}
	switch err {
	case nil:
	case unix.ENOENT, unix.ENXIO, unix.ENODEV:
		return nil, fmt.Errorf("%w: %w", ErrNoTPM, err)
	case unix.EBUSY:
		return nil, fmt.Errorf("%w: another program has it open", ErrBusy)
	default:
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR {
		unix.Close(fd)
		return nil, fmt.Errorf("%w: not a character device", ErrNoTPM)
	}
	return &device{fd: fd}, nil
}

func (d *device) Read(p []byte) (int, error)  { return uninterrupted(unix.Read, d.fd, p) }
func (d *device) Write(p []byte) (int, error) { return uninterrupted(unix.Write, d.fd, p) }

func uninterrupted(call func(int, []byte) (int, error), fd int, p []byte) (int, error) {
	for {
		n, err := call(fd, p)
		switch err {
		case nil:
			return n, nil
		case unix.EINTR:
			continue
		case unix.EBUSY, unix.ETIME:
			return 0, fmt.Errorf("%w: %w", ErrBusy, err)
		case unix.ENODEV, unix.EPIPE:
			return 0, fmt.Errorf("%w: it went away: %w", ErrNoTPM, err)
		}
		return 0, err
	}
}

// Send runs one command. There is no way to take it back from the driver, so
// after a time-out the device is of no use any more.
func (d *device) Send(command []byte) ([]byte, error) {
	if d.broken != nil {
		return nil, d.broken
	}
	type answer struct {
		response []byte
		err      error
	}
	done := make(chan answer, 1)
	go func() {
		response, err := exchange(d, command)
		done <- answer{response, err}
	}()
	limit := timeFor(command)
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case a := <-done:
		return a.response, a.err
	case <-timer.C:
		d.broken = fmt.Errorf("%w: no answer within %v", ErrBusy, limit)
		return nil, d.broken
	}
}

func (d *device) Close() error {
	if d.broken != nil {
		return nil // a read still waits on it: the kernel closes it at exit
	}
	return unix.Close(d.fd)
}

// swtpm is the data channel of a software TPM. It takes raw commands, and may
// have been told to hang up after each: so does tpm2-tss, and so do we.
type swtpm struct {
	network, address string
}

func openSwtpm(conf string) (*swtpm, error) {
	t, err := parseSwtpm(conf)
	if err != nil {
		return nil, err
	}
	// TPM2_Startup(TPM_SU_CLEAR), which nobody else sends to a software TPM.
	response, err := t.Send([]byte{0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x44, 0, 0})
	if err != nil {
		return nil, err
	}
	const initialized = 0x100 // TPM_RC_INITIALIZE: it was running already
	if rc := binary.BigEndian.Uint32(response[6:]); rc != 0 && rc != initialized {
		return nil, fmt.Errorf("it refuses to start: TPM2_Startup answers 0x%x", rc)
	}
	return t, nil
}

// parseSwtpm reads the configuration string of tpm2-tss's swtpm driver
// (Tss2_Tcti_Swtpm_Init(3)).
func parseSwtpm(conf string) (*swtpm, error) {
	var path string
	host, port := "localhost", "2321"
	if conf != "" {
		for _, setting := range strings.Split(conf, ",") {
			key, value, _ := strings.Cut(setting, "=")
			if value == "" {
				return nil, fmt.Errorf("%q has no value: expected path=PATH or host=HOST,port=PORT", setting)
			}
			switch key {
			case "path":
				path = value
			case "host":
				host = value
			case "port":
				if n, err := strconv.ParseUint(value, 10, 16); err != nil || n == 0 {
					return nil, fmt.Errorf("%q is not a port number", value)
				}
				port = value
			default:
				return nil, fmt.Errorf("unknown setting %q: expected path=PATH or host=HOST,port=PORT", setting)
			}
		}
	}
	if path != "" {
		return &swtpm{"unix", path}, nil
	}
	return &swtpm{"tcp", net.JoinHostPort(host, port)}, nil
}

func (t *swtpm) Send(command []byte) ([]byte, error) {
	conn, err := net.DialTimeout(t.network, t.address, connectTime)
	if err != nil {
		return nil, socketError(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(timeFor(command))); err != nil {
		return nil, err
	}
	response, err := exchange(conn, command)
	if err != nil {
		return nil, socketError(err)
	}
	return response, nil
}

func (t *swtpm) Close() error { return nil }

func socketError(err error) error {
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w: %w", ErrNoTPM, err)
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, syscall.EAGAIN):
		return fmt.Errorf("%w: %w", ErrBusy, err)
	}
	return err
}

// timeFor is a variable for the tests, which do not wait that long.
var timeFor = func(command []byte) time.Duration {
	const createPrimary, create = 0x131, 0x153
	if len(command) >= headerSize {
		switch binary.BigEndian.Uint32(command[6:]) {
		case createPrimary, create:
			return createTime
		}
	}
	return commandTime
}

// exchange writes one command and reads its response, header and body. A kernel
// before 4.20 throws away what the first read of a response leaves, so that
// asks for all.
func exchange(rw io.ReadWriter, command []byte) ([]byte, error) {
	if n, err := rw.Write(command); err != nil {
		return nil, fmt.Errorf("sending a command: %w", err)
	} else if n != len(command) {
		return nil, fmt.Errorf("sending a command: %w", io.ErrShortWrite)
	}
	buf := make([]byte, maxResponse)
	n, size := 0, headerSize
	for n < size {
		m, err := rw.Read(buf[n:])
		if m == 0 && (err == nil || err == io.EOF) {
			return nil, fmt.Errorf("%w: it ends after %d bytes of %d", ErrResponse, n, size)
		}
		if m == 0 {
			return nil, fmt.Errorf("reading the response: %w", err)
		}
		if n += m; n >= headerSize {
			length := binary.BigEndian.Uint32(buf[2:])
			if length < headerSize || length > maxResponse {
				return nil, fmt.Errorf("%w: it says it is %d bytes long, expected %d to %d", ErrResponse, length, headerSize, maxResponse)
			}
			size = int(length)
		}
	}
	if n > size {
		return nil, fmt.Errorf("%w: %d bytes follow its end", ErrResponse, n-size)
	}
	return buf[:n:n], nil
}
