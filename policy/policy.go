// Package policy reads bootseal's policy files: which credentials a unit gets,
// where their sealed blobs lie, and how strongly they have to be sealed.
//
// There is one file per unit, named after it: step-ca.service.toml,
// NAME@.service.toml for all instances of a template, NAME@INSTANCE.service.toml
// for one. Even a file that cannot be read therefore says which unit it is about.
package policy

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/bootseal/bootseal/internal/failure"
	"github.com/bootseal/bootseal/internal/root"
)

// Dirs is where policy files are looked for. The same file name earlier in the
// list wins; there, a link to /dev/null, or an empty file where a later folder
// has one of that name, masks it.
var Dirs = []string{"/etc/bootseal", "/run/bootseal/policy", "/usr/local/lib/bootseal", "/usr/lib/bootseal"}

// CredentialStore is where a blob lies whose policy does not say otherwise.
const CredentialStore = "/etc/credstore.encrypted"

const (
	suffix  = ".toml"
	maxSize = 64 << 10 // bytes; a policy of ten credentials is below 2 KiB
)

// Delivery is how a unit gets its credentials.
type Delivery string

const (
	Auto     Delivery = "auto"     // whatever the running systemd can do
	Native   Delivery = "native"   // LoadCredentialEncrypted=, systemd 250 and newer
	Prestart Delivery = "prestart" // an ExecStartPre= hook, systemd 239 to 249
	Socket   Delivery = "socket"   // LoadCredential= from bootseal's socket
)

// Policy is one policy file, validated.
type Policy struct {
	Path     string // of the file, below the root it was read from
	Unit     string // the unit the file is named after
	Delivery Delivery
	// SharedMounts is private-mounts = false: what the unit mounts is to be seen outside
	// of it.
	SharedMounts bool
	Credentials  []Credential // at least one
	Seal         Seal
}

// Credential is one [[credential]] of a policy.
type Credential struct {
	Name        string // file name below $CREDENTIALS_DIRECTORY, and sealed into the blob
	Source      string // absolute path of the blob
	Option      string // option of ExecStart= that takes the credential's path; may be empty
	Environment string // variable that is set to the credential's path; may be empty
	Replaces    string // absolute path of the plaintext file that this stands for; may be empty
}

// Text is a policy file that says the same. It fails where no file can, as with a
// name that systemd would refuse.
func (p *Policy) Text() ([]byte, error) {
	var b strings.Builder
	key := func(name, value, byDefault string) {
		if value != byDefault {
			fmt.Fprintf(&b, "%-8s = \"%s\"\n", name, strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(value))
		}
	}
	key("delivery", string(p.Delivery), string(Auto))
	if p.SharedMounts {
		b.WriteString("private-mounts = false\n")
	}
	for _, c := range p.Credentials {
		if b.Len() > 0 {
			b.WriteByte('\n')
		}
		b.WriteString("[[credential]]\n")
		key("name", c.Name, "")
		key("source", c.Source, CredentialStore+"/"+c.Name)
		key("option", c.Option, "")
		key("environment", c.Environment, "")
		key("replaces", c.Replaces, "")
	}
	if p.Seal.Key != KeyAuto || len(p.Seal.PCRs) > 0 {
		b.WriteString("\n[seal]\n")
		key("key", p.Seal.Key, KeyAuto)
		if len(p.Seal.PCRs) > 0 {
			fmt.Fprintf(&b, "%-8s = %s\n", "pcrs", strings.ReplaceAll(fmt.Sprint(p.Seal.PCRs), " ", ", "))
		}
	}
	_, err := parse([]byte(b.String()))
	return []byte(b.String()), err
}

// Replaced lists the plaintext files that the policy's credentials stand for.
func (p *Policy) Replaced() []string {
	var files []string
	for _, c := range p.Credentials {
		if c.Replaces != "" {
			files = append(files, c.Replaces)
		}
	}
	return files
}

// Seal is a policy's [seal]: what new blobs are sealed with, and the least that
// existing ones must be sealed with.
type Seal struct {
	Key  string // a word of systemd-creds --with-key=
	PCRs []int  // ascending, each 0 to 23
}

// Mask has a bit for each PCR.
func (s Seal) Mask() (mask uint64) {
	for _, n := range s.PCRs {
		mask |= 1 << n
	}
	return mask
}

// The words that [seal] key may be. Auto seals with whatever the machine has
// and demands no more than that a blob is not sealed with the null key.
const (
	KeyAuto     = "auto"
	KeyHost     = "host"
	KeyTPM2     = "tpm2"
	KeyHostTPM2 = "host+tpm2"
	KeyNull     = "null"
)

// Error says what is wrong with a policy file, and where.
type Error struct {
	Path  string
	Where string // a key such as credential[1].name, or a line; may be empty
	Err   error
}

