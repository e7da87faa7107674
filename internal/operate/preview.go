package operate

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/bootseal/bootseal/internal/cli"
	"github.com/bootseal/bootseal/internal/contract"
	"github.com/bootseal/bootseal/internal/delivery"
	"github.com/bootseal/bootseal/internal/failure"
	"github.com/bootseal/bootseal/internal/report"
	"github.com/bootseal/bootseal/internal/root"
)

// errPreview says that a unit that is shown would not start.
var errPreview = failure.Blocked.New("would not start", "remove the cause, then run \"systemctl daemon-reload\" and start the unit again")

func previewVerb() *cli.Verb {
	v := &cli.Verb{
		Name: "preview", Forms: cli.Takes("[UNIT...]", "Show the drop-ins that there would be"),
		Details: "Those that the generator would write, for all policies or these units.",
		Flags:   cli.NewFlags("preview"), Most: cli.Unlimited,
	}
	version := v.Flags.String("systemd", "", "For a machine with this `VERSION` of systemd")
	dir := v.Flags.String("root", "/", "For the machine, or image, below `DIR`")
	v.Run = func(args []string) error { return preview(args, root.Dir(*dir), *version) }
	return v
}

// preview shows the drop-ins that the generator would write.
func preview(names []string, dir root.Dir, version string) error {
	files, err := coveringIn(dir, names)
	if err != nil {
		return err
	}
	planner, err := newPlanner(dir, version)
	if errors.Is(err, report.ErrUsage) {
		return err
	}
	var blocked []string
	shown := 0
	show := func(dropIns []delivery.DropIn, why string) {
		for _, d := range dropIns {
			if shown > 0 {
				fmt.Println()
			}
			shown++
			fmt.Printf("# %s\n# %s\n%s", contract.DropInPath(d.Unit, d.Name), why, d.Text)
		}
	}
	if err == nil {
		files = planner.Files(files)
	}
	for _, file := range files {
		var plan delivery.Plan
		if err != nil {
			plan = delivery.Block(file, err)
		} else {
			plan = planner.Plan(file)
		}
		why := "Delivery: none."
		switch {
		case errors.Is(plan.Err, fs.ErrPermission):
			return fmt.Errorf("what the generator, which is root, would write for %s cannot be told: %w", file.Unit, plan.Err)
		case plan.Err != nil:
			why = "Delivery: none, the unit is blocked."
			blocked = append(blocked, file.Unit)
			report.Error(fmt.Errorf("%s: %w", file.Unit, plan.Err))
		case plan.Delivery != "":
			why = fmt.Sprintf("Delivery: %s, since %s.", plan.Delivery, plan.Why)
		}
		if plan.Unseen != nil {
			if _, err := planner.Made(file.Unit); err != nil {
				report.Warn("%v", plan.Unseen)
			}
		}
		for _, text := range plan.Notes() {
			report.Warn("%s: %s", file.Unit, text)
		}
		show(plan.DropIns, why)
	}
	if len(names) == 0 {
		show(delivery.Siblings(files), "Delivery: none.")
	}
	if len(blocked) > 0 {
		return fmt.Errorf("%s %w", strings.Join(blocked, ", "), errPreview)
	}
	return nil
}

// newPlanner is for the systemd of the machine, or for the version given.
func newPlanner(dir root.Dir, version string) (*delivery.Planner, error) {
	if version == "" {
		return delivery.NewPlanner(dir)
	}
	n, err := strconv.ParseUint(version, 10, 16)
	if err != nil || n == 0 {
		return nil, report.Usagef("--systemd=%s: expected the number of a version such as 257", version)
	}
	return delivery.NewPlannerFor(dir, int(n))
}
