// Command show is what test/demo runs: one machine, from a plaintext password
// to a sealed one, with what the machine really printed.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/bootseal/bootseal/test/machine"
)

const (
	password = "correct horse battery staple"
	policy   = `[[credential]]
name     = "step-ca"
option   = "--password-file"
replaces = "/etc/step-ca/password.txt"

[seal]
key  = "host+tpm2"
pcrs = [7]
`
)

func main() {
	version := flag.Int("systemd", 257, "version of systemd")
	flag.Parse()
	if err := show(*version); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func say(format string, args ...any) { fmt.Printf("\n== "+format+"\n", args...) }

func show(version int) (err error) {
	say("a machine with systemd %d, a software TPM, step-ca with its upstream unit, and bootseal", version)
	m, err := machine.New(version)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	if err := m.InstallBootseal(); err != nil {
		return err
	}
	if err := m.InstallStepCA(password + "\n"); err != nil {
		return err
	}

	say("boot 1: the CA's password is in a file; seal it, by a policy, and delete the file")
	err = boot(m, `
run systemctl is-active step-ca
run ls -l /etc/step-ca/password.txt
mkdir -p /etc/bootseal
cat >/etc/bootseal/step-ca.service.toml <<'END'
`+policy+`END
run cat /etc/bootseal/step-ca.service.toml
run 'bootseal encrypt --unit=step-ca.service step-ca </etc/step-ca/password.txt' || exit
run rm /etc/step-ca/password.txt
run head -c 60 /etc/credstore.encrypted/step-ca; echo ...
`)
	if err != nil {
		return err
	}

	say("boot 2: systemd runs the generator, and step-ca starts from the sealed password")
	err = boot(m, `
run cat /run/systemd/generator/step-ca.service.d/zz-bootseal.conf
echo '$ step ca health --ca-url https://127.0.0.1:8443 --root /etc/step-ca/certs/root_ca.crt'
health || { journalctl --boot --unit=step-ca | tail -20; exit 1; }
run 'systemctl status --lines=0 step-ca | cat'
echo "# files with the password below /run, /tmp, /var, /etc, apart from the unit's credential, and the journal:"
found=$(plaintext | grep -v -e ^/run/credentials/step-ca.service/ -e ^/run/bootseal/step-ca.service/)
echo "${found:-none}"
[ -z "$found" ]
`)
	if err != nil {
		return err
	}

	say("boot 3: the same disk with another TPM; step-ca must not start, and must say why")
	if m.TPM, err = m.NewTPM(); err != nil {
		return err
	}
	err = boot(m, `
for i in $(seq 50); do [ -n "$(systemctl show --property=StatusText --value step-ca)" ] && break; sleep 0.1; done
run 'systemctl status --lines=0 step-ca | cat'
! STEPPATH=/root/.step step ca health --ca-url https://127.0.0.1:8443 --root /etc/step-ca/certs/root_ca.crt 2>/dev/null
`)
	if err != nil {
		return err
	}

	say("what this was, and how to do it on your own host")
	fmt.Print(`The password of a CA was sealed to the TPM of a machine and to PCR 7, its
plaintext was deleted, and step-ca came up from the sealed one after a reboot.
The drop-in above was made by bootseal-generator from the policy; no unit file
was touched. With the TPM of another machine the service stayed down.

On your own host, as root:

  meson setup build && meson compile -C build && meson install -C build
  bootseal adopt --dry-run --tpm2-pcrs=7 step-ca    # shows the plan
  bootseal adopt --tpm2-pcrs=7 step-ca              # keep a copy off this machine

README.md says more.
`)
	return nil
}

// boot shows what the script prints, and fails if the script does.
func boot(m *machine.Machine, script string) error {
	r, err := m.Boot(machine.Health + machine.Plaintext(password) + `run() { echo "$ $*"; eval "$*" 2>&1; }` + "\n" + script)
	if err != nil {
		return err
	}
	for _, line := range strings.Split(strings.TrimRight(r.Stdout, "\n"), "\n") {
		fmt.Println("   " + line)
	}
	if r.Status != 0 {
		return fmt.Errorf("not as expected, see above (status %d)\n%s", r.Status, r.Stderr)
	}
	return nil
}
