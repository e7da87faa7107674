package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"

	"github.com/bootseal/bootseal/internal/table"
	"github.com/bootseal/bootseal/policy"
)

// errManager says that systemd could not be asked.
var errManager = errors.New("systemd does not answer")

// managerTime bounds a question to systemd; a start or reload may take longer.
const managerTime = 20 * time.Second

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
	log                  []record // oldest first
}

// record is one of the journal.
type record struct{ identifier, message string }

func (r record) String() string { return r.identifier + ": " + r.message }

// explanation is one cause and one remedy; without a cause it is unknown.
type explanation struct{ cause, remedy string }

// explain is the hook of units, given --unit= first, and otherwise for a prompt.
func explain(args []string) error {
	if len(args) > 0 && strings.HasPrefix(args[0], "--unit=") {
		return explainHook(args)
	}
	return explainUnit(args)
}

// explainUnit tells why the last start of a unit failed.
func explainUnit(args []string) error {
	flags := flagSet("explain")
	format := tableFlags(flags)
	if err := parseTableFlags(flags, format, args); err != nil {
		return err
	}
	if flags.NArg() != 1 {
		return usagef("explain: expected one UNIT")
	}
	name := unitName(flags.Arg(0))
	if err := policy.CheckUnit(name); err != nil {
		return usageError{err}
	}
	if strings.HasSuffix(name, "@.service") {
		return usagef("explain: %s is a template, which is never started; expected one of its instances", name)
	}
	s, err := readStartup(name)
	if err != nil {
		return err
	}
	e := s.explain(s.openNow)
	if err := s.print(os.Stdout, e, *format); err != nil {
		return err
	}
	if e.cause == "" {
		return statusError(1)
	}
	return nil
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
	credentials, allowNull := s.encrypted, false
	switch p, err := policy.ForUnit("/", s.unit); {
	case err == nil:
		credentials, allowNull = p.Credentials, p.Seal.Key == policy.KeyNull
	case !errors.Is(err, policy.ErrNoPolicy) || len(credentials) == 0:
		return err
	}
	var all []*sealed
	for _, c := range credentials {
		blob, err := readSealed(c.Source, c.Name)
		if err != nil {
			return err
		}
		all = append(all, blob)
	}
	opened, err := opening{anyScope: true, allowNull: allowNull, now: time.Now()}.open(all)
	wipe(opened)
	return err
}

// encryptedOf reads the property LoadCredentialEncrypted, a(ss): names and paths.
func encryptedOf(value any) (all []policy.Credential) {
	list, _ := value.([][]any)
	for _, item := range list {
		if len(item) != 2 {
			continue
		}
		source := text(item[1])
		if !path.IsAbs(source) {
			source = inCredstore(source)
		}
		all = append(all, policy.Credential{Name: text(item[0]), Source: source})
	}
	return all
}

