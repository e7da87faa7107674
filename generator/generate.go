package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/bootseal/bootseal/internal/atomicfile"
	"github.com/bootseal/bootseal/internal/root"
	"github.com/bootseal/bootseal/policy"
	"github.com/bootseal/bootseal/units"
)

// concerned tells whether this is the system manager of the machine itself. An
// initrd is told by its release file, since systemd 247 does not say.
func concerned(dir root.Dir) bool {
	if os.Getenv("SYSTEMD_SCOPE") == "user" || os.Getenv("SYSTEMD_IN_INITRD") == "1" {
		return false
	}
	path, err := dir.Path("/etc/initrd-release")
	if err != nil {
		return true
	}
	_, err = os.Stat(path)
	return err != nil
}

// errUnfinished is what units are blocked with until their policy is in force.
var errUnfinished = errors.New("bootseal-generator did not finish; run \"systemctl daemon-reload\", then look at \"journalctl -b -t bootseal-generator\"")

// generate writes the drop-ins for all policies below dir into the folder
// normal. It reports whether every policy is in force; the units of the others
// are blocked.
//
// All units are blocked before anything is read that could be the end of the
// generator: what it leaves behind then keeps them from starting.
func generate(dir root.Dir, normal string, log *logger) bool {
	files, errs := policy.Find(dir)
	write := func(dropIns []units.DropIn) {
		for _, d := range dropIns {
			if err := writeDropIn(normal, d); err != nil {
				errs = append(errs, err)
			}
		}
	}
	for _, file := range files {
		write(units.Block(file, errUnfinished).DropIns)
	}
	write(units.Siblings(files))
	if len(files) > 0 {
		planner, err := units.NewPlanner(dir)
		if err == nil {
			files = planner.Files(files)
		}
		for _, file := range files {
			var plan units.Plan
			if err != nil {
				plan = units.Block(file, err)
			} else {
				plan = planned(planner, file)
			}
			write(plan.DropIns)
			switch {
			case plan.Err == nil:
			case errors.Is(plan.Err, units.ErrMasked), errors.Is(plan.Err, units.ErrNotFound):
				log.print(levelNotice, plan.Err.Error())
			default:
				errs = append(errs, fmt.Errorf("blocking %s: %w", file.Unit, plan.Err))
			}
		}
	}
	for _, err := range errs {
		log.print(levelError, err.Error())
	}
	return len(errs) == 0
}

// planned is the planner's plan. Whatever goes wrong in it concerns that one
// unit.
func planned(planner *units.Planner, file policy.File) (plan units.Plan) {
	defer func() {
		if r := recover(); r != nil {
			plan = units.Block(file, fmt.Errorf("%s: bootseal-generator broke off at this policy, which is a bug in it: %v", file.Path, r))
		}
	}()
	return planner.Plan(file)
}

func writeDropIn(normal string, d units.DropIn) error {
	folder := filepath.Join(normal, d.Unit+".d")
	if err := os.Mkdir(folder, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("making the drop-in folder: %w", err)
	}
	if err := atomicfile.Write(filepath.Join(folder, d.Name), []byte(d.Text), 0o644); err != nil {
		return fmt.Errorf("writing the drop-in for %s: %w", d.Unit, err)
	}
	return nil
}
