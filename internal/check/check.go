// Package check looks for all that would keep units with a policy from starting, or
// makes a secret less safe than its policy says. It changes nothing.
package check

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/bootseal/bootseal/internal/atomicfile"
	"github.com/bootseal/bootseal/internal/cli"
	"github.com/bootseal/bootseal/internal/delivery"
	"github.com/bootseal/bootseal/internal/inspect"
	"github.com/bootseal/bootseal/internal/options"
	"github.com/bootseal/bootseal/internal/report"
	"github.com/bootseal/bootseal/internal/root"
	"github.com/bootseal/bootseal/internal/systemd"
	"github.com/bootseal/bootseal/internal/table"
	"github.com/bootseal/bootseal/policy"
)

// verdict is what a check comes to.
type verdict string

const (
	good    verdict = "ok"
	note    verdict = "note"    // worth knowing; nothing is wrong
	bad     verdict = "bad"     // a unit would not start, or is less safe than its policy says
	unknown verdict = "unknown" // it could not look
)

// Exit statuses of check, besides 0.
const (
	statusBad     = 1
	statusUnknown = 2
)

// finding is one row of check.
type finding struct {
	unit, credential string // empty for the machine itself
	check            string
	verdict          verdict
	found            string
	remedy           string // the command that mends it
}

// checking is one run of check.
type checking struct {
	inspect.TPM
	unseal      bool
	metricsFile string
	now         time.Time
	planner     *delivery.Planner
	noSystem    error                               // why the planner is missing
	needs       struct{ host, hostMade, tpm2 bool } // hostMade: a host key, which is made if there is none
	expiry      []expiry
	findings    []finding
}

type expiry struct {
	unit, credential string
	at               time.Time
}

func (c *checking) add(f finding) { c.findings = append(c.findings, f) }

// Verb is what an operator calls.
func Verb() *cli.Verb {
	c := &checking{now: time.Now()}
	format, device, signature := &options.Table{}, &options.Device{}, &options.Signature{}
	v := &cli.Verb{
		Name: "check", Forms: cli.Takes("[UNIT...]", "Look for what keeps units from starting"),
		Details: "Looks at units that have a policy. The exit status is 0 if all is well, 1 if not, and 2 if it could not look.",
		Flags:   cli.NewFlags("check"), Most: cli.Unlimited, Failed: notLooked,
	}
	v.Flags.BoolVar(&c.unseal, "unseal", false, "Check by opening the credentials, too")
	v.Flags.StringVar(&c.metricsFile, "metrics", "", "Write what was found to `FILE`, for node_exporter")
	v.Run = func(args []string) error {
		c.Device, c.Signature = device.Name, signature.File
		defer c.Close()
		return c.run(args, format.Format)
	}
	options.Bind(v, options.Dialect{}, device, signature, format)
	v.Ask = nil // an answer would be taken for the verdict
	return v
}

// run looks for all that would keep a covered unit from starting, or makes its
// secret less safe than its policy says.
func (c *checking) run(names []string, format table.Format) error {
	for _, name := range names {
		if err := policy.CheckUnit(policy.UnitName(name)); err != nil {
			return report.Usage(err)
		}
	}
	version, err := systemd.Version("/")
	if err == nil {
		c.planner, err = delivery.NewPlanner("/")
	}
	c.noSystem = err
	c.units(names)
	c.left(names)
	c.machine(version)
	if err := c.table().Print(os.Stdout, format); err != nil {
		return err
	}
	if c.metricsFile != "" {
		if err := atomicfile.Write(c.metricsFile, c.metrics(), 0o644); err != nil {
			return fmt.Errorf("writing the metrics: %w", err)
		}
	}
	return c.status()
}

// notLooked reports an error whose own status would say what is not known.
func notLooked(err error) error {
	var verdict report.Status
	if errors.As(err, &verdict) {
		return err
	}
	report.Failure(err)
	return report.Status(statusUnknown)
}

