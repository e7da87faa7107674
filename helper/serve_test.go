package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bootseal/bootseal/internal/root"
	"github.com/bootseal/bootseal/policy"
)

func TestParsePeer(t *testing.T) {
	unit, name, err := parsePeer("@a1b2c3d4/unit/step-ca@one.service/tls.key")
	if unit != "step-ca@one.service" || name != "tls.key" || err != nil {
		t.Errorf("%q, %q, %v", unit, name, err)
	}
	for _, address := range []string{
		"", "@", "/run/x", "a/unit/a.service/b", "@a/unit/a.service", "@a/unit/a.service/b/c", "@a/user/a.service/b",
		"@a/unit/../b", "@a/unit//b", "@a/unit/a.service/", "@a/unit/a.service/..", "@a/unit/a.socket/b", "@a/unit/a.service/b:c", "@a/unit/a b.service/c",
	} {
		if unit, name, err := parsePeer(address); err == nil {
			t.Errorf("%q is taken for %q of %q", name, unit, address)
		}
	}
}

func FuzzParsePeer(f *testing.F) {
	for _, seed := range []string{"@a1b2c3d4/unit/step-ca.service/step-ca", "@/unit/a@.service/b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, address string) {
		unit, name, err := parsePeer(address)
		if err != nil {
			return
		}
		if policy.CheckUnit(unit) != nil || strings.ContainsAny(unit+name, "/\x00\n") || !strings.HasSuffix(address, "/unit/"+unit+"/"+name) {
			t.Errorf("%q is taken for %q of %q", address, name, unit)
		}
	})
}

func TestInUnit(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "proc/7"), 0o755); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{
		"0::/system.slice/a.service\n":                                       true,
		"0::/system.slice/a.service/.control\n":                              true,
		"0::/system.slice/system-x.slice/_a.service\n":                       true,
		"12:pids:/a.service\n1:name=systemd:/system.slice/a.service\n0::/\n": true,
		"0::/system.slice/b.service\n":                                       false,
		"12:pids:/system.slice/a.service\n1:name=systemd:/b.service\n0::/\n": false,
		"0::/\n":                      false,
		"":                            false,
		"garbage\n0:\n":               false,
		"0::/system.slice/xa.service": false,
	} {
		if err := os.WriteFile(filepath.Join(dir, "proc/7/cgroup"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := inUnit(root.Dir(dir), 7, "a.service"); (err == nil) != want {
			t.Errorf("%q: %v; want %v", text, err, want)
		}
	}
	if err := inUnit(root.Dir(dir), 8, "a.service"); err == nil {
		t.Error("a process that is gone counts as one of the unit")
	}
}

// More connections than one batch are all taken, none is lost.
func TestReceive(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	const count = batch + 3
	for i := range count {
		c, err := net.DialUnix("unix", &net.UnixAddr{Name: fmt.Sprintf("@bootseal-test-%d-%d", os.Getpid(), i), Net: "unix"}, &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	seen := map[string]bool{}
	for _, want := range []int{batch, count - batch} {
		all, err := receive(l)
		if err != nil || len(all) != want {
			t.Fatalf("%d connections, %v; want %d", len(all), err, want)
		}
		for _, r := range all {
			seen[r.conn.RemoteAddr().String()] = true
			r.conn.Close()
		}
	}
	if len(seen) != count {
		t.Errorf("%d peers seen; want %d", len(seen), count)
	}
}
