// Package arrows holds the rooms of the project to what they must never reach, not
// even by way of a third.
package arrows

import (
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

const ours = "github.com/bootseal/bootseal"

// rooms names some of ours.
func rooms(names ...string) (all []string) {
	for _, name := range names {
		all = append(all, ours+"/"+name)
	}
	return all
}

var (
	// heavy is what PID 1 need not wait for. Of crypto, a pinned key's name is a SHA-256
	// digest; what that needs below crypto/internal is the standard library's own affair.
	heavy = slices.Concat([]string{"net", "net/*", "flag", "os/exec", "regexp", "math/big", "crypto/[a-r]*", "crypto/tls", "crypto/x509",
		"github.com/google/*", "github.com/google/*/*", "github.com/google/*/*/*", "github.com/spf13/*", "github.com/coreos/*/*/*", "github.com/godbus/*/*"},
		rooms("internal/encryption", "internal/tpm", "internal/tpmdevice", "internal/hostkey", "internal/sealing"))
	bus      = append(rooms("internal/manager"), "github.com/godbus/*/*", "github.com/coreos/*/*/dbus")
	operator = rooms("helper", "internal/operate", "internal/check", "internal/explain", "internal/inspect", "internal/creds", "internal/options", "internal/delivery", "units")
	// leaves may be imported by all.
	leaves = rooms("internal/failure")
)

func TestArrows(t *testing.T) {
	for room, never := range map[string][]string{
		"generator":           heavy,
		"units":               slices.Concat(heavy, rooms("policy", "internal/delivery")),
		"policy":              slices.Concat(heavy, rooms("units", "internal/delivery")),
		"internal/delivery":   heavy,
		"internal/contract":   slices.Concat(heavy, rooms("units", "policy", "internal/[a-qs-z]*")),
		"internal/systemd":    slices.Concat(heavy, rooms("units", "policy", "internal/delivery", "internal/credential")),
		"internal/credential": slices.Concat(heavy, rooms("*", "internal/*")),
		"internal/failure":    {"fmt", "os", ours + "/*", ours + "/internal/*"},
		"internal/encryption": slices.Concat(bus, rooms("policy", "units", "internal/tpm", "internal/root")),
		"internal/tpm":        rooms("policy", "units", "internal/tpmdevice", "internal/root"),
		"internal/sealing":    slices.Concat(bus, operator),
		"internal/hook":       slices.Concat(bus, operator, rooms("internal/server")),
		"internal/server":     slices.Concat(bus, operator, rooms("internal/hook", "internal/plaintext"), []string{"os/exec"}),
		"internal/creds":      slices.Concat(bus, rooms("internal/operate", "internal/hook", "internal/server", "internal/plaintext", "internal/delivery", "units")),
		"internal/operate":    rooms("internal/hook", "internal/server", "internal/check", "helper"),
	} {
		out, err := exec.Command("go", "list", "-deps", ours+"/"+room).Output()
		if err != nil {
			t.Fatal(err)
		}
		for _, dep := range strings.Fields(string(out)) {
			if dep == ours+"/"+room || slices.Contains(leaves, dep) {
				continue
			}
			for _, pattern := range never {
				if match, err := path.Match(pattern, dep); err != nil || match && dep != "crypto/cipher" && dep != "crypto/fips140" {
					t.Errorf("%s reaches %s, which it must not (%v)", room, dep, err)
				}
			}
		}
	}
}
