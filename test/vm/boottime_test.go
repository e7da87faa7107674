package vm

import (
	"bufio"
	"errors"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/bootseal/bootseal/test/machine"
)

// timedUnits are two services that differ in a policy only.
func timedUnits(t *testing.T, vm *machine.VM) {
	t.Helper()
	const unit = "[Unit]\nStartLimitIntervalSec=0\n\n[Service]\nType=oneshot\nExecStart=/bin/echo main process\n"
	if err := errors.Join(
		vm.Write("/etc/systemd/system/plain.service", unit, 0o644),
		vm.Write("/etc/systemd/system/sealed.service", unit, 0o644),
		vm.Write("/etc/bootseal/sealed.service.toml", "[[credential]]\nname = \"step-ca\"\n", 0o644),
	); err != nil {
		t.Fatal(err)
	}
}

// bootStamps prints when the generators ran and when the boot was done, in
// monotonic time; a reload of systemd runs the generators again.
const bootStamps = `
section boot; systemctl show --property=GeneratorsStartTimestampMonotonic --property=GeneratorsFinishTimestampMonotonic; systemctl show --property=ActiveEnterTimestampMonotonic multi-user.target
`

// startStamps prints the journal of some starts. The units take turns, so that what
// else the machine does falls on both.
const startStamps = `
for _ in 1 2 3 4 5 6 7; do systemctl start plain.service; systemctl start sealed.service; done
journalctl --sync
for unit in plain sealed; do section "$unit"; journalctl --boot --unit=$unit.service --output=short-monotonic; done
`

// generators returns the share that all of them have in the boot, from the kernel's
// start to multi-user.target.
func generators(t *testing.T, out map[string]string) float64 {
	t.Helper()
	var at [3]float64
	for i, name := range []string{"GeneratorsStartTimestampMonotonic", "GeneratorsFinishTimestampMonotonic", "ActiveEnterTimestampMonotonic"} {
		_, rest, _ := strings.Cut(out["boot"], name+"=")
		value, _, _ := strings.Cut(rest, "\n")
		var err error
		if at[i], err = strconv.ParseFloat(value, 64); err != nil || at[i] == 0 {
			t.Fatalf("no %s in:\n%s", name, out["boot"])
		}
	}
	return (at[1] - at[0]) / at[2]
}

var journalLine = regexp.MustCompile(`^\[ *([0-9.]+)\] \S+ (\S+)\[\d+\]: (.*)`)

// starts returns the median of the times in a journal from the start of the unit's
// job to its main process, in seconds.
func starts(t *testing.T, journal string) float64 {
	t.Helper()
	var all []float64
	var job float64
	for lines := bufio.NewScanner(strings.NewReader(journal)); lines.Scan(); {
		line := journalLine.FindStringSubmatch(lines.Text())
		if line == nil {
			continue
		}
		at, err := strconv.ParseFloat(line[1], 64)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case line[2] == "systemd" && strings.HasPrefix(line[3], "Starting "):
			job = at
		case line[2] == "echo" && line[3] == "main process":
			all = append(all, at-job)
		}
	}
	if len(all) != 7 {
		t.Fatalf("%d starts in the journal, want 7:\n%s", len(all), journal)
	}
	slices.Sort(all)
	return all[len(all)/2]
}