// inCredstore finds an encrypted credential where systemd looks for those without
// a path.
func inCredstore(name string) string {
	for _, folder := range []string{"/etc", "/run", "/usr/local/lib", "/usr/lib"} {
		file := path.Join(folder, "credstore.encrypted", name)
		if _, err := os.Stat(file); err == nil {
			return file
		}
	}
	return path.Join(policy.CredentialStore, name)
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
		if strings.HasPrefix(c, "AssertFileNotEmpty=!") && strings.HasSuffix(c, ".toml") {
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
	if e, ok := saidBy(s.status); ok {
		return e
	}
	for i, r := range slices.Backward(s.log) {
		hint, ok := strings.CutPrefix(r.message, "hint: ")
		if ok && i > 0 && r.identifier == "bootseal" {
			return explanation{strings.TrimPrefix(s.log[i-1].message, "bootseal: "), hint}
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
	atCredentials := fmt.Sprint(s.mainStatus) == exitCredentials || slices.ContainsFunc(s.log, func(r record) bool {
		return r.identifier == "systemd" && strings.Contains(r.message, exitCredentials+"/CREDENTIALS")
	})
	err := open()
	switch {
	case atCredentials && (errors.Is(err, fs.ErrPermission) || errors.Is(err, policy.ErrNoPolicy)):
		// This is about us.
		return explanation{}
	case atCredentials && err != nil:
		return explanation{"systemd could not open its credentials: " + err.Error(), outcomeOf(err).hint}
	case atCredentials:
		return explanation{}
	}
	if cause := s.atStep(); cause != "" {
		return explanation{cause, "systemctl cat " + s.unit}
	}
	for _, r := range slices.Backward(s.log) {
		if r.identifier != "systemd" && strings.Contains(r.message, "password incorrect") && err == nil {
			return explanation{"the unit got its credentials and says that the secret is a wrong one: " + r.message, "encrypt the right one with \"bootseal encrypt --unit=" + s.unit + " NAME\""}
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
	return slices.Contains(s.log, record{"systemd", fmt.Sprintf("%[1]s: Job %[1]s/start failed with result 'dependency'.", s.unit)})
}

// atStep is what systemd wrote before "Failed at step …", which it ends with
// when it cannot start a process.
func (s *startup) atStep() string {
	for i, r := range s.log {
		if r.identifier != "systemd" && !strings.HasPrefix(r.identifier, "(") || !strings.HasPrefix(r.message, s.unit+": Failed at step ") {
			continue
		}
		if before := s.log[max(i-1, 0)]; before.identifier == r.identifier && strings.HasPrefix(before.message, s.unit+": Failed to ") {
			return strings.TrimPrefix(before.message, s.unit+": ")
		}
		return strings.TrimPrefix(r.message, s.unit+": ")
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

// saidBy takes a text of our hooks apart, which ends in one of the hints.
func saidBy(text string) (explanation, bool) {
	for _, o := range outcomes {
		if cause, ok := strings.CutSuffix(text, "; "+o.hint); ok && o.hint != "" {
			return explanation{cause, o.hint}, true
		}
	}
	return explanation{}, false
}

// dial connects to systemd, over the bus or, as root, past it.
func dial(ctx context.Context) (*dbus.Conn, error) {
	conn, err := dbus.NewWithContext(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errManager, err)
	}
	return conn, nil
}

// readStartup asks systemd and the journal.
func readStartup(name string) (*startup, error) {
	ctx, cancel := context.WithTimeout(context.Background(), managerTime)
	defer cancel()
	conn, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	unit, err := conn.GetUnitPropertiesContext(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("asking for %s: %w: %w", name, errManager, err)
	}
	// Units that are not services do not get here; those that are not there have none.
	service, err := conn.GetUnitTypePropertiesContext(ctx, name, "Service")
	if err != nil {
		return nil, fmt.Errorf("asking for %s: %w: %w", name, errManager, err)
	}
	s := &startup{
		unit: name, load: text(unit["LoadState"]), active: text(unit["ActiveState"]), sub: text(unit["SubState"]),
		result: text(service["Result"]), status: text(service["StatusText"]),
		conditions: checksOf(unit["Conditions"]), asserts: checksOf(unit["Asserts"]),
	}
	s.mainCode, _ = service["ExecMainCode"].(int32)
	s.mainStatus, _ = service["ExecMainStatus"].(int32)
	s.encrypted = encryptedOf(service["LoadCredentialEncrypted"])
	if parts, ok := unit["LoadError"].([]any); ok && len(parts) == 2 {
		s.loadError = text(parts[1])
	}
	if id, ok := unit["InvocationID"].([]byte); ok {
		s.invocation = hex.EncodeToString(id)
	}
	if p, err := policy.ForUnit("/", name); err == nil {
		s.replaced = p.Replaced()
	}
	s.log = journal(ctx, s)
	if s.lacksDependency() {
		s.broken = broken(ctx, conn, unit)
	}
	return s, nil
}

// broken returns the units that have failed, of those that a unit with these
// properties needs. Where systemd does not tell there are none.
func broken(ctx context.Context, conn *dbus.Conn, unit map[string]any) (all []string) {
	for _, kind := range []string{"Requires", "Requisite", "BindsTo"} {
		names, _ := unit[kind].([]string)
		for _, name := range names {
			p, err := conn.GetUnitPropertyContext(ctx, name, "ActiveState")
			if err == nil && p.Value.Value() == "failed" {
				all = append(all, name)
			}
		}
	}
	return all
}

func text(value any) string {
	s, _ := value.(string)
	return s
}

// checksOf reads the property Conditions or Asserts, a(sbbsi): type, trigger,
// negate, parameter, result; of those that trigger, all have to fail.
func checksOf(value any) []unitCheck {
	list, _ := value.([][]any)
	var all []unitCheck
	triggers, triggered := -1, false
	for _, item := range list {
		if len(item) != 5 {
			continue
		}
		trigger, _ := item[1].(bool)
		negate, _ := item[2].(bool)
		result, _ := item[4].(int32)
		prefix := ""
		if negate {
			prefix = "!"
		}
		c := unitCheck{fmt.Sprintf("%s=%s%s", text(item[0]), prefix, text(item[3])), result < 0}
		if trigger {
			triggered = triggered || result > 0
			triggers = len(all)
			c.failed = false
		}
		all = append(all, c)
	}
	if triggers >= 0 && !triggered && slices.ContainsFunc(list, func(item []any) bool {
		result, _ := item[4].(int32)
		return result < 0
	}) && failed(all) == "" {
		all[triggers].failed = true
	}
	return all
}

// journal reads what the unit and systemd wrote in the last start. Without a
// journal there is nothing.
func journal(ctx context.Context, s *startup) []record {
	args := []string{"--no-pager", "--quiet", "--output=json", "--boot", "--lines=30"}
	if s.invocation == "" {
		args = append(args, "--unit="+s.unit)
	} else {
		args = append(args, "_SYSTEMD_INVOCATION_ID="+s.invocation, "+", "INVOCATION_ID="+s.invocation)
	}
	out, err := exec.CommandContext(ctx, "journalctl", args...).Output()
	if err != nil {
		return nil
	}
	return parseJournal(out)
}

// parseJournal reads the JSON of journalctl(1), a line for each record.
func parseJournal(out []byte) []record {
	var all []record
	for _, line := range bytes.Split(out, []byte("\n")) {
		var fields map[string]any
		if json.Unmarshal(line, &fields) != nil {
			continue
		}
		message, ok := fields["MESSAGE"].(string)
		if bad, is := fields["MESSAGE"].([]any); is { // bytes that are not UTF-8
			var raw []byte
			for _, b := range bad {
				if n, ok := b.(float64); ok {
					raw = append(raw, byte(n))
				}
			}
			message, ok = strings.ToValidUTF8(string(raw), "?"), true
		}
		if ok {
			all = append(all, record{text(fields["SYSLOG_IDENTIFIER"]), message})
		}
	}
	return all
}