// units checks those of that name, or all that have a policy.
func (c *checking) units(names []string) {
	if len(names) == 0 {
		files, errs := policy.Find("/")
		for _, err := range errs {
			c.add(finding{check: "policy", verdict: badOrUnknown(err), found: err.Error(), remedy: remedyForPolicy(err)})
		}
		if len(files) == 0 && len(errs) == 0 {
			c.add(finding{check: "policy", verdict: note, found: "there is none in " + strings.Join(policy.Dirs, ", ")})
		}
		for _, file := range c.withInstances(files) {
			c.unit(file)
		}
		return
	}
	for _, name := range names {
		files, beside, err := policy.Covering(root.Dir("/"), []string{name})
		for _, err := range beside {
			report.Error(err)
		}
		if err != nil {
			c.add(finding{unit: policy.UnitName(name), check: "policy", verdict: bad, found: err.Error(), remedy: fmt.Sprintf("${EDITOR:-vi} %s/%s.toml", policy.Dirs[0], policy.UnitName(name))})
			continue
		}
		file := files[0]
		for _, f := range c.withInstances(files) {
			if f.Unit == policy.UnitName(name) {
				file = f
			}
		}
		c.unit(file)
	}
}

// withInstances adds those that have a drop-in of their own.
func (c *checking) withInstances(files []policy.File) []policy.File {
	if c.planner == nil {
		return files
	}
	return c.planner.Files(files)
}

// badOrUnknown is bad, unless err kept us from looking.
func badOrUnknown(err error) verdict {
	if errors.Is(err, fs.ErrPermission) {
		return unknown
	}
	return bad
}

func remedyForPolicy(err error) string {
	var at *policy.Error
	if !errors.As(err, &at) || badOrUnknown(err) == unknown {
		return ""
	}
	unit := strings.TrimSuffix(path.Base(at.Path), ".toml")
	switch {
	case policy.CheckUnit(unit) == nil:
		return "${EDITOR:-vi} " + at.Path
	case policy.CheckUnit(policy.UnitName(unit)) == nil:
		return fmt.Sprintf("mv -n %s %s/%s.toml", at.Path, path.Dir(at.Path), policy.UnitName(unit))
	}
	return "rm " + at.Path
}

func (c *checking) table() *table.Table {
	t := &table.Table{Columns: []string{"UNIT", "CREDENTIAL", "CHECK", "VERDICT", "FOUND", "REMEDY"}}
	colors := map[verdict]table.Color{good: table.Green, note: table.Plain, bad: table.Red, unknown: table.Yellow}
	for _, f := range c.findings {
		t.Add(table.Text(f.unit), table.Text(f.credential), table.Text(f.check),
			table.Cell{Value: string(f.verdict), Color: colors[f.verdict]}, table.Text(f.found), table.Text(f.remedy))
	}
	return t
}

func (c *checking) status() error {
	status := 0
	for _, f := range c.findings {
		switch {
		case f.verdict == bad:
			return report.Status(statusBad)
		case f.verdict == unknown:
			status = statusUnknown
		}
	}
	if status != 0 {
		return report.Status(status)
	}
	return nil
}

// metrics is a text file for node_exporter's textfile collector.
func (c *checking) metrics() []byte {
	var out strings.Builder
	head := func(name, help string) {
		fmt.Fprintf(&out, "# HELP %s %s\n# TYPE %s gauge\n", name, help, name)
	}
	// Of several findings of one name the worst counts.
	type series struct{ unit, credential, check string }
	worst := map[series]verdict{}
	var order []series
	for _, f := range c.findings {
		s := series{f.unit, f.credential, f.check}
		old, seen := worst[s]
		if !seen {
			order = append(order, s)
		}
		if !seen || severity[f.verdict] > severity[old] {
			worst[s] = f.verdict
		}
	}
	head("bootseal_check_verdict", "What bootseal check found: 0 ok, 1 worth knowing, 2 could not look, 3 wrong.")
	for _, s := range order {
		fmt.Fprintf(&out, "bootseal_check_verdict{unit=\"%s\",credential=\"%s\",check=\"%s\"} %d\n", label(s.unit), label(s.credential), label(s.check), severity[worst[s]])
	}
	if len(c.expiry) > 0 {
		head("bootseal_credential_expiry_timestamp_seconds", "When the credential expires.")
		for _, e := range c.expiry {
			fmt.Fprintf(&out, "bootseal_credential_expiry_timestamp_seconds{unit=\"%s\",credential=\"%s\"} %d\n", label(e.unit), label(e.credential), e.at.Unix())
		}
	}
	head("bootseal_check_timestamp_seconds", "When bootseal check ran.")
	fmt.Fprintf(&out, "bootseal_check_timestamp_seconds %d\n", c.now.Unix())
	return []byte(out.String())
}

var severity = map[verdict]int{good: 0, note: 1, unknown: 2, bad: 3}

var labelEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

// label escapes a value as the Prometheus text format wants it.
func label(s string) string { return labelEscapes.Replace(s) }
