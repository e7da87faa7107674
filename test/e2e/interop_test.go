package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bootseal/bootseal/test/machine"
)

const (
	hostKey  = "/var/lib/systemd/credential.secret"
	exchange = "/root/exchange"
)

// TestInterop has bootseal and each version's systemd-creds open what the
// others made, with one TPM and one host key.
func TestInterop(t *testing.T) {
	t.Parallel()
	first := newMachine(t, machine.Versions[0])
	machines := []*machine.Machine{first}
	for _, version := range machine.Versions[1:] {
		machines = append(machines, newMachine(t, version))
	}
	id, err := os.ReadFile(first.Path("/etc/machine-id"))
	if err != nil {
		t.Fatal(err)
	}
	blobs := map[string]string{} // by file name, TOOL-VERSION-KEY
	for _, m := range machines {
		if err := m.InstallBootseal(); err != nil {
			t.Fatal(err)
		}
		m.TPM = first.TPM
		write(t, m, "/etc/machine-id", string(id), 0o444)
		if m != first {
			key, err := os.ReadFile(first.Path(hostKey))
			if err != nil {
				t.Fatal(err)
			}
			write(t, m, hostKey, string(key), 0o400)
		}
		tools := "bootseal"
		if m.Version >= 250 {
			tools += " systemd-creds"
		}
		boot(t, m, fmt.Sprintf(`
mkdir -m 700 %[2]s; cd %[2]s || exit
bootseal setup || exit
for tool in %[1]s; do for key in host tpm2 host+tpm2; do
	[ $key = host ] && pcrs= || pcrs=--tpm2-pcrs=7
	printf %%s "made with $key" | $tool encrypt --name=x --with-key=$key $pcrs - $tool-%[3]d-$key || exit
done; done
`, tools, exchange, m.Version))
		made, err := filepath.Glob(m.Path(exchange) + "/*")
		if err != nil || len(made) == 0 {
			t.Fatal("no blobs", err)
		}
		for _, path := range made {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			blobs[filepath.Base(path)] = string(text)
		}
	}
	if want := 3 * (4 + 3); len(blobs) != want {
		t.Fatalf("%d blobs, want %d", len(blobs), want)
	}
	for _, m := range machines {
		for name, text := range blobs {
			write(t, m, filepath.Join(exchange, name), text, 0o600)
		}
		script := "cd " + exchange + "\n"
		for name := range blobs {
			script += "section bootseal " + name + "; bootseal decrypt --name=x " + name + " -\n"
			if m.Version >= 250 {
				script += "section systemd-creds " + name + "; systemd-creds decrypt --name=x " + name + " -\n"
			}
		}
		out := boot(t, m, script+"true # some cannot be opened, see below\n")
		for name := range blobs {
			parts := strings.SplitN(name, "-", -1)
			key := parts[len(parts)-1]
			wanted := "made with " + key
			want(t, fmt.Sprintf("%s opened by bootseal on systemd %d", name, m.Version), out["bootseal "+name], wanted)
			// systemd 262 pins blobs to the storage root key, in a form of its own.
			newer := strings.HasPrefix(name, "systemd-creds-262-") && key != "host" && m.Version < 262
			if m.Version >= 250 && !newer {
				want(t, fmt.Sprintf("%s opened by systemd-creds of %d", name, m.Version), out["systemd-creds "+name], wanted)
			}
		}
	}
}
