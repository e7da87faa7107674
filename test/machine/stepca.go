package machine

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Health is a piece of script: it exits 0, printing "ok", once step-ca answers
// on HTTPS with a certificate of its own root, and 1 after ten seconds without,
// or $patience seconds.
const Health = `health() {
	local end=$((SECONDS + ${patience:-10}))
	while [ $SECONDS -lt $end ]; do
		(: </dev/tcp/127.0.0.1/8443) 2>/dev/null && # step takes a hundred times as long to find that out
			STEPPATH=/root/.step step ca health --ca-url https://127.0.0.1:8443 --root /etc/step-ca/certs/root_ca.crt 2>/dev/null && return 0
		sleep 0.1
	done
	return 1
}
`

// Plaintext is a piece of script: plaintext lists the files below /run, /tmp,
// /var and /etc that hold the secret, and says so if the journal does.
func Plaintext(secret string) string {
	return `plaintext() {
	printf %s '` + secret + `' >/bootseal-test/out/needle
	grep -rlaF -D skip -f /bootseal-test/out/needle /run /tmp /var /etc
	if journalctl --merge --all --output=export | grep -qaF -f /bootseal-test/out/needle; then echo the journal; fi
	rm /bootseal-test/out/needle
}
`
}

// InstallStepCA installs the real step-ca with its upstream unit as it is, makes
// a CA whose keys are protected by the password, and enables the unit. The
// password is left in /etc/step-ca/password.txt, as Smallstep's documentation has it.
func (m *Machine) InstallStepCA(password string) error {
	cache := filepath.Join(Cache(), "step")
	for from, to := range map[string]string{
		"step-ca": "/usr/bin/step-ca", "step": "/usr/bin/step", "step-ca.service": "/etc/systemd/system/step-ca.service",
	} {
		content, err := os.ReadFile(filepath.Join(cache, from))
		if err != nil {
			return fmt.Errorf("installing step-ca: %w (%w)", ErrNotSetUp, err)
		}
		mode := os.FileMode(0o755)
		if filepath.Ext(to) == ".service" {
			mode = 0o644
		}
		if err := m.Write(to, string(content), mode); err != nil {
			return err
		}
	}
	if err := m.Write("/etc/step-ca/password.txt", password, 0o600); err != nil {
		return err
	}
	const script = `set -e
groupadd --system step
useradd --system --gid step --home-dir /etc/step-ca --shell /usr/sbin/nologin step
cd /etc/step-ca
STEPPATH=/etc/step-ca step ca init --deployment-type standalone --ssh --name Test --dns localhost --dns 127.0.0.1 \
	--address 127.0.0.1:8443 --provisioner admin@example.com --password-file password.txt </dev/null
chown -R step:step /etc/step-ca
`
	if out, err := exec.Command("chroot", m.Root, "/bin/sh", "-c", script).CombinedOutput(); err != nil {
		return fmt.Errorf("making the CA: %w: %s", err, out)
	}
	return m.Enable("step-ca.service")
}
