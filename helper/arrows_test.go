package main

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestArrows: a room that has no business with another cannot reach it, not even by
// way of a third.
func TestArrows(t *testing.T) {
	const ours = "github.com/bootseal/bootseal/"
	bus := []string{"github.com/godbus/dbus/v5", "github.com/coreos/go-systemd/v22/dbus", ours + "internal/manager"}
	operator := []string{ours + "internal/operate", ours + "internal/check", ours + "internal/explain", ours + "internal/inspect", ours + "internal/creds", ours + "internal/options", ours + "internal/delivery", ours + "helper"}
	for room, never := range map[string][]string{
		"internal/hook":       slices.Concat(bus, operator, []string{ours + "internal/server"}),
		"internal/server":     slices.Concat(bus, operator, []string{ours + "internal/hook", "os/exec"}),
		"internal/creds":      slices.Concat(bus, []string{ours + "internal/operate", ours + "internal/hook", ours + "internal/delivery", ours + "internal/plaintext"}),
		"internal/sealing":    slices.Concat(bus, operator, []string{ours + "units"}),
		"internal/tpm":        {"net/http", "os/exec", ours + "policy", ours + "internal/tpmdevice"},
		"internal/delivery":   slices.Concat(bus, []string{"os/exec", ours + "internal/tpm", ours + "internal/sealing", ours + "internal/hostkey"}),
		"internal/credential": {ours + "internal/root", ours + "policy", ours + "internal/encryption"},
		"internal/failure":    {"fmt", "os"},
	} {
		out, err := exec.Command("go", "list", "-deps", ours+room).Output()
		if err != nil {
			t.Fatal(err)
		}
		deps := strings.Fields(string(out))
		for _, name := range never {
			if slices.Contains(deps, name) {
				t.Errorf("%s imports %s", room, name)
			}
		}
	}
}
