// Package e2e tests bootseal as a user meets it: real systemd, the real step-ca
// under its upstream unit, and a software TPM.
package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/bootseal/bootseal/test/machine"
	"github.com/bootseal/bootseal/test/story"
)

// sealed makes a machine with step-ca whose password has been sealed and its
// plaintext deleted, switched off after that.
func sealed(t *testing.T, version int) *machine.Machine {
	m := story.New(t, version)
	if err := m.InstallBootseal(); err != nil {
		t.Fatal(err)
	}
	if err := m.InstallStepCA(story.Password + "\n"); err != nil {
		t.Fatal(err)
	}
	out := story.Boot(t, m, `
health || exit
mkdir -p /etc/bootseal
cat >`+story.Policy+` <<'END'
`+story.PolicyText+`END
bootseal encrypt --unit=step-ca.service step-ca </etc/step-ca/password.txt || exit
rm /etc/step-ca/password.txt
section blob
stat --format='%a %U %F' `+story.Blob+`
section folder
stat --format='%a %U' /etc/credstore.encrypted
section plaintext
plaintext
`)
	story.Want(t, "blob", out["blob"], "600 root regular file")
	story.Want(t, "folder of the blob", out["folder"], "700 root")
	story.Want(t, "plaintext after sealing", out["plaintext"], "")
	return m
}

func TestStepCA(t *testing.T) {
	t.Parallel()
	for _, version := range machine.Versions {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			t.Parallel()
			m := sealed(t, version)
			t.Run("serves", func(t *testing.T) { t.Parallel(); testServes(t, story.Clone(t, m)) })
			t.Run("keeps its credential to itself", func(t *testing.T) { t.Parallel(); testSecret(t, story.Clone(t, m)) })
			for _, f := range failures(version) {
				t.Run(f.name, func(t *testing.T) {
					t.Parallel()
					c := story.Clone(t, m)
					f.breaks(t, c)
					testRefuses(t, c, f)
				})
			}
		})
	}
}

func testServes(t *testing.T, m *machine.Machine) {
	out := story.Boot(t, m, `
section health; health
section verify
systemd-analyze verify step-ca.service 2>&1
section verified; echo $?
section dropins; property DropInPaths
section restart; systemctl restart step-ca && health
section reload; pid=$(property MainPID); systemctl reload step-ca && health; [ "$pid" = "$(property MainPID)" ] || echo another process
section daemon-reload; systemctl daemon-reload; systemctl restart step-ca && health
section crash; systemctl reset-failed step-ca; kill -KILL $(property MainPID); sleep 4; health; property NRestarts
section state; property ActiveState; property Result
section plaintext; plaintext
systemctl stop step-ca
section stopped; property ActiveState; property Result; mounts
section plaintext after stop; plaintext
`)
	for _, name := range []string{"health", "restart", "reload", "daemon-reload"} {
		story.Want(t, name, out[name], "ok")
	}
	story.Want(t, "killed, and started again by systemd", out["crash"], "ok\n1")
	story.Want(t, "state", out["state"], "active\nsuccess")
	story.Want(t, "stopped", out["stopped"], "inactive\nsuccess")
	story.Want(t, "plaintext after stop", out["plaintext after stop"], "")
	story.Want(t, "drop-ins", out["dropins"], "/run/systemd/generator/step-ca.service.d/zz-bootseal.conf")
	if out["verified"] != "0" || strings.Contains(out["verify"], "bootseal") {
		t.Errorf("systemd-analyze verify: exit status %s:\n%s", out["verified"], out["verify"])
	}
	story.WantDelivered(t, out["plaintext"])
	out = story.Boot(t, m, "section health; health")
	story.Want(t, "health after one more reboot", out["health"], "ok")
}

