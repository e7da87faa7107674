package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/bootseal/bootseal/internal/atomicfile"
	"github.com/bootseal/bootseal/internal/contract"
	"github.com/bootseal/bootseal/internal/delivery"
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

// Of several policies the garbage is left until it takes that many bytes: to look
// through it takes longer than the policies do. One policy makes less of it than the
// runtime minds.
const (
	severalPolicies = 16
	maxGarbage      = 64 << 20
)

// generate writes the drop-ins for all policies below dir into the folder
// normal. It reports whether every policy is in force; the units of the others
// are blocked.
//
// All units are blocked before anything is read that could be the end of the
// generator: what it leaves behind then keeps them from starting.
func generate(dir root.Dir, normal string, log *logger) bool {
	out, err := os.Open(normal) // the way there is walked once
	if err != nil {
		log.print(levelError, fmt.Sprintf("opening the folder for drop-ins: %v", err))
		return false
	}
	defer out.Close()
	files, errs := policy.Find(dir)
	errs = append(errs, blockAll(out, files)...)
	if len(files) > severalPolicies {
		debug.SetGCPercent(-1)
		debug.SetMemoryLimit(maxGarbage)
	}
	if len(files) > 0 {
		planner, err := delivery.NewPlanner(dir)
		if err == nil {
			files = planner.Files(files)
		}
		for i, o := range putAll(out, files, planner, err) {
			switch err := o.plan.Err; {
			case err == nil && o.plan.Unseen != nil:
				log.print(levelNotice, o.plan.Unseen.Error())
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
func blockAll(out *os.File, files []policy.File) []error {
	pending := delivery.Pending(errUnfinished)
	// There may be thousands: all are links of the first.
	first := slices.IndexFunc(files, func(f policy.File) bool { return !f.Masked })
	block := func(i int) []error {
		return writeDropIns(out, []delivery.DropIn{{Unit: files[i].Unit, Name: contract.DropInName, Text: pending}})
	}
	errs := make([][]error, len(files)+1)
	if first >= 0 {
		errs[first] = block(first)
	}
	each(len(files), func(i int) {
		switch {
		case i == first:
		case files[i].Masked:
			errs[i] = writeDropIns(out, delivery.Block(files[i], nil).DropIns)
		case link(out, files[first].Unit, files[i].Unit) != nil:
			errs[i] = block(i)
		}
	})
	errs[len(files)] = writeDropIns(out, delivery.Siblings(files))
	return slices.Concat(errs...)
}

// folderMode is that of a folder of drop-ins.
const folderMode = 0o755

// link gives a unit that has none the drop-in of another one.
func link(out *os.File, from, to string) error {
	fd := int(out.Fd())
	if err := unix.Mkdirat(fd, to+".d", folderMode); err != nil {
		return err
	}
	return unix.Linkat(fd, from+".d/"+contract.DropInName, fd, to+".d/"+contract.DropInName, 0)
}

// fewPolicies is how many are worth a thread: each takes less than 0.1 ms.
const fewPolicies = 8

// each calls do with 0 to count-1, as many at a time as there are processors.
func each(count int, do func(i int)) {
	var (
		workers sync.WaitGroup
		next    atomic.Int64
	)
	work := func() {
		defer workers.Done()
		for i := int(next.Add(1) - 1); i < count; i = int(next.Add(1) - 1) {
			do(i)
		}
	}
	// One of them is this one: for a few policies another thread costs more than it helps.
	others := min(runtime.GOMAXPROCS(0), count/fewPolicies+1) - 1
	workers.Add(others + 1)
	for range others {
		go work()
	}
	work()
	workers.Wait()
}

// outcome is what came of one policy.
type outcome struct {
	plan delivery.Plan
	errs []error // of writing it
}

// putAll puts the policies into force. Without a planner it blocks their units for
// that reason.
func putAll(out *os.File, files []policy.File, planner *delivery.Planner, reason error) []outcome {
	all := make([]outcome, len(files))
	each(len(files), func(i int) {
		o := &all[i]
		if reason != nil {
			o.plan = delivery.Block(files[i], reason)
		} else {
			o.plan = planned(planner, files[i])
		}
		o.errs = writeDropIns(out, o.plan.DropIns)
		o.plan = delivery.Plan{Unseen: o.plan.Unseen, Err: o.plan.Err} // all else can go
	})
	return all
}

// planned is the planner's plan. Whatever goes wrong in it concerns that one
// unit.
func planned(planner *delivery.Planner, file policy.File) (plan delivery.Plan) {
	defer func() {
		if r := recover(); r != nil {
			plan = delivery.Block(file, fmt.Errorf("%s: bootseal-generator broke off at this policy, which is a bug in it: %v", file.Path, r))
		}
	}()
	return planner.Plan(file)
}

func writeDropIns(out *os.File, dropIns []delivery.DropIn) (errs []error) {
	for _, d := range dropIns {
		if err := writeDropIn(out, d); err != nil {
			errs = append(errs, fmt.Errorf("writing the drop-in for %s into %s: %w", d.Unit, out.Name(), err))
		}
	}
	return errs
}

func writeDropIn(out *os.File, d delivery.DropIn) error {
	name := d.Unit + ".d"
	if err := unix.Mkdirat(int(out.Fd()), name, folderMode); err != nil && err != unix.EEXIST {
		return fmt.Errorf("making the drop-in folder: %w", err)
	}
	fd, err := unix.Openat(int(out.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening the drop-in folder: %w", err)
	}
	folder := os.NewFile(uintptr(fd), name)
	defer folder.Close()
	// Everybody may read what units are made of, whatever the umask.
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil && st.Mode&0o777 != folderMode {
		err = unix.Fchmod(fd, folderMode)
	}
	if err != nil {
		return fmt.Errorf("setting the mode of the drop-in folder: %w", err)
	}
	return atomicfile.WriteIn(folder, d.Name, []byte(d.Text), 0o644)
}
