// Package machine boots real systemd: each Machine is a Debian tree made by
// test/setup under an overlay of its own, a software TPM, and systemd-nspawn
// with the tree's systemd as PID 1. It needs root and takes about one second
// from power-on to power-off.
package machine

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Versions are the systemd versions that test/setup makes container trees for.
var Versions = []int{247, 252, 254, 257, 262}

// DebVersions are those with a suite of their own, to build Debian packages in: 254
// is in bookworm's backports.
var DebVersions = []int{247, 252, 257, 262}

// ErrNotSetUp says that test/setup has not been run, or not as root.
var ErrNotSetUp = errors.New("run test/setup as root first")

// base holds what belongs to running machines, as NAME-PID-RANDOM.
const base = "/run/bootseal-test"

// bootLimit bounds one boot, script and power-off together, on a machine that does
// much else at the same time.
const bootLimit = 10 * time.Minute

// Machine is one computer, switched off. Its disk is Root; everything below
// /run and /tmp is gone after each Boot, as on any computer.
type Machine struct {
	Version int    // of systemd
	Root    string // the root file system, to put files into
	TPM     *TPM   // may be exchanged between boots

	dir    string // of the overlay, the TPM and what a boot leaves
	layers string // lower layers, uppermost first
	frozen bool
}

// Result is what the script of a boot left.
type Result struct {
	Stdout, Stderr string
	Status         int    // exit status of the script
	Console        string // what PID 1 wrote to the console
}

// Cache returns the folder that test/setup fills.
func Cache() string {
	if dir := os.Getenv("BOOTSEAL_TEST_CACHE"); dir != "" {
		return dir
	}
	return "/var/cache/bootseal/test"
}

// New makes a machine with the given version of systemd and a new TPM.
// It returns [ErrNotSetUp] where test/setup has not made that version's tree.
//
// What other trees of that version have, too, can be put below its own: they are
// of the same suite.
func New(version int, below ...string) (*Machine, error) {
	m, err := open(version, append([]string{strconv.Itoa(version)}, below...)...)
	if err != nil {
		return nil, err
	}
	if m.TPM, err = newTPM(m.dir); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	err = m.prepare(map[string]string{
		// Units do not inherit PID 1's environment: this is where hooks and
		// commands, and systemd-creds@.service of 258 and newer, learn of the TPM.
		"/etc/systemd/system.conf.d/bootseal-test.conf": "[Manager]\nDefaultEnvironment=SYSTEMD_TPM2_DEVICE=" + Device + "\n",
	})
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// open mounts trees of these names in the cache, each over the next.
func open(version int, names ...string) (*Machine, error) {
	var trees []string
	for _, name := range names {
		tree, err := filepath.EvalSymlinks(filepath.Join(Cache(), name))
		if err != nil || os.Geteuid() != 0 {
			return nil, fmt.Errorf("making a machine with systemd %d: %w", version, ErrNotSetUp)
		}
		trees = append(trees, tree)
	}
	sweepOnce.Do(sweep)
	return mount(version, strings.Join(trees, ":"))
}

// Clone makes a copy of the machine, disk and TPM. The original may not be
// booted or changed afterwards and must be closed after its clones.
func (m *Machine) Clone() (*Machine, error) {
	m.frozen = true
	c, err := mount(m.Version, filepath.Join(m.dir, "upper")+":"+m.layers)
	if err != nil {
		return nil, err
	}
	if c.TPM, err = m.TPM.clone(c.dir); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// mount makes the machine's folder, with an overlay over the layers.
func mount(version int, layers string) (*Machine, error) {
	if err := os.MkdirAll(base, 0o700); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(base, fmt.Sprintf("systemd%d-%d-", version, os.Getpid()))
	if err != nil {
		return nil, err
	}
	m := &Machine{Version: version, Root: filepath.Join(dir, "root"), dir: dir, layers: layers}
	// Everything on one tmpfs: fast, and gone with the last mount.
	if err := syscall.Mount("bootseal-test", dir, "tmpfs", 0, "mode=0755"); err != nil {
		return nil, errors.Join(fmt.Errorf("mounting a tmpfs on %s: %w", dir, err), os.Remove(dir))
	}
	for _, name := range []string{"root", "upper", "work", "out"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			return nil, errors.Join(err, m.Close())
		}
	}
	if err := m.mountRoot(); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

func (m *Machine) mountRoot() error {
	options := "lowerdir=" + m.layers + ",upperdir=" + m.dir + "/upper,workdir=" + m.dir + "/work"
	if err := syscall.Mount("overlay", m.Root, "overlay", 0, options); err != nil {
		return fmt.Errorf("mounting an overlay on %s: %w", m.Root, err)
	}
	return nil
}

// Install adds what is in a tree in the cache, which was made over the machine's own:
// packages, for one. What has been written to the machine before stays as it is. It
// returns [ErrNotSetUp] where there is no such tree.
func (m *Machine) Install(name string) error {
	tree, err := filepath.EvalSymlinks(filepath.Join(Cache(), name))
	if err != nil {
		return fmt.Errorf("installing %s: %w", name, ErrNotSetUp)
	}
	if err := syscall.Unmount(m.Root, 0); err != nil {
		return fmt.Errorf("unmounting %s: %w", m.Root, err)
	}
	m.layers = tree + ":" + m.layers
	return m.mountRoot()
}

// Close frees everything the machine holds.
func (m *Machine) Close() error {
	return remove(m.dir)
}

// remove unmounts what is at and below a machine's folder and removes it.
func remove(dir string) error {
	for _, path := range []string{filepath.Join(dir, "root"), dir} {
		if err := syscall.Unmount(path, syscall.MNT_DETACH); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOENT) {
			return fmt.Errorf("unmounting %s: %w", path, err)
		}
	}
	return os.RemoveAll(dir)
}

var sweepOnce sync.Once

// sweep removes the machines of processes that were killed.
func sweep() {
	dirs, _ := filepath.Glob(filepath.Join(base, "*-*-*"))
	for _, dir := range dirs {
		pid, err := strconv.Atoi(strings.Split(filepath.Base(dir), "-")[1])
		if err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_ = remove(dir)
		}
	}
}

