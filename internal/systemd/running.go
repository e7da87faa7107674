// Package systemd tells which systemd a machine has and what that can do. The
// generator asks at every boot: it reads files only, starts no process and speaks to
// no bus.
package systemd

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/bootseal/bootseal/internal/root"
)

const (
	sharedPrefix = "libsystemd-shared-"
	// maxRodata bounds what is read of libsystemd-shared: 0.5 MiB in 252.
	maxRodata = 32 << 20
)

// ErrNotSystemd says that the machine's PID 1 is another program.
var ErrNotSystemd = errors.New("not systemd")

// Version returns the version of the systemd that runs, such as 257: the number
// in the name of the libsystemd-shared library that PID 1's executable asks
// for. In a tree without a PID 1 (an image that is being built) it is that of
// the installed systemd.
//
// The error is fs.ErrNotExist where there is neither, ErrNotSystemd where PID 1
// is something else.
func Version(dir root.Dir) (int, error) {
	exe, name, err := openSystemd(dir)
	if err != nil {
		return 0, fmt.Errorf("finding out the version of systemd: %w", err)
	}
	defer exe.Close()
	library, err := sharedLibrary(exe.image)
	if err != nil {
		return 0, fmt.Errorf("finding out the version of systemd: %s: %w", name, err)
	}
	if version := number(library); version > 0 {
		return version, nil
	}
	return 0, fmt.Errorf("finding out the version of systemd: %s: no number in the library name %q", name, library)
}

// number is the version in the name of a libsystemd-shared library, 0 without one.
func number(library string) int {
	digits := strings.TrimPrefix(library, sharedPrefix)
	if end := strings.IndexFunc(digits, func(r rune) bool { return r < '0' || r > '9' }); end >= 0 {
		digits = digits[:end]
	}
	if version, err := strconv.Atoi(digits); err == nil {
		return version
	}
	return 0
}

// BuiltWithTPM2 tells whether systemd was built with TPM2 support, from the list
// of features that "systemctl --version" shows, or, where that has no word about it,
// from the library of tpm2-tss that it would load. It is about the systemd that
// runs, or the installed one if PID 1 is another program or out of reach. It
// reads the library's constants without running it: about a millisecond.
func BuiltWithTPM2(dir root.Dir) (bool, error) {
	exe, _, library, err := findSystemd(dir)
	if err != nil {
		return false, fmt.Errorf("finding out the features of systemd: %w", err)
	}
	defer exe.Close()
	folders := []string{"/usr/lib/systemd", "/lib/systemd"}
	if runpath, err := exe.dynamic(tagRunpath); err == nil {
		for _, list := range runpath {
			folders = append(strings.Split(list, ":"), folders...)
		}
	}
	for _, folder := range folders {
		if !path.IsAbs(folder) {
			continue
		}
		lib, err := openELF(dir, path.Join(folder, library))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("finding out the features of systemd: %w", err)
		}
		defer lib.Close()
		built, err := mentions(lib.image, "+TPM2 ")
		if err == nil && !built && !NamesTPM2.In(number(library)) {
			built, err = mentions(lib.image, TPM2LibraryNames[0])
		}
		return built, err
	}
	return false, fmt.Errorf("finding out the features of systemd: %s: %w", library, fs.ErrNotExist)
}

// mentions tells whether a text is among the library's constants.
func mentions(lib *image, text string) (bool, error) {
	constants, ok := lib.section(".rodata")
	if !ok || constants.kind == typeNoBits || constants.size > maxRodata || constants.offset > 1<<62 {
		return false, errors.New("finding out the features of systemd: no usable .rodata section in its library")
	}
	word := []byte(text)
	// In pieces, each with the end of the one before, to touch little memory.
	const piece = 32 << 10
	buffer := make([]byte, len(word)-1+piece)
	kept := 0
	for r := io.NewSectionReader(lib.file, int64(constants.offset), int64(constants.size)); ; {
		n, err := io.ReadFull(r, buffer[kept:])
		data := buffer[:kept+n]
		if contains(data, word) {
			return true, nil
		}
		switch err {
		case nil:
		case io.EOF, io.ErrUnexpectedEOF:
			return false, nil
		default:
			return false, fmt.Errorf("finding out the features of systemd: %w", err)
		}
		kept = copy(buffer, data[len(data)-(len(word)-1):])
	}
}

// contains looks for word, which begins with a byte that is rare in data.
func contains(data, word []byte) bool {
	for {
		i := bytes.IndexByte(data, word[0])
		if i < 0 {
			return false
		}
		if data = data[i:]; bytes.HasPrefix(data, word) {
			return true
		}
		data = data[1:]
	}
}

// executables are where systemd is: as PID 1, and installed, before and after
// the merge of /lib into /usr.
var executables = []string{"/proc/1/exe", "/usr/lib/systemd/systemd", "/lib/systemd/systemd"}

// findSystemd opens the first of the executables that is systemd, and names its
// library.
func findSystemd(dir root.Dir) (exe *program, name, library string, err error) {
	var problems []error
	for _, name := range executables {
		exe, err := openELF(dir, name)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		if library, err := sharedLibrary(exe.image); err == nil {
			return exe, name, library, nil
		}
		exe.Close()
		problems = append(problems, fmt.Errorf("%s: %w", name, ErrNotSystemd))
	}
	return nil, "", "", problems[0]
}

// openSystemd opens PID 1's executable, or the installed systemd where there is
// no PID 1.
func openSystemd(dir root.Dir) (*program, string, error) {
	var missing error
	for _, name := range executables {
		exe, err := openELF(dir, name)
		if errors.Is(err, fs.ErrNotExist) {
			missing = err
			continue
		}
		return exe, name, err
	}
	return nil, "", missing
}

func sharedLibrary(exe *image) (string, error) {
	libraries, err := exe.dynamic(tagNeeded)
	if err != nil {
		return "", fmt.Errorf("reading the libraries it needs: %w", err)
	}
	for _, library := range libraries {
		if strings.HasPrefix(library, sharedPrefix) {
			return library, nil
		}
	}
	return "", fmt.Errorf("%w: it does not need %sNNN.so", ErrNotSystemd, sharedPrefix)
}

// program is an ELF file that is open.
type program struct {
	*image
	opened *os.File
}

func (p *program) Close() { _ = p.opened.Close() }

func openELF(dir root.Dir, name string) (*program, error) {
	real, err := dir.Path(name)
	if err != nil {
		return nil, err
	}
	// Stat and Open follow /proc/1/exe also where its path names nothing: after
	// an upgrade, or in another mount namespace.
	st, err := os.Stat(real)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: %w", name, root.ErrNotRegular)
	}
	file, err := os.Open(real)
	if err != nil {
		return nil, fmt.Errorf("%s: reading it as ELF: %w", name, err)
	}
	image, err := readELF(file)
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("%s: reading it as ELF: %w", name, err)
	}
	return &program{image, file}, nil
}
