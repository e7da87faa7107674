package main

import (
	"fmt"
	"os"
	"slices"

	"github.com/bootseal/bootseal/internal/machine"
	"github.com/bootseal/bootseal/internal/systemd"
	"github.com/bootseal/bootseal/internal/table"
	"github.com/bootseal/bootseal/internal/tpmdevice"
)

// setup is the verb of systemd-creds(1) that makes the host key.
func setup(args []string) error {
	if _, err := parse("setup", args, 0, 0); err != nil {
		return err
	}
	key, err := makeHostKey()
	if err != nil {
		return err
	}
	defer clear(key)
	fmt.Fprintf(os.Stderr, "%d byte credentials host key set up.\n", len(key))
	return nil
}

// hasTPM2 is the verb of systemd-analyze(1), until 255 of systemd-creds(1).
func hasTPM2(args []string) error {
	o, err := parse("has-tpm2", args, 0, 0)
	if err != nil {
		return err
	}
	support, problem := machine.Support("/")
	missing := support.Missing()
	if !o.quiet {
		if problem != nil {
			warn("%v", problem)
		}
		answer := "partial"
		switch missing {
		case 0:
			answer = "yes"
		case 1 | 2 | 4 | 8 | 16:
			answer = "no"
		}
		fmt.Println(answer)
		for _, part := range []struct {
			name  string
			there bool
		}{
			{"firmware", support.Firmware}, {"driver", support.Driver}, {"system", support.System},
			{"subsystem", support.Subsystem}, {"libraries", support.Libraries},
		} {
			fmt.Println(sign(part.there) + part.name)
		}
		for _, library := range systemd.TPM2LibraryNames {
			fmt.Println("  " + sign(!slices.Contains(support.MissingLibraries, library)) + library)
		}
	}
	if missing != 0 {
		return statusError(missing)
	}
	return nil
}

func sign(there bool) string {
	if there {
		return "+"
	}
	return "-"
}

// listTPMs answers --tpm2-device=list.
func listTPMs() error {
	all, err := tpmdevice.List("/")
	if err != nil {
		return err
	}
	if len(all) == 0 {
		fmt.Fprintln(os.Stderr, "No TPM 2.0 devices")
		return nil
	}
	devices := table.Table{Columns: []string{"PATH", "DEVICE", "DRIVER"}}
	for _, d := range all {
		devices.Add(table.Text(d.Path), table.Text(d.Device), table.Text(d.Driver))
	}
	return devices.Print(os.Stdout, table.Format{JSON: jsonOff, Color: table.Colored(os.Stdout)})
}