// Path returns where path of the machine is on the host.
func (m *Machine) Path(path string) string { return filepath.Join(m.Root, path) }

// Write writes a file of the machine, with the folders above it.
func (m *Machine) Write(path, content string, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(m.Path(path)), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(m.Path(path), []byte(content), mode); err != nil {
		return err
	}
	return os.Chmod(m.Path(path), mode)
}

const testUnit = `[Unit]
Description=The script of this boot
After=multi-user.target

[Service]
Type=oneshot
ExecStart=/bin/sh -c '/bin/bash /bootseal-test/out/script </dev/null >/bootseal-test/out/stdout 2>/bootseal-test/out/stderr; echo $$? >/bootseal-test/out/status'
ExecStopPost=/bin/systemctl poweroff --force --no-block
Environment=SYSTEMD_PAGER= SYSTEMD_COLORS=0 LC_ALL=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
`

// prepare puts the test's own unit, and files, on a new disk.
func (m *Machine) prepare(files map[string]string) error {
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return err
	}
	files["/etc/machine-id"] = hex.EncodeToString(id) + "\n"
	files["/etc/systemd/system/bootseal-test.service"] = testUnit
	for path, content := range files {
		if err := m.Write(path, content, 0o644); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(m.Path("/var/log/journal"), 0o755); err != nil { // kept over boots
		return err
	}
	return m.Enable("bootseal-test.service")
}

// Enable makes multi-user.target want a unit in /etc/systemd/system.
func (m *Machine) Enable(unit string) error {
	wants := m.Path("/etc/systemd/system/multi-user.target.wants")
	if err := os.MkdirAll(wants, 0o755); err != nil {
		return err
	}
	return os.Symlink("../"+unit, filepath.Join(wants, unit))
}

// Boot powers the machine and its TPM on, runs a bash script as a unit once
// multi-user.target is reached, and powers off. A script that fails is no
// error: see Result.Status. A boot that does not end within ten minutes, or
// ends without the script having run, is an error that holds the console.
func (m *Machine) Boot(script string) (Result, error) {
	if m.frozen {
		return Result{}, errors.New("booting a machine that has clones")
	}
	if err := m.TPM.on(); err != nil {
		return Result{}, err
	}
	defer func() { m.TPM.off() }()
	return m.run(script, func() error {
		return m.nspawn(bootLimit, "--machine="+m.name(), "--capability=CAP_IPC_LOCK", // which every service of a real machine has
			"--bind="+m.TPM.dir+":/bootseal-test/tpm", "--bind="+filepath.Join(m.dir, "out")+":/bootseal-test/out",
			"--setenv=SYSTEMD_TPM2_DEVICE="+Device,
			"--boot", "systemd.unit=multi-user.target", "systemd.log_color=0")
	})
}

