package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/bootseal/bootseal/test/machine"
	"github.com/bootseal/bootseal/test/story"
)

// Each file of testdata/script is a story, told on machines of several versions of
// systemd. Those are [machine.DebVersions], or those of a line
//
//	## systemd 247 257
//
// and test/run --all adds the others, but not where "only" is before the numbers. A line
// "## socket" has it told once more with delivery over the socket, on 247 and 257, and
// with --all on the others, too; "## socket only" in no other way.
//
// Files of the archive in a folder, etc/app/token for one, are on each machine that
// the story makes, those in usr/bin executable. The commands are those of testscript and
//
//	machine [KIND]             a new machine with bootseal, and what [makers] have
//	boot                       switch it on, or restart it
//	off                        switch it off
//	$ COMMAND...               for the shell of root there, to the end of the line
//	status N                   the exit status of the last of those
//	copy FILE PATH             a file of this repository to the machine
//	upgrade N                  another systemd, which it has after "daemon-reexec"
//	tpm new                    put another TPM in
//	pcr N TEXT                 what the firmware measures into a PCR from now on
//	measured TEXT              show the last output of "$" at the end of test/run
//
// The conditions [before:N], [since:N] and [systemd:N] ask for the version, [socket]
// for the delivery, and [silent] where "systemctl status" cannot say why a credential
// is missing: 247 runs no ExecStopPost= of a unit whose LoadCredential= has failed.
// Besides [story.Helpers] the shell has
//
//	await COMMAND...           try until it succeeds; it may be a line, too
const helpers = `
patience=100
await() {
	for _ in $(seq 1000); do
		if [ $# = 1 ]; then eval "$1"; else "$@"; fi >/dev/null 2>&1 && return
		sleep 0.1
	done
	echo "in vain: $*" >&2
	return 1
}
`

func TestStory(t *testing.T) {
	t.Parallel()
	scripts, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, script := range scripts {
		t.Run(strings.TrimSuffix(filepath.Base(script), ".txtar"), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(script)
			if err != nil {
				t.Fatal(err)
			}
			for _, one := range tellings(t, text) {
				t.Run(one.String(), func(t *testing.T) {
					t.Parallel()
					tell(t, filepath.Base(script), text, one.version, one.delivery)
				})
			}
		})
	}
}

var (
	systemdLine = regexp.MustCompile(`(?m)^## systemd (only )?([0-9 ]+)$`)
	socketLine  = regexp.MustCompile(`(?m)^## socket( only)?$`)
)

// A telling is one of a story.
type telling struct {
	version  int
	delivery string // "socket", or ""
}

func (one telling) String() string {
	return strings.TrimSpace(fmt.Sprint(one.version, " ", one.delivery))
}

// tellings reads from a script how it is told.
func tellings(t *testing.T, text []byte) []telling {
	t.Helper()
	socket := socketLine.FindSubmatch(text)
	only := socket != nil && len(socket[1]) > 0
	var all, few []telling
	for _, version := range versions(t, text) {
		if !only {
			all = append(all, telling{version, ""})
			few = append(few, telling{version, ""})
		}
		if socket != nil {
			all = append(all, telling{version, "socket"})
			if only || version == 247 || version == 257 {
				few = append(few, telling{version, "socket"})
			}
		}
	}
	return machine.Sample(t, all, few...)
}

// versions reads from a script which versions it is told on.
func versions(t *testing.T, text []byte) []int {
	t.Helper()
	line := systemdLine.FindSubmatch(text)
	if line == nil {
		return machine.Containers(t, machine.DebVersions...)
	}
	var few []int
	for _, field := range strings.Fields(string(line[2])) {
		version, err := strconv.Atoi(field)
		if err != nil || !slices.Contains(machine.Versions, version) {
			t.Fatalf("no systemd %q", field)
		}
		few = append(few, version)
	}
	if line[1] != nil {
		return few
	}
	return machine.Containers(t, few...)
}

// A teller is what the commands of a script share.
type teller struct {
	t        *testing.T
	version  int
	delivery string
	work     string // where the archive is
	machine  *machine.Machine
	session  *story.Session // nil while it is off
	stdout   string         // of the last line that its shell had
	status   int
}

// shellLine has what comes before a line for the shell, and the line.
var shellLine = regexp.MustCompile(`(?m)^((?:\[.*\] )*(?:! )?\$ )(.*)$`)

func tell(t *testing.T, name string, text []byte, version int, delivery string) {
	s := &teller{t: t, version: version, delivery: delivery}
	// The shell has quotes of its own, which testscript would take for its.
	commands, archive, more := strings.Cut(string(text), "\n-- ")
	commands = shellLine.ReplaceAllStringFunc(commands, func(line string) string {
		part := shellLine.FindStringSubmatch(line)
		return part[1] + "'" + strings.ReplaceAll(part[2], "'", "''") + "'"
	})
	if more {
		commands += "\n-- " + archive
	}
	script := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(script, []byte(commands), 0o600); err != nil {
		t.Fatal(err)
	}
	command := func(run func(ts *testscript.TestScript, args []string)) func(*testscript.TestScript, bool, []string) {
		return func(ts *testscript.TestScript, neg bool, args []string) {
			if neg {
				ts.Fatalf("unsupported: !")
			}
			run(ts, args)
		}
	}
	testscript.RunT(inline{t}, testscript.Params{
		Files:               []string{script},
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			s.work = env.WorkDir
			env.Setenv("VERSION", strconv.Itoa(version))
			env.Defer(s.end)
			return nil
		},
		Condition: s.condition,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"$":       s.run,
			"machine": command(s.newMachine),
			"boot":    command(s.boot),
			"off":     command(s.off),
			"status":  command(s.wantStatus),
			"copy":    command(s.copy),
			"upgrade": command(s.upgrade),
			"tpm":     command(s.newTPM),
			"pcr":     command(s.measure),
			"measured": command(func(_ *testscript.TestScript, args []string) {
				t.Logf("measured: systemd %d: %s\n%s", version, strings.Join(args, " "), s.stdout)
			}),
		},
	})
}

