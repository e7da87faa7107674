package creds

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bootseal/bootseal/internal/cli"
	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/internal/failure"
	"github.com/bootseal/bootseal/internal/options"
	"github.com/bootseal/bootseal/internal/report"
	"github.com/bootseal/bootseal/internal/root"
	"github.com/bootseal/bootseal/internal/sealing"
	"github.com/bootseal/bootseal/internal/stdio"
)

// errNoCredentials says that none were passed to this process, or to the system.
var errNoCredentials = failure.Other.New("no credentials were passed", "run it in a service that has credentials, or list those of the machine with --system")

// folders are where credentials lie that were passed to this process or, with
// --system, to the machine. Either may be "".
type folders struct{ plain, encrypted string }

func passedFolders(system bool) (folders, error) {
	if system {
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

// listing is the verb of systemd-creds(1).
type listing struct {
	rows   options.Rows
	system options.System
}

func list(d options.Dialect) *cli.Verb {
	o := &listing{}
	return options.Bind(&cli.Verb{
		Name: "list", Forms: cli.Takes("", "List the credentials passed to this process"),
		Flags: cli.NewFlags("list"), Run: func([]string) error { return o.run() },
	}, d, &o.rows, &o.system, &options.Batch{})
}

func (o *listing) run() error {
	where, err := passedFolders(o.system.On)
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
		if o.system.On && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		found = true
		all = append(all, these...)
	}
	if !found && o.system.On {
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

func (o *listing) print(all []passed) error {
	if o.rows.JSON != options.JSONOff {
		text, err := json.Marshal(all)
		if err != nil {
			return err
		}
		if text, err = formatJSON(text, o.rows.JSON == "pretty"); err != nil {
			return err
		}
		return stdio.Write("-", text)
	}
	if len(all) == 0 {
		fmt.Fprintln(os.Stderr, "No credentials")
		return nil
	}
	rows := [][3]string{{"NAME", "SECURE", "SIZE"}}
	paths := []string{"PATH"}
	if o.rows.NoLegend {
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
	return stdio.Write("-", []byte(out.String()))
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

// catting is the verb of systemd-creds(1).
type catting struct {
	opening
	system options.System
}

func cat(d options.Dialect) *cli.Verb {
	o := &catting{opening: opening{dialect: d}}
	return options.Bind(&cli.Verb{
		Name: "cat", Forms: cli.Takes("CREDENTIAL...", "Print credentials passed to this process"),
		Flags: cli.NewFlags("cat"), Least: 1, Most: cli.Unlimited, Run: o.run,
	}, d, append([]options.Group{&o.system}, o.groups()...)...)
}

// run prints credentials, and opens those that were passed encrypted. Those that are
// missing, or not even Base64 text, do not keep it from printing the others.
func (o *catting) run(args []string) error {
	where, err := passedFolders(o.system.On)
	if err != nil {
		return err
	}
	var failed error
	for _, name := range args {
		err := o.one(where, name)
		if err == nil {
			continue
		}
		if !errors.Is(err, report.ErrUsage) && !errors.Is(err, sealing.ErrNoBlob) && !errors.Is(err, credential.ErrNotBase64) {
			return err
		}
		if failed != nil {
			report.Error(failed)
		}
		failed = err
	}
	return failed
}

func (o *catting) one(where folders, name string) error {
	if !credential.ValidName(name) {
		return report.Usagef("%q is not a credential's name", name)
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
			return fmt.Errorf("reading %s: %w", file, stdio.Cause(err))
		}
		if !st.Mode().IsRegular() {
			return fmt.Errorf("reading %s: it is not a regular file: %w", file, sealing.ErrNoBlob)
		}
		data, err := stdio.Read(file, credential.MaxText)
		if err != nil {
			return err
		}
		defer clear(data)
		if folder == where.plain {
			if mode := st.Mode().Perm(); mode&0o007 != 0 {
				report.Warn("%s has mode %04o: everybody can read it", file, mode)
			}
			return o.write("-", data)
		}
		// As PID 1 does for whom it was passed on.
		return o.decrypt(o.opener().AsPassed(), data, file, name, "-")
	}
	return fmt.Errorf("%s: %w", name, sealing.ErrNoBlob)
}
