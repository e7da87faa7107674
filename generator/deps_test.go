package main

import (
	"os/exec"
	"path"
	"strings"
	"testing"
)

// TestDependencies holds packages against what they must never link: patterns of
// path.Match, of those that "go list -deps" names.
func TestDependencies(t *testing.T) {
	const ours = "github.com/bootseal/bootseal"
	// Of crypto, a pinned key's name is a SHA-256 digest; what that needs below
	// crypto/internal is the standard library's own affair.
	heavy := []string{"net", "net/*", "flag", "crypto/aes", "crypto/rand", "crypto/rsa", "crypto/ecdsa", "crypto/ecdh", "crypto/hmac", "crypto/tls", "crypto/x509", "math/big", "regexp",
		"github.com/google/*", "github.com/google/*/*", "github.com/google/*/*/*", "github.com/spf13/*", "github.com/coreos/*/*/*", "github.com/godbus/*/*",
		ours + "/internal/encryption", ours + "/internal/tpm", ours + "/internal/tpmdevice", ours + "/internal/hostkey"}
	for pkg, never := range map[string][]string{
		"generator":           heavy,
		"internal/delivery":   heavy,
		"internal/systemd":    append(heavy, ours+"/units", ours+"/policy", ours+"/internal/delivery", ours+"/internal/credential"),
		"internal/contract":   append(heavy, ours+"/units", ours+"/policy", ours+"/internal/[a-qs-z]*"),
		"internal/credential": append(heavy, ours+"/*", ours+"/internal/*"),
		"units":               append(heavy, ours+"/policy", ours+"/internal/delivery"),
		"policy":              append(heavy, ours+"/units", ours+"/internal/delivery"),
	} {
		out, err := exec.Command("go", "list", "-deps", "../"+pkg).Output()
		if err != nil {
			t.Fatal(err)
		}
		for _, dep := range strings.Fields(string(out)) {
			for _, pattern := range never {
				if match, err := path.Match(pattern, dep); err != nil || match && dep != ours+"/"+pkg {
					t.Errorf("%s links %s, which it must never (%v)", pkg, dep, err)
				}
			}
		}
	}
}