// testSecret looks for the credential of the running unit from elsewhere.
func testSecret(t *testing.T, m *machine.Machine) {
	const peek = `ExecStart=-/bin/sh -c 'cat /run/credentials/*/* /run/bootseal/*/* /proc/[0-9]*/root/run/credentials/*/* /proc/[0-9]*/root/run/bootseal/*/*'
Type=oneshot
StandardError=null
`
	units := map[string]string{
		"user":    "User=nobody\n",
		"dynamic": "DynamicUser=yes\n",
		"sandbox": "User=step\nPrivateMounts=yes\n", // the same user as the unit
		"same":    "User=step\n",
		"unit":    "", // root, but without the unit's namespace: it may read what it likes
	}
	script := "section health; health\n"
	for name, settings := range units {
		story.Write(t, m, "/etc/systemd/system/peek-"+name+".service", "[Service]\n"+settings+peek+"StandardOutput=file:/bootseal-test/out/peek-"+name+"\n", 0o644)
		script += "section " + name + "; touch /bootseal-test/out/peek-" + name + "; systemctl start peek-" + name + "; cat /bootseal-test/out/peek-" + name + "\n"
	}
	script += `section seen
pid=$(property MainPID)
folder=$(tr '\0' '\n' </proc/$pid/environ | sed -n 's/^CREDENTIALS_DIRECTORY=//p')
nsenter --target $pid --mount stat --format='%a %U %n' $folder $folder/*
section place; echo $folder
section filesystem; nsenter --target $pid --mount stat --file-system --format=%T $folder
section environment; tr '\0' '\n' </proc/$pid/environ
section command; tr '\0' '\n' </proc/$pid/cmdline
`
	out := story.Boot(t, m, script)
	story.Want(t, "health", out["health"], "ok")
	if !strings.Contains(out["unit"], story.Password) {
		t.Error("root cannot read the credential: this test looks in the wrong places")
	}
	for _, name := range []string{"user", "dynamic", "sandbox"} {
		if strings.Contains(out[name], story.Password) {
			t.Errorf("a unit with %q can read the credential of step-ca", units[name])
		}
	}
	// systemd itself shows /run/credentials to other processes of the same user
	// that have no namespace of their own. Where bootseal makes the place,
	// nobody but root gets in.
	if strings.HasPrefix(out["place"], "/run/bootseal/") && strings.Contains(out["same"], story.Password) {
		t.Error("another unit of the same user can read the credential of step-ca")
	}
	for _, name := range []string{"environment", "command"} {
		if strings.Contains(out[name], story.Password) {
			t.Errorf("the password is in the %s of step-ca", name)
		}
	}
	mode := "500 step"
	file := "400 step"
	if m.Version >= 257 { // by ACL
		mode, file = "550 root", "440 root"
	}
	lines := strings.Split(out["seen"], "\n")
	if len(lines) != 2 || !strings.HasPrefix(lines[0], mode+" ") || !strings.HasPrefix(lines[1], file+" ") {
		t.Errorf("the unit sees:\n%s\nwant modes and owners %q and %q", out["seen"], mode, file)
	}
	if fs := out["filesystem"]; fs != "ramfs" && fs != "tmpfs" {
		t.Errorf("the credential is on %s", fs)
	}
}

type failure struct {
	name   string
	breaks func(*testing.T, *machine.Machine)
	says   []string // in systemctl status
	// What bootseal explain answers, and a row of bootseal check.
	cause, remedy, row string
}

