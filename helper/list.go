package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/internal/root"
)

// errNoCredentials says that none were passed to this process, or to the system.
var errNoCredentials = errors.New("no credentials were passed")

// folders are where credentials lie that were passed to this process or, with
// --system, to the machine. Either may be "".
type folders struct{ plain, encrypted string }

func (o *options) folders() (folders, error) {
	if o.system {
		return folders{"/run/credentials/@system", "/run/credentials/@encrypted"}, nil
	}
	var f folders
	for name, folder := range map[string]*string{
		"CREDENTIALS_DIRECTORY": &f.plain, "ENCRYPTED_CREDENTIALS_DIRECTORY": &f.encrypted,
	} {
		var set bool
		if *folder, set = os.LookupEnv(name); set && (!filepath.IsAbs(*folder) || filepath.Clean(*folder) != *folder) {
			return f, fmt.Errorf("$%s is %q: expected an absolute path without \".\" and \"..\"", name, *folder)
		}
	}
	return f, nil
}

// passed is what list tells of a credential; its names are those of the JSON.
type passed struct {
	Name   string `json:"name"`
	Secure string `json:"secure"`
	Size   int64  `json:"size"` // bytes
	Path   string `json:"path"`
}

// list is the verb of systemd-creds(1).
func list(args []string) error {
	o, err := parse("list", args, 0, 0)
	if err != nil {
		return err
	}
	where, err := o.folders()
	if err != nil {
		return err
	}
	all := []passed{}
	found := false
	for _, folder := range []string{where.encrypted, where.plain} {
		if folder == "" {
			continue
		}
		these, err := inFolder(folder, folder == where.encrypted)
		if o.system && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		found = true
		all = append(all, these...)
	}
	if !found && o.system {
		return fmt.Errorf("%w to the system", errNoCredentials)
	}
	if !found {
		return fmt.Errorf("%w: $CREDENTIALS_DIRECTORY is not set", errNoCredentials)
	}
	return o.print(all)
}

// inFolder lists a folder in its own order.
func inFolder(folder string, encrypted bool) ([]passed, error) {
	dir, err := os.Open(folder)
	if err != nil {
		return nil, fmt.Errorf("listing credentials: %w", err)
	}
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return nil, fmt.Errorf("listing credentials: %w", err)
	}
	swapless := neverInSwap(dir)
	var all []passed
	for _, entry := range entries {
		st, err := entry.Info()
		if err != nil || !st.Mode().IsRegular() || !credential.ValidName(entry.Name()) {
			continue
		}
		secure := "weak"
		switch {
		case encrypted:
			secure = "encrypted"
		case st.Mode().Perm()&0o377 != 0:
			secure = "insecure"
		case swapless:
			secure = "secure"
		}
		all = append(all, passed{entry.Name(), secure, st.Size(), filepath.Join(folder, entry.Name())})
	}
	return all, nil
}

// neverInSwap tells whether a file is on ramfs, or on tmpfs with noswap.
func neverInSwap(f *os.File) bool {
	var fsys unix.Statfs_t
	var st unix.Stat_t
	if unix.Fstatfs(int(f.Fd()), &fsys) != nil || unix.Fstat(int(f.Fd()), &st) != nil {
		return false
	}
	if fsys.Type != unix.TMPFS_MAGIC {
		return fsys.Type == unix.RAMFS_MAGIC
	}
	mounts, err := root.Dir("/").ReadFile("/proc/self/mountinfo", 16<<20)
	if err != nil {
		return false
	}
	device := fmt.Sprintf(" %d:%d ", unix.Major(st.Dev), unix.Minor(st.Dev))
	for _, line := range strings.Split(string(mounts), "\n") {
		// proc_pid_mountinfo(5): the options of the file system come last.
		options := "," + line[strings.LastIndex(line, " ")+1:] + ","
		if strings.Contains(line, device) && strings.Contains(options, ",noswap,") {
			return true
		}
	}
	return false
}

