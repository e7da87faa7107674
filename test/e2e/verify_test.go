package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/bootseal/bootseal/test/machine"
	"github.com/bootseal/bootseal/test/story"
)

// TestVerify has systemd's own reader look at every drop-in that the generator's
// tests expect: it must not complain of anything that it does not complain of
// without the drop-in.
func TestVerify(t *testing.T) {
	t.Parallel()
	cases, err := filepath.Glob("../../generator/testdata/[0-9]*")
	if err != nil || len(cases) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, version := range machine.Containers(t) {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			t.Parallel()
			m := fresh(t, version, "bootseal")
			var script strings.Builder
			script.WriteString("cp /bin/true /usr/bin/app; cp /bin/true /usr/bin/other; mkdir -p /usr/local/bin; cp /bin/true /usr/local/bin/app\n")
			names := 0
			for _, folder := range cases {
				for _, unit := range installCase(t, m, folder, version) {
					name := filepath.Base(folder) + " " + unit
					names++
					dir := "/cases/" + filepath.Base(folder)
					path := dir + "/etc/systemd/system:" + dir + "/usr/lib/systemd/system"
					verify := fmt.Sprintf("systemd-analyze verify --man=no %s 2>&1 | sort -u", strings.Replace(unit, "@.", "@x.", 1))
					fmt.Fprintf(&script, "section without %s; echo; SYSTEMD_UNIT_PATH=%s: %s\n", name, path, verify)
					fmt.Fprintf(&script, "section with %s; echo; SYSTEMD_UNIT_PATH=%s:%s/out: %s\n", name, path, dir, verify)
				}
			}
			out := story.Boot(t, m, script.String())
			for name, text := range out {
				name, ok := strings.CutPrefix(name, "with ")
				if !ok {
					continue
				}
				names--
				known := strings.Split(out["without "+name], "\n")
				for _, line := range strings.Split(text, "\n") {
					if line != "" && !slices.Contains(known, line) {
						t.Errorf("%s: %s", name, line)
					}
				}
			}
			if names != 0 {
				t.Errorf("%d drop-ins have not been looked at", names)
			}
		})
	}
}

// installCase copies a case to /cases, its drop-ins for that version to the
// folder "out" in it, and returns the units that have one.
func installCase(t *testing.T, m *machine.Machine, folder string, version int) []string {
	t.Helper()
	copyTo := func(from, to string) {
		err := filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() {
				return err
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return m.Write(to+strings.TrimPrefix(path, from), string(data), 0o644)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	to := "/cases/" + filepath.Base(folder)
	copyTo(folder+"/in", to)
	outs, _ := filepath.Glob(folder + "/out-*")
	var units []string
	for _, out := range outs {
		var first, last int
		if n, _ := fmt.Sscanf(filepath.Base(out), "out-%d-%d", &first, &last); n != 2 || version < first || version > last {
			continue
		}
		copyTo(out, to+"/out")
		dropIns, _ := filepath.Glob(out + "/*.d")
		for _, d := range dropIns {
			unit := strings.TrimSuffix(filepath.Base(d), ".d")
			if _, err := os.Stat(m.Path(to + "/usr/lib/systemd/system/" + unit)); err == nil {
				units = append(units, unit)
			}
		}
	}
	return units
}