func (e *Error) Error() string {
	if e.Where == "" {
		return fmt.Sprintf("%s: %v", e.Path, e.Err)
	}
	return fmt.Sprintf("%s: %s: %v", e.Path, e.Where, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

var errInvalid = failure.Blocked.New("invalid policy", "correct the policy file")

// Failure says that the file has to be corrected.
func (e *Error) Failure() *failure.Cause { return errInvalid }

// ErrNoPolicy says that no policy file covers a unit.
var ErrNoPolicy = failure.Blocked.New("no policy", "write the policy file, see \"man bootseal.policy\"")

// File is a policy file that has been found, not yet read.
type File struct {
	Unit   string
	Path   string
	Masked bool
}

// Find lists the policy files that are in force, sorted by unit. What cannot be
// listed or does not name a service is returned as an error for each, beside
// the files that could be found.
func Find(dir root.Dir) ([]File, []error) {
	var errs []error
	found := map[string]File{}
	for _, folder := range Dirs {
		entries, err := dir.ReadDir(folder)
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, fmt.Errorf("listing the policies in %s: %w", folder, err))
			}
			continue
		}
		for _, entry := range entries {
			path := folder + "/" + entry.Name()
			unit, ok := strings.CutSuffix(entry.Name(), suffix)
			if !ok || strings.HasPrefix(unit, ".") {
				continue
			}
			if err := CheckUnit(unit); err != nil {
				errs = append(errs, &Error{Path: path, Err: err})
				continue
			}
			file, seen := found[unit]
			if !seen {
				file = File{Unit: unit, Path: path}
				file.Masked = entry.Type()&fs.ModeSymlink != 0 && dir.IsDevNull(path)
			} else if !file.Masked {
				file.Masked = dir.IsEmpty(file.Path)
			}
			found[unit] = file
		}
	}
	files := make([]File, 0, len(found))
	for _, file := range found {
		files = append(files, file)
	}
	slices.SortFunc(files, func(a, b File) int { return strings.Compare(a.Unit, b.Unit) })
	return files, errs
}

// ForUnit reads the policy that is in force for unit: its own, or for an
// instance that has none its template's. It fails with ErrNoPolicy where there
// is none or it is masked.
func ForUnit(dir root.Dir, unit string) (*Policy, error) {
	if err := CheckUnit(unit); err != nil {
		return nil, err
	}
	files, errs := Find(dir)
	for _, name := range []string{unit, Template(unit)} {
		i := slices.IndexFunc(files, func(f File) bool { return f.Unit == name })
		if i < 0 {
			continue
		}
		if files[i].Masked {
			return nil, fmt.Errorf("%s: %w: it is masked by %s", unit, ErrNoPolicy, files[i].Path)
		}
		return Load(dir, files[i])
	}
	err := fmt.Errorf("%s: %w: expected %s/%s%s", unit, ErrNoPolicy, Dirs[0], unit, suffix)
	return nil, errors.Join(append([]error{err}, errs...)...)
}

// Template is the name of the template that unit is an instance of, or "" where
// it is none: step-ca@.service for step-ca@one.service.
func Template(unit string) string {
	prefix, rest, ok := strings.Cut(unit, "@")
	if !ok || strings.HasPrefix(rest, ".service") {
		return ""
	}
	return prefix + "@.service"
}

// Load reads and validates one policy file. A failure is an *Error.
func Load(dir root.Dir, file File) (*Policy, error) {
	text, err := dir.ReadFile(file.Path, maxSize)
	if err != nil {
		var path *fs.PathError
		if errors.As(err, &path) {
			err = path.Err
		}
		return nil, &Error{Path: file.Path, Err: err}
	}
	p, err := parse(text)
	if err != nil {
		var at *Error
		if !errors.As(err, &at) {
			at = &Error{Err: err}
		}
		at.Path = file.Path
		return nil, at
	}
	p.Path, p.Unit = file.Path, file.Unit
	return p, nil
}

// CheckUnit accepts the names of services, systemd.unit(5).
func CheckUnit(name string) error {
	const most = 255
	switch {
	case !strings.HasSuffix(name, ".service"):
		return fmt.Errorf("a policy file is named after a service, as in step-ca.service%s; this one would be for %q", suffix, name)
	case len(name) > most:
		return fmt.Errorf("the unit name has %d characters, systemd takes at most %d", len(name), most)
	case strings.HasPrefix(name, "@") || name == ".service":
		return fmt.Errorf("%q has no unit name before its suffix", name)
	}
	for _, c := range []byte(name) {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte(`:-_.\@`, c) >= 0) {
			return fmt.Errorf("%q is no unit name: systemd allows letters, digits and :-_.\\@ in it", name)
		}
	}
	return nil
}