// inline has testscript run its only script in the test itself.
type inline struct{ *testing.T }

func (t inline) Run(_ string, f func(testscript.T)) { f(t) }
func (t inline) Parallel()                          {}
func (t inline) Verbose() bool                      { return testing.Verbose() }

func (s *teller) condition(text string) (bool, error) {
	switch text {
	case "socket":
		return s.delivery == text, nil
	case "silent":
		return s.delivery == "socket" && s.version < 250, nil
	}
	what, number, _ := strings.Cut(text, ":")
	version, err := strconv.Atoi(number)
	switch {
	case err != nil:
	case what == "before":
		return s.version < version, nil
	case what == "since":
		return s.version >= version, nil
	case what == "systemd":
		return s.version == version, nil
	}
	return false, fmt.Errorf("unknown condition %q", text)
}

func (s *teller) newMachine(ts *testscript.TestScript, args []string) {
	s.off(ts, nil)
	kind := "bootseal"
	if len(args) == 1 {
		kind = args[0]
	}
	if kind == "sealed" && s.delivery != "" {
		kind += " " + s.delivery
	}
	s.machine = fresh(s.t, s.version, kind)
	ts.Check(filepath.WalkDir(s.work, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		name, err := filepath.Rel(s.work, path)
		if err != nil || !strings.Contains(name, "/") {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		mode := os.FileMode(0o644)
		if strings.HasPrefix(name, "usr/bin/") {
			mode = 0o755
		}
		return s.machine.Write("/"+name, string(data), mode)
	}))
}

func (s *teller) boot(ts *testscript.TestScript, _ []string) {
	s.off(ts, nil)
	var err error
	s.session, err = story.Start(s.machine, story.Helpers+helpers)
	ts.Check(err)
}

func (s *teller) off(ts *testscript.TestScript, _ []string) {
	if s.session != nil {
		err := s.session.Stop()
		s.session = nil
		ts.Check(err)
	}
}

// end switches off what a script has left on, and after a failure shows what the
// machine says.
func (s *teller) end() {
	if s.session == nil {
		return
	}
	if s.t.Failed() {
		log, _, _, err := s.session.Run("systemctl --failed --no-legend; journalctl --boot --lines=25 --output=cat")
		s.t.Logf("on the machine (%v):\n%s", err, log)
	}
	if err := s.session.Stop(); err != nil {
		s.t.Error(err)
	}
}

func (s *teller) run(ts *testscript.TestScript, neg bool, args []string) {
	if s.session == nil {
		ts.Fatalf("the machine is off")
	}
	if len(args) != 1 {
		ts.Fatalf("usage: $ COMMAND...")
	}
	stdout, stderr, status, err := s.session.Run(args[0])
	ts.Check(err)
	s.stdout, s.status = stdout, status
	fmt.Fprint(ts.Stdout(), stdout)
	fmt.Fprint(ts.Stderr(), stderr)
	if neg != (status != 0) {
		ts.Fatalf("exit status %d", status)
	}
}

func (s *teller) wantStatus(ts *testscript.TestScript, args []string) {
	if len(args) != 1 || args[0] != strconv.Itoa(s.status) {
		ts.Fatalf("exit status %d, expected %q", s.status, args)
	}
}

func (s *teller) copy(ts *testscript.TestScript, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: copy FILE PATH")
	}
	data, err := os.ReadFile(filepath.Join("../..", args[0]))
	ts.Check(err)
	ts.Check(s.machine.Write(args[1], string(data), 0o644))
}

func (s *teller) upgrade(ts *testscript.TestScript, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: upgrade N")
	}
	version, err := strconv.Atoi(args[0])
	ts.Check(err)
	story.Must(s.t, s.machine.Upgrade(version))
}

func (s *teller) newTPM(ts *testscript.TestScript, args []string) {
	if len(args) != 1 || args[0] != "new" || s.session != nil {
		ts.Fatalf("usage, while the machine is off: tpm new")
	}
	var err error
	s.machine.TPM, err = s.machine.NewTPM()
	ts.Check(err)
}

func (s *teller) measure(ts *testscript.TestScript, args []string) {
	if len(args) != 2 || s.session != nil {
		ts.Fatalf("usage, while the machine is off: pcr N TEXT")
	}
	pcr, err := strconv.Atoi(args[0])
	ts.Check(err)
	s.machine.TPM.Firmware[pcr] = args[1]
}