// run has a script run by boot, which takes it from the folder "out" and leaves
// the results there.
func (m *Machine) run(script string, boot func() error) (Result, error) {
	out := filepath.Join(m.dir, "out")
	for _, name := range []string{"stdout", "stderr", "status"} {
		_ = os.Remove(filepath.Join(out, name))
	}
	if err := os.WriteFile(filepath.Join(out, "script"), []byte(script), 0o644); err != nil {
		return Result{}, err
	}
	runErr := boot()
	console := read(m.dir, "console")

	r := Result{Console: console, Status: -1}
	r.Stdout, r.Stderr = read(out, "stdout"), read(out, "stderr")
	if status, err := strconv.Atoi(strings.TrimSpace(read(out, "status"))); err == nil {
		r.Status = status
	} else if runErr == nil {
		runErr = errors.New("the machine went off before its script had ended")
	}
	if runErr != nil {
		return r, fmt.Errorf("booting systemd %d: %w\n--- console\n%s--- stdout\n%s--- stderr\n%s", m.Version, runErr, console, r.Stdout, r.Stderr)
	}
	return r, nil
}

func read(dir, name string) string {
	b, _ := os.ReadFile(filepath.Join(dir, name))
	return string(b)
}

// nspawn runs systemd-nspawn on the machine's root, without network.
func (m *Machine) nspawn(limit time.Duration, args ...string) error {
	groups, err := newCgroups(filepath.Base(m.dir))
	if err != nil {
		return err
	}
	defer groups.remove()

	// The shell moves itself before there is anything that it would leave behind.
	command := append([]string{"sh", "-c", `for d in "$@"; do [ "$d" = -- ] && break; echo $$ >"$d/cgroup.procs" || exit 1; done; while [ "$1" != -- ]; do shift; done; shift; exec "$@"`, "sh"}, groups...)
	command = append(command, "--", "systemd-nspawn", "--register=no", "--keep-unit", "--quiet",
		"--directory="+m.Root, "--private-network", "--resolv-conf=off", "--timezone=off", "--link-journal=no", "--console=pipe")
	return m.watch(limit, append(command, args...)...)
}

// name is a name for the machine that no other has.
func (m *Machine) name() string {
	base := filepath.Base(m.dir)
	return "t" + base[strings.LastIndex(base, "-")+1:]
}

// watch runs a command whose output is the machine's console.
func (m *Machine) watch(limit time.Duration, command ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1")
	file, err := os.Create(filepath.Join(m.dir, "console"))
	if err != nil {
		return err
	}
	defer file.Close()
	cmd.Stdout, cmd.Stderr = file, file
	wait, err := startWithUs(cmd)
	if err != nil {
		return err
	}
	err = wait()
	if ctx.Err() != nil {
		err = fmt.Errorf("not done after %v", limit)
	}
	return err
}

// startWithUs starts a command that dies when this process does.
func startWithUs(cmd *exec.Cmd) (wait func() error, err error) {
	started, ended := make(chan error), make(chan error, 1)
	go func() {
		// PDEATHSIG is tied to the thread that forked: keep it until the end.
		runtime.LockOSThread()
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		err := cmd.Start()
		started <- err
		if err == nil {
			ended <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return func() error { return <-ended }, nil
}

// cgroups are folders, one for each hierarchy that systemd uses, of one
// container: in a shared one, units of the same name would meet.
type cgroups []string

func newCgroups(name string) (cgroups, error) {
	self, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	var groups cgroups
	for _, line := range strings.Split(strings.TrimSpace(string(self)), "\n") {
		field := strings.SplitN(line, ":", 3)
		var mount string
		switch {
		case field[0] == "0":
			mount = "/sys/fs/cgroup"
			if _, err := os.Stat(mount + "/cgroup.controllers"); err != nil {
				mount = "/sys/fs/cgroup/unified"
			}
		case field[1] == "name=systemd":
			mount = "/sys/fs/cgroup/systemd"
		default:
			continue
		}
		dir := filepath.Join(mount, field[2], "bootseal-test-"+name)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			groups.remove()
			return nil, fmt.Errorf("making a control group for the container: %w", err)
		}
		groups = append(groups, dir)
	}
	return groups, nil
}

func (g cgroups) remove() {
	for _, top := range g {
		var dirs []string
		_ = filepath.WalkDir(top, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for i := len(dirs) - 1; i >= 0; i-- {
			_ = os.Remove(dirs[i])
		}
	}
}
