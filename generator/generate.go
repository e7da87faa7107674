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

// generate writes the drop-ins for all policies below dir into the folder
// normal. It reports whether every policy is in force; the units of the others
// are blocked.
func generate(dir root.Dir, normal string, log *logger) bool {
	files, errs := policy.Find(dir)
	for _, err := range errs {
		log.print(levelError, err.Error())
	}
	if len(files) == 0 {
		return len(errs) == 0
	}
	planner, err := units.NewPlanner(dir)
	plan := func(file policy.File) units.Plan { return planner.Plan(file) }
	if err != nil {
		plan = func(file policy.File) units.Plan { return units.Block(file, err) }
	}
	ok := len(errs) == 0
	write := func(d units.DropIn) {
		if err := writeDropIn(normal, d); err != nil {
			log.print(levelError, err.Error())
			ok = false
		}
	}
	for _, file := range files {
		p := plan(file)
		for _, d := range p.DropIns {
			write(d)
		}
		switch {
		case errors.Is(p.Err, units.ErrMasked), errors.Is(p.Err, units.ErrNotFound):
			log.print(levelNotice, p.Err.Error())
		case p.Err != nil:
			log.print(levelError, fmt.Sprintf("blocking %s: %v", file.Unit, p.Err))
			ok = false
		}
	}
	for _, d := range units.Siblings(files) {
		write(d)
	}
	return ok
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
