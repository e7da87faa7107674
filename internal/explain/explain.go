// Package explain tells why the last start of a unit failed, from what systemd, the
// journal and our own hooks say of it: one cause and one remedy. It guesses nothing.
package explain

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/bootseal/bootseal/internal/cli"
	"github.com/bootseal/bootseal/internal/failure"
	"github.com/bootseal/bootseal/internal/manager"
	"github.com/bootseal/bootseal/internal/options"
	"github.com/bootseal/bootseal/internal/report"
	"github.com/bootseal/bootseal/internal/sealing"
	"github.com/bootseal/bootseal/internal/systemd"
	"github.com/bootseal/bootseal/internal/table"
	"github.com/bootseal/bootseal/policy"
)

// unitCheck is a Condition…= or Assert…= of a unit, as of its last start.
type unitCheck struct {
	setting string // "ConditionPathExists=!/a"
	failed  bool
}

// startup is what systemd knows of a unit's last start.
type startup struct {
	unit                 string
	load, loadError      string
	active, sub, result  string
	status               string              // what the unit said with sd_notify(3)
	mainCode, mainStatus int32               // CLD_… of the main process, and its exit status or signal
	invocation           string              // hexadecimal, empty before the first start
	broken               []string            // units that it needs, and that have failed
	encrypted            []policy.Credential // of LoadCredentialEncrypted=
	replaced             []string            // plaintext files that the unit's policy stands for
	conditions, asserts  []unitCheck
	log                  []manager.Record // oldest first
}

// explanation is one cause and one remedy; without a cause it is unknown.
type explanation struct{ cause, remedy string }

// Verb is what an operator calls.
func Verb() *cli.Verb {
	format := &options.Table{}
	return options.Bind(&cli.Verb{
		Name: "explain", Forms: cli.Takes("UNIT", "Tell why the last start of a unit failed"),
		Flags: cli.NewFlags("explain"), Least: 1, Most: 1,
		Run: func(args []string) error { return explainUnit(args[0], format.Format) },
	}, options.Dialect{}, format)
}

// explainUnit tells why the last start of a unit failed.
func explainUnit(name string, format table.Format) error {
	name = policy.UnitName(name)
	if err := policy.CheckUnit(name); err != nil {
		return report.Usage(err)
	}
	if strings.HasSuffix(name, "@.service") {
		return report.Usagef("explain: %s is a template, which is never started; expected one of its instances", name)
	}
	s, err := readStartup(name)
	if err != nil {
		return err
	}
	e := s.explain(s.openNow)
	if err := s.print(os.Stdout, e, format); err != nil {
		return err
	}
	if e.cause == "" {
		return report.Status(1)
	}
	return nil
}

// Cause is why the last start of a unit failed, "" where that cannot be told or it
// has not failed.
func Cause(unit string) string {
	s, err := readStartup(unit)
	if err != nil || s.active == "active" {
		return ""
	}
	return s.explain(s.openNow).cause
}

func (s *startup) print(w io.Writer, e explanation, format table.Format) error {
	t := &table.Table{Vertical: true, Columns: []string{"Unit", "State", "Cause", "Remedy"}}
	cause := table.Text(e.cause)
	if e.cause == "" {
		cause = table.Cell{Value: "unknown", Text: "Unknown", Color: table.Yellow}
	}
	t.Add(table.Text(s.unit), table.Text(s.state()), cause, table.Text(e.remedy))
	evidence := make([]string, len(s.log))
	for i, r := range s.log {
		evidence[i] = r.String()
	}
	if format.JSON != "off" {
		t.Columns = append(t.Columns, "Evidence")
		t.Rows[0] = append(t.Rows[0], table.Cell{Value: evidence})
		return t.Print(w, format)
	}
	if err := t.Print(w, format); err != nil || e.cause != "" {
		return err
	}
	for _, line := range evidence {
		if _, err := fmt.Fprintf(w, "        %s\n", table.Text(line)); err != nil {
			return err
		}
	}
	return nil
}

func (s *startup) state() string {
	if s.result == "" || s.result == "success" {
		return fmt.Sprintf("%s (%s)", s.active, s.sub)
	}
	state := fmt.Sprintf("%s (%s), result %s", s.active, s.sub, s.result)
	if s.mainCode == cldExited && s.mainStatus != 0 {
		state += fmt.Sprintf(", exit status %d", s.mainStatus)
	}
	return state
}

// openNow opens the credentials of the unit's policy or, where it has none, those
// that its own files name.
func (s *startup) openNow() error {
	credentials, null := s.encrypted, sealing.NullByMachine
	switch p, err := policy.ForUnit("/", s.unit); {
	case err == nil:
		credentials = p.Credentials
		if p.Seal.Key == policy.KeyNull {
			null = sealing.NullAccepted
		}
	case !errors.Is(err, policy.ErrNoPolicy) || len(credentials) == 0:
		return err
	}
	var all []*sealing.File
	for _, c := range credentials {
		blob, err := sealing.Read(c.Source, c.Name)
		if err != nil {
			return err
		}
		all = append(all, blob)
	}
	return sealing.ForUnit(null).Try(all)
}