func failures(version int) []failure {
	const opens = "step-ca opens bad "
	all := []failure{
		{"another TPM", func(t *testing.T, m *machine.Machine) {
			var err error
			if m.TPM, err = m.NewTPM(); err != nil {
				t.Fatal(err)
			}
		}, []string{story.Blob, "another TPM"}, "another TPM|no storage root key", "encrypt the secret again", opens},
		{"changed PCR", func(t *testing.T, m *machine.Machine) {
			m.TPM.Firmware[7] = "Secure Boot is off"
		}, []string{story.Blob, "PCR 7"}, "PCR 7", "encrypt the secret again", opens},
		{"missing blob", func(t *testing.T, m *machine.Machine) {
			story.Remove(t, m, story.Blob)
		}, []string{story.Blob}, story.Blob + ": no sealed credential there", "bootseal encrypt", "step-ca blob bad "},
		{"damaged blob", func(t *testing.T, m *machine.Machine) {
			if err := os.Truncate(m.Path(story.Blob), 200); err != nil {
				t.Fatal(err)
			}
		}, []string{story.Blob}, "not Base64|too short|damaged", "remove the cause", "step-ca blob bad "},
		{"broken policy", func(t *testing.T, m *machine.Machine) {
			story.Write(t, m, story.Policy, "[[credential]\nname = 1\n", 0o644)
		}, []string{story.Policy}, story.Policy, "remove the cause", "policy bad "},
		{"policy asks for more", func(t *testing.T, m *machine.Machine) {
			story.Write(t, m, story.Policy, strings.Replace(story.PolicyText, "[7]", "[7, 14]", 1), 0o644)
		}, []string{story.Policy, story.Blob, "PCR 7+14"}, "PCR 7+14", "remove the cause", "delivery bad "},
		{"generator that dies half-way", func(t *testing.T, m *machine.Machine) {
			// Enough to block the unit, not for its drop-in.
			wrapGenerator(t, m, "exec prlimit --fsize=440 /root/real-generator \"$@\"")
		}, []string{"bootseal-generator", "systemctl daemon-reload"}, "bootseal-generator", "systemctl daemon-reload", "drop-in bad "},
		{"generator that does nothing", func(t *testing.T, m *machine.Machine) {
			wrapGenerator(t, m, "kill -KILL $$")
		}, []string{"/etc/step-ca/password.txt was not met"}, "bootseal-generator did not put it into force", "systemctl daemon-reload", "drop-in bad "},
	}
	if version >= 250 {
		// As LXC images ship it.
		all = append(all, failure{"a later drop-in resets credentials", func(t *testing.T, m *machine.Machine) {
			story.Write(t, m, "/etc/systemd/system/service.d/zzz-lxc-service.conf", "[Service]\nLoadCredential=\n", 0o644)
		}, []string{story.Policy, "/etc/systemd/system/service.d/zzz-lxc-service.conf"}, "zzz-lxc-service.conf", "remove the cause", "delivery bad "})
	}
	return all
}

// wrapGenerator puts a shell script in the generator's place.
func wrapGenerator(t *testing.T, m *machine.Machine, script string) {
	t.Helper()
	generator := "/usr/lib/systemd/system-generators/bootseal-generator"
	if _, err := os.Stat(m.Path(generator)); err != nil {
		generator = "/lib/systemd/system-generators/bootseal-generator"
	}
	if err := os.Rename(m.Path(generator), m.Path("/root/real-generator")); err != nil {
		t.Fatal(err)
	}
	story.Write(t, m, generator, "#!/bin/sh\n"+script+"\n", 0o755)
}

// testRefuses boots a machine whose credential cannot be delivered.
func testRefuses(t *testing.T, m *machine.Machine, f failure) {
	out := story.Boot(t, m, `
down
section state; property ActiveState
section answers; STEPPATH=/root/.step step ca health --ca-url https://127.0.0.1:8443 --root /etc/step-ca/certs/root_ca.crt 2>/dev/null
section status; systemctl status --full --lines=10 step-ca
section mounts; mounts
section plaintext; plaintext
section explain; bootseal explain step-ca 2>&1; echo exit status $?
section check; bootseal check --no-legend --unseal step-ca 2>&1 | tr -s ' '; echo exit status ${PIPESTATUS[0]}
section journal; journalctl --boot --unit=step-ca
`)
	if state := out["state"]; state != "failed" && state != "inactive" || out["answers"] != "" {
		t.Errorf("step-ca is %s, and answers %q", out["state"], out["answers"])
	}
	story.WantContains(t, "systemctl status", out["status"], f.says...)
	story.Want(t, "plaintext", out["plaintext"], "")
	story.Want(t, "mounts", out["mounts"], "")
	wantExplained(t, "bootseal explain", out["explain"], f.cause, f.remedy)
	story.WantContains(t, "bootseal explain", out["explain"], "\nexit status 0")
	story.WantContains(t, "bootseal check", out["check"], "\nexit status 1", f.row)
	if t.Failed() {
		t.Logf("journal:\n%s", out["journal"])
	}
}
