package operate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/bootseal/bootseal/internal/atomicfile"
	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/internal/delivery"
	"github.com/bootseal/bootseal/internal/manager"
	"github.com/bootseal/bootseal/internal/root"
	"github.com/bootseal/bootseal/internal/sealing"
	"github.com/bootseal/bootseal/policy"
)

// undoAdoption takes a unit back to its plaintext files, also from an adoption that
// was broken off. Where it does not run with them, it stays sealed.
func undoAdoption(unit, device string, dryRun bool) error {
	if planner, err := delivery.NewPlanner("/"); err == nil {
		if u, err := planner.Load(unit); err == nil {
			unit = u.Name
		}
	}
	r, err := readRecord(unit)
	if err != nil {
		return err
	}
	defer r.close()
	policyText, err := r.readPolicy()
	if err != nil {
		return err
	}
	if err := r.open(device); err != nil {
		return err
	}
	r.print(policyText != nil)
	if dryRun {
		return nil
	}
	m, err := manager.New(context.Background())
	if err != nil {
		return err
	}
	defer m.Close()
	uninterrupted()
	runs := slices.Contains([]string{"active", "activating", "failed"}, m.State(unit))
	var made []*plainFile
	if err := r.toPlaintext(m, runs, policyText != nil, &made); err != nil {
		return r.stay(m, runs, policyText, made, err)
	}
	for _, c := range r.Credentials {
		if c.plain.content == nil { // there is none
			continue
		}
		if err := removed(c.Blob); err != nil {
			return err
		}
		fmt.Printf("%s: removed\n", c.Blob)
	}
	return removed(r.path())
}

// print shows what undoing is going to do.
func (r *adopted) print(policy bool) {
	fmt.Printf("Plan for %s:\n", r.unit)
	for _, c := range r.Credentials {
		if c.plain.content != nil {
			fmt.Printf("  write %s from %s, owner %d:%d, mode %s, if it is not there\n", c.File, c.Blob, c.UID, c.GID, c.Mode)
		}
	}
	if policy {
		fmt.Printf("  remove %s\n", r.policyPath())
	}
	fmt.Printf("  reload systemd, restart %s if it runs, and see that it stays up\n", r.unit)
	for _, c := range r.Credentials {
		if c.plain.content != nil {
			fmt.Printf("  remove %s\n", c.Blob)
		}
	}
}

// readRecord finds the record of an adoption.
func readRecord(unit string) (*adopted, error) {
	r := &adopted{unit: unit}
	text, err := root.Dir("/").ReadFile(r.path(), 1<<20)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w, there is no %s", unit, errNotAdopted, r.path())
	}
	if err != nil {
		return nil, err
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(r); err != nil {
		return nil, fmt.Errorf("%s: %w", r.path(), err)
	}
	for i := range r.Credentials {
		c := &r.Credentials[i]
		mode, err := strconv.ParseUint(c.Mode, 8, 9)
		if err != nil || !strings.HasPrefix(c.File, "/") || !strings.HasPrefix(c.Blob, "/") || !credential.ValidName(c.Name) {
			return nil, fmt.Errorf("%s: credential %d: expected a name, absolute paths and an octal mode", r.path(), i)
		}
		c.plain = &plainFile{path: c.File, uid: c.UID, gid: c.GID, mode: fs.FileMode(mode)}
	}
	return r, nil
}

// readPolicy returns the text of the policy, nil if there is none any more. One
// that has other credentials is not that of the adoption.
func (r *adopted) readPolicy() ([]byte, error) {
	text, err := root.Dir("/").ReadFile(r.policyPath(), 1<<20)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	p, err := policy.Load("/", policy.File{Unit: r.unit, Path: r.policyPath()})
	if err != nil {
		return nil, err
	}
	for _, c := range p.Credentials {
		if !slices.ContainsFunc(r.Credentials, func(a adoptedSecret) bool { return a.Name == c.Name && a.Blob == c.Source }) {
			return nil, fmt.Errorf("%s: credential %s, %s, has been added or changed since; take it out of the policy first", p.Path, c.Name, c.Source)
		}
	}
	return text, nil
}

// open opens the blobs. One that is not there, as after an adoption that was broken
// off, is not needed where the plaintext is.
func (r *adopted) open(device string) error {
	var all []*sealing.File
	var files []*plainFile
	for _, c := range r.Credentials {
		s, err := sealing.Read(c.Blob, c.Name)
		if errors.Is(err, sealing.ErrNoBlob) {
			f, plainErr := openPlain(c.File)
			if plainErr != nil {
				return errors.Join(err, plainErr)
			}
			f.close()
			continue
		}
		if err != nil {
			return err
		}
		all, files = append(all, s), append(files, c.plain)
	}
	if len(all) == 0 {
		return nil
	}
	opened, err := sealing.ForAnyScope(device, "", sealing.NullByMachine).Open(all)
	if err != nil {
		return err
	}
	for i, p := range opened {
		files[i].content = p.Payload
	}
	return nil
}

// toPlaintext has the unit run with the plaintext files. It adds those that it made
// to the list.
func (r *adopted) toPlaintext(m *manager.Manager, runs, covered bool, made *[]*plainFile) error {
	for _, f := range r.files() {
		if f.content == nil {
			continue
		}
		wrote, err := f.restore()
		if err != nil {
			return err
		}
		if wrote {
			*made = append(*made, f)
			fmt.Printf("%s: written\n", f.path)
		}
	}
	if covered {
		if err := os.Remove(r.policyPath()); err != nil {
			return err
		}
		fmt.Printf("%s: removed\n", r.policyPath())
	}
	if err := m.Reload(); err != nil || !runs {
		return err
	}
	if err := m.Restart(r.unit); err != nil {
		return because(m, r.unit, err)
	}
	fmt.Printf("%s: restarted with the plaintext, and stays up\n", r.unit)
	return nil
}

// stay takes back what undoing has done.
func (r *adopted) stay(m *manager.Manager, runs bool, policyText []byte, made []*plainFile, cause error) error {
	if policyText == nil {
		return cause
	}
	if _, err := os.Lstat(r.policyPath()); errors.Is(err, fs.ErrNotExist) {
		err := atomicfile.Write(r.policyPath(), policyText, 0o644)
		if err == nil {
			err = m.Reload()
		}
		if err == nil && runs {
			err = m.Restart(r.unit)
		}
		if err != nil {
			return fmt.Errorf("%w; going back to the sealed secret: %w", cause, err)
		}
	}
	for _, f := range made {
		there, err := openPlain(f.path)
		if err != nil {
			return errors.Join(cause, err)
		}
		there.content = f.content
		err = there.remove()
		there.close()
		if err != nil {
			return errors.Join(cause, err)
		}
	}
	return fmt.Errorf("%w; %w", cause, errPutBack)
}