func (o *options) print(all []passed) error {
	if o.json != jsonOff {
		text, err := json.Marshal(all)
		if err != nil {
			return err
		}
		if text, err = formatJSON(text, o.json == "pretty"); err != nil {
			return err
		}
		return writeOutput("-", text)
	}
	if len(all) == 0 {
		fmt.Fprintln(os.Stderr, "No credentials")
		return nil
	}
	rows := [][3]string{{"NAME", "SECURE", "SIZE"}}
	paths := []string{"PATH"}
	if o.noLegend {
		rows, paths = nil, nil
	}
	for _, c := range all {
		rows = append(rows, [3]string{c.Name, c.Secure, shortSize(c.Size)})
		paths = append(paths, c.Path)
	}
	var width [3]int
	for _, row := range rows {
		for i, cell := range row {
			width[i] = max(width[i], len(cell))
		}
	}
	var out strings.Builder
	for i, row := range rows {
		fmt.Fprintf(&out, "%-*s %-*s %*s %s\n", width[0], row[0], width[1], row[1], width[2], row[2], paths[i])
	}
	return writeOutput("-", []byte(out.String()))
}

// shortSize rounds down to one decimal of the largest fitting unit, powers of
// 1024.
func shortSize(n int64) string {
	units := "BKMGTPE"
	unit := 0
	rest := int64(0)
	for n >= 1024 && unit < len(units)-1 {
		n, rest = n/1024, n%1024
		unit++
	}
	if tenth := rest * 10 / 1024; tenth > 0 {
		return fmt.Sprintf("%d.%d%c", n, tenth, units[unit])
	}
	return fmt.Sprintf("%d%c", n, units[unit])
}

// cat is the verb of systemd-creds(1): it prints credentials, and opens those
// that were passed encrypted. Those that are missing, or not even Base64 text, do
// not keep it from printing the others.
func cat(args []string) error {
	o, err := parse("cat", args, 1, maxArguments)
	if err != nil {
		return err
	}
	where, err := o.folders()
	if err != nil {
		return err
	}
	var failed error
	for _, name := range o.arguments {
		err := o.catOne(where, name)
		if err == nil {
			continue
		}
		if !errors.Is(err, errUsage) && !errors.Is(err, errNoBlob) && !errors.Is(err, credential.ErrNotBase64) {
			return err
		}
		if failed != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", program(), failed)
		}
		failed = err
	}
	return failed
}

// maxArguments is no limit of its own.
const maxArguments = 1 << 20

func (o *options) catOne(where folders, name string) error {
	if !credential.ValidName(name) {
		return usagef("%q is not a credential's name", name)
	}
	for _, folder := range []string{where.plain, where.encrypted} {
		if folder == "" {
			continue
		}
		file := filepath.Join(folder, name)
		st, err := os.Stat(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("reading %s: %w", file, cause(err))
		}
		if !st.Mode().IsRegular() {
			return fmt.Errorf("reading %s: it is not a regular file: %w", file, errNoBlob)
		}
		data, err := readInput(file, credential.MaxText)
		if err != nil {
			return err
		}
		defer clear(data)
		if folder == where.plain {
			if mode := st.Mode().Perm(); mode&0o007 != 0 {
				warn("%s has mode %04o: everybody can read it", file, mode)
			}
			return o.write("-", data)
		}
		how, err := o.opening()
		if err != nil {
			return err
		}
		// As PID 1 does for whom it was passed on.
		how.anyScope = true
		return o.decrypt(how, data, file, name, "-")
	}
	return fmt.Errorf("%s: %w", name, errNoBlob)
}

// write presents a secret and writes it.
func (o *options) write(output string, payload []byte) error {
	data, err := o.present(payload, output == "-" && term.IsTerminal(int(os.Stdout.Fd())))
	if err != nil {
		return err
	}
	defer clear(data)
	return writeOutput(output, data)
}
