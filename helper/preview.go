package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/bootseal/bootseal/internal/contract"
	"github.com/bootseal/bootseal/internal/delivery"
	"github.com/bootseal/bootseal/internal/root"
	"github.com/bootseal/bootseal/policy"
)

// errPreview says that a unit that is shown would not start.
var errPreview = errors.New("would not start")

// flagSet is for the verbs that take other options than systemd-creds does.
func flagSet(verb string) *pflag.FlagSet {
	flags := pflag.NewFlagSet(verb, pflag.ContinueOnError)
	flags.SortFlags = false
	flags.Usage = func() { _ = printHelp(os.Stdout) }
	return flags
}

// parseFlags reads the arguments of a verb.
func parseFlags(flags *pflag.FlagSet, args []string) error {
	switch err := flags.Parse(args); {
	case errors.Is(err, pflag.ErrHelp):
		return err
	case err != nil:
		return usagef("%s: %w", flags.Name(), err)
	}
	return nil
}

// unitName adds the suffix that may be left out, as for systemctl(1).
func unitName(name string) string {
	if strings.Contains(name, ".") {
		return name
	}
	return name + ".service"
}

// preview shows the drop-ins that the generator would write.
func preview(args []string) error {
	flags := flagSet("preview")
	dir := flags.String("root", "/", "")
	version := flags.String("systemd", "", "")
	if err := parseFlags(flags, args); err != nil {
		return err
	}
	files, err := covered(root.Dir(*dir), flags.Args())
	if err != nil {
		return err
	}
	planner, err := newPlanner(root.Dir(*dir), *version)
	if errors.Is(err, errUsage) {
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
			fmt.Fprintf(os.Stderr, "bootseal: %s: %v\n", file.Unit, plan.Err)
		case plan.Delivery != "":
			why = fmt.Sprintf("Delivery: %s, since %s.", plan.Delivery, plan.Why)
		}
		show(plan.DropIns, why)
	}
	if flags.NArg() == 0 {
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
		return nil, usagef("--systemd=%s: expected the number of a version such as 257", version)
	}
	return delivery.NewPlannerFor(dir, int(n))
}

// covered finds the policy files of the units, an instance's own or its
// template's, or without units all of them.
func covered(dir root.Dir, names []string) ([]policy.File, error) {
	all, errs := policy.Find(dir)
	for _, err := range errs {
		fmt.Fprintf(os.Stderr, "bootseal: %v\n", err)
	}
	if len(names) == 0 {
		if len(all) == 0 {
			return nil, fmt.Errorf("%w in %s", policy.ErrNoPolicy, strings.Join(policy.Dirs, ", "))
		}
		return all, nil
	}
	var files []policy.File
	for _, name := range names {
		name = unitName(name)
		if err := policy.CheckUnit(name); err != nil {
			return nil, usageError{err}
		}
		i := slices.IndexFunc(all, func(f policy.File) bool { return f.Unit == name })
		if i < 0 {
			i = slices.IndexFunc(all, func(f policy.File) bool { return f.Unit == policy.Template(name) })
		}
		if i < 0 {
			return nil, fmt.Errorf("%s: %w: expected %s/%s.toml", name, policy.ErrNoPolicy, policy.Dirs[0], name)
		}
		files = append(files, all[i])
	}
	return files, nil
}
