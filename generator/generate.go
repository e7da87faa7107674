package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"

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
	errs = append(errs, blockAll(normal, files)...)
	if len(files) > 0 {
		planner, err := units.NewPlanner(dir)
		if err == nil {
			files = planner.Files(files)
		}
		for i, o := range putAll(normal, files, planner, err) {
			switch err := o.plan.Err; {
			case err == nil:
			case errors.Is(err, units.ErrMasked), errors.Is(err, units.ErrNotFound):
				log.print(levelNotice, err.Error())
			default:
				errs = append(errs, fmt.Errorf("blocking %s: %w", files[i].Unit, err))
			}
			errs = append(errs, o.errs...)
		}
	}
	for _, err := range errs {
		log.print(levelError, err.Error())
	}
	return len(errs) == 0
}

// blockAll keeps the units of all policies from starting, and those that are none
// of theirs from being taken for one.
func blockAll(normal string, files []policy.File) (errs []error) {
	pending := units.Pending(errUnfinished)
	first := "" // of which the others are links: there may be thousands
	for _, file := range files {
		d := units.DropIn{Unit: file.Unit, Name: units.DropInName, Text: pending}
		path := filepath.Join(normal, d.Unit+".d", d.Name)
		switch {
		case file.Masked:
		case first == "":
			first = path
		case os.Mkdir(filepath.Dir(path), 0o755) == nil && os.Link(first, path) == nil:
			continue
		}
		if file.Masked {
			d = units.Block(file, nil).DropIns[0]
		}
		errs = append(errs, writeDropIns(normal, []units.DropIn{d})...)
	}
	return append(errs, writeDropIns(normal, units.Siblings(files))...)
}

// outcome is what came of one policy.
type outcome struct {
	plan units.Plan
	errs []error // of writing it
}

// putAll puts the policies into force, as many at a time as there are processors.
// Without a planner it blocks their units for that reason.
func putAll(normal string, files []policy.File, planner *units.Planner, reason error) []outcome {
	all := make([]outcome, len(files))
	var (
		workers sync.WaitGroup
		last    atomic.Int64
	)
	for range runtime.GOMAXPROCS(0) {
		workers.Add(1)
		go func() {
			defer workers.Done()
			for i := last.Add(1) - 1; i < int64(len(files)); i = last.Add(1) - 1 {
				o := &all[i]
				if reason != nil {
					o.plan = units.Block(files[i], reason)
				} else {
					o.plan = planned(planner, files[i])
				}
				o.errs = writeDropIns(normal, o.plan.DropIns)
				o.plan.DropIns = nil
			}
		}()
	}
	workers.Wait()
	return all
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

func writeDropIns(normal string, dropIns []units.DropIn) (errs []error) {
	for _, d := range dropIns {
		folder := filepath.Join(normal, d.Unit+".d")
		if err := os.Mkdir(folder, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			errs = append(errs, fmt.Errorf("making the drop-in folder: %w", err))
		} else if err := atomicfile.Write(filepath.Join(folder, d.Name), []byte(d.Text), 0o644); err != nil {
			errs = append(errs, fmt.Errorf("writing the drop-in for %s: %w", d.Unit, err))
		}
	}
	return errs
}