// explain finds the cause. What systemd and the hooks said goes before what can
// be found out now; nothing is guessed.
func (s *startup) explain(open func() error) explanation {
	switch s.load {
	case "not-found":
		return explanation{"there is no such unit", "systemctl list-unit-files --type=service"}
	case "masked":
		return explanation{"the unit is masked", "systemctl unmask " + s.unit}
	case "error", "bad-setting":
		return explanation{"systemd cannot read the unit: " + s.loadError, "systemd-analyze verify " + s.unit}
	}
	if s.active == "active" {
		return explanation{"the unit runs; nothing has failed", ""}
	}
	if c := failed(s.asserts); c != "" {
		if isGuard(c) {
			return explanation{"there is a policy, and bootseal-generator did not put it into force", "systemctl daemon-reload; journalctl -b -t bootseal-generator"}
		}
		return explanation{c + " was not met", "systemctl cat " + s.unit}
	}
	if c := failed(s.conditions); c != "" && slices.ContainsFunc(s.replaced, func(file string) bool { return strings.HasSuffix(c, "="+file) }) {
		// What the generator makes of a policy is without these.
		return explanation{c + " was not met, which the policy does away with, and bootseal-generator did not put it into force", "systemctl daemon-reload; journalctl -b -t bootseal-generator"}
	} else if c != "" {
		return explanation{c + " was not met, so that systemd skipped the unit", "systemctl cat " + s.unit}
	}
	if cause, hint, ok := failure.SplitHint(s.status); ok {
		return explanation{cause, hint}
	}
	for i, r := range slices.Backward(s.log) {
		hint, ok := strings.CutPrefix(r.Message, "hint: ")
		if ok && i > 0 && r.Identifier == "bootseal" {
			return explanation{strings.TrimPrefix(s.log[i-1].Message, "bootseal: "), hint}
		}
	}
	if s.active == "inactive" && s.result == "success" {
		if s.invocation == "" && s.lacksDependency() {
			if len(s.broken) == 0 {
				return explanation{"a unit that it needs did not start", "systemctl list-dependencies " + s.unit}
			}
			return explanation{s.broken[0] + ", which it needs, failed", "systemctl status " + s.broken[0]}
		}
		if s.invocation == "" {
			return explanation{"the unit has not been started since the machine was", "systemctl start " + s.unit}
		}
		return explanation{"the unit was stopped; nothing has failed", "systemctl start " + s.unit}
	}
	return s.byStatus(open)
}

// isGuard tells whether a check is one of the installed service.d/zz-bootseal.conf,
// this version's or an older one's: that there is nothing that has a policy's name.
func isGuard(check string) bool {
	_, file, ok := strings.Cut(check, "=!")
	return ok && strings.HasSuffix(file, ".service.toml") && slices.Contains(policy.Dirs, path.Dir(file))
}

// cldExited is CLD_EXITED of waitid(2).
const cldExited = 1

// Exit statuses of systemd.exec(5), of processes that systemd could not start.
var execStatuses = map[int32]string{
	200: "its WorkingDirectory= cannot be entered (200/CHDIR)",
	203: "its command cannot be run (203/EXEC)",
	216: "its Group= does not exist (216/GROUP)",
	217: "its User= does not exist (217/USER)",
}

// byStatus is for failures of which no hook has told.
func (s *startup) byStatus(open func() error) explanation {
	if cause, ok := execStatuses[s.mainStatus]; ok && s.mainCode == cldExited {
		return explanation{cause, "systemctl cat " + s.unit}
	}
	atCredentials := fmt.Sprint(s.mainStatus) == systemd.ExitCredentials || slices.ContainsFunc(s.log, func(r manager.Record) bool {
		return r.Identifier == "systemd" && strings.Contains(r.Message, systemd.ExitCredentials+"/CREDENTIALS")
	})
	err := open()
	switch {
	case atCredentials && (errors.Is(err, fs.ErrPermission) || errors.Is(err, policy.ErrNoPolicy)):
		// This is about us.
		return explanation{}
	case atCredentials && err != nil:
		return explanation{"systemd could not open its credentials: " + err.Error(), failure.Of(err).Hint}
	case atCredentials:
		return explanation{}
	}
	if cause := s.atStep(); cause != "" {
		return explanation{cause, "systemctl cat " + s.unit}
	}
	for _, r := range slices.Backward(s.log) {
		if r.Identifier != "systemd" && strings.Contains(r.Message, "password incorrect") && err == nil {
			return explanation{"the unit got its credentials and says that the secret is a wrong one: " + r.Message, "encrypt the right one with \"bootseal encrypt --unit=" + s.unit + " NAME\""}
		}
	}
	switch s.result {
	case "timeout":
		return explanation{"it was not ready in time (TimeoutStartSec=)", "journalctl --unit=" + s.unit}
	case "oom-kill":
		return explanation{"the kernel ran out of memory and killed it", "journalctl -k"}
	}
	return explanation{}
}

// lacksDependency tells whether systemd gave up a start for the sake of another
// unit. It runs nothing then, and the unit itself has not failed.
func (s *startup) lacksDependency() bool {
	return slices.Contains(s.log, manager.Record{Identifier: "systemd", Message: fmt.Sprintf("%[1]s: Job %[1]s/start failed with result 'dependency'.", s.unit)})
}

// atStep is what systemd wrote before "Failed at step …", which it ends with
// when it cannot start a process. What PID 1 says of the start may come between the two.
func (s *startup) atStep() string {
	for i, r := range s.log {
		if r.Identifier != "systemd" && !strings.HasPrefix(r.Identifier, "(") || !strings.HasPrefix(r.Message, s.unit+": Failed at step ") {
			continue
		}
		for _, before := range slices.Backward(s.log[:i]) {
			if before.Identifier == r.Identifier && strings.HasPrefix(before.Message, s.unit+": Failed to ") {
				return strings.TrimPrefix(before.Message, s.unit+": ")
			}
		}
		return strings.TrimPrefix(r.Message, s.unit+": ")
	}
	return ""
}

func failed(checks []unitCheck) string {
	for _, c := range checks {
		if c.failed {
			return c.setting
		}
	}
	return ""
}
