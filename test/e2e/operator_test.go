package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/bootseal/bootseal/test/machine"
)

// TestOperator uses the verbs for operators on a machine that works, breaks it
// in every way and asks why.
func TestOperator(t *testing.T) {
	for _, version := range machine.Versions {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			t.Parallel()
			m := sealed(t, version)
			t.Run("one by one", func(t *testing.T) { t.Parallel(); testOperator(t, clone(t, m)) })
			t.Run("another TPM", func(t *testing.T) {
				t.Parallel()
				c := clone(t, m)
				var err error
				if c.TPM, err = c.NewTPM(); err != nil {
					t.Fatal(err)
				}
				explains(t, c, "another TPM|no storage root key", "encrypt the secret again")
			})
			t.Run("changed PCR", func(t *testing.T) {
				t.Parallel()
				c := clone(t, m)
				c.TPM.Firmware[7] = "Secure Boot is off"
				explains(t, c, "PCR 7", "encrypt the secret again")
			})
		})
	}
}

// explains boots a machine on which step-ca does not start.
func explains(t *testing.T, m *machine.Machine, cause, remedy string) {
	t.Helper()
	out := boot(t, m, `
down
section explain; bootseal explain step-ca 2>&1; echo exit status $?
section check; bootseal check --no-legend --unseal 2>&1 | tr -s ' '; echo exit status ${PIPESTATUS[0]}
`)
	wantExplained(t, "explain", out["explain"], cause, remedy)
	wantContains(t, "explain", out["explain"], "\nexit status 0")
	wantContains(t, "check", out["check"], "\nexit status 1", "step-ca.service step-ca opens bad ", "bootseal encrypt --unit=step-ca.service step-ca")
}

// wantExplained looks for a cause and a remedy; each may be one of several words.
func wantExplained(t *testing.T, what, got, cause, remedy string) {
	t.Helper()
	var found, mends bool
	for _, line := range strings.Split(got, "\n") {
		line = strings.TrimSpace(line)
		found = found || strings.HasPrefix(line, "Cause: ") && containsOne(line, cause)
		mends = mends || strings.HasPrefix(line, "Remedy: ") && containsOne(line, remedy)
	}
	if !found || !mends {
		t.Errorf("%s: no cause %q, remedy %q in:\n%s", what, cause, remedy, got)
	}
}

// containsOne looks for one of the words, joined by "|".
func containsOne(text, words string) bool {
	return slices.ContainsFunc(strings.Split(words, "|"), func(word string) bool { return strings.Contains(text, word) })
}

func testOperator(t *testing.T, m *machine.Machine) {
	breakages := []struct{ name, breaks, cause, remedy string }{
		{"missing blob", "mv " + blob + " /root/kept", blob + ": no sealed credential there", "bootseal encrypt"},
		{"damaged blob", "head -c 200 /root/kept >" + blob, "not Base64", "remove the cause"},
		{"wrong secret", "echo wrong | bootseal encrypt --unit=step-ca step-ca", "the secret is a wrong one", "bootseal encrypt --unit=step-ca"},
		{"weak blob", "echo wrong | bootseal encrypt -H --name=step-ca - " + blob, "weaker than the", "remove the cause"},
		{"broken policy", "cp /root/kept " + blob + "; echo nonsense >" + policy, policy, "remove the cause"},
		{"namespace", "cp /root/policy " + policy + "; mv /etc/step-ca/db /root/", "/etc/step-ca/db: No such file or directory", "systemctl cat"},
		{"no user", "mv /root/db /etc/step-ca/; printf '[Service]\\nUser=nosuch\\n' >/run/systemd/system/step-ca.service.d/a.conf", "217/USER|Failed to determine user credentials|Failed to determine credentials for user", "systemctl cat"},
		{"condition", "printf '[Unit]\\nConditionPathExists=/nosuch\\n' >/run/systemd/system/step-ca.service.d/a.conf", "ConditionPathExists=/nosuch was not met", "systemctl cat"},
		{"masked", "rm /run/systemd/system/step-ca.service.d/a.conf; mv /etc/systemd/system/step-ca.service /root/; ln -s /dev/null /etc/systemd/system/step-ca.service", "masked", "systemctl unmask"},
	}
	script := `
section health; health
section preview; bootseal preview step-ca | sed 1,2d | cmp - /run/systemd/generator/step-ca.service.d/zz-bootseal.conf && echo same
section inspect; bootseal inspect --json=short step-ca
section check; bootseal check --unseal --metrics=/run/bootseal.prom 2>&1; echo exit status $?
section metrics; cat /run/bootseal.prom
section runs; bootseal explain step-ca
section json; bootseal explain --json=short step-ca
section nothing; bootseal explain nosuch
section reseal; bootseal reseal step-ca 2>&1; systemctl restart step-ca && health
section rotate; echo wrong | bootseal rotate step-ca step-ca 2>&1; echo exit status $?
section rolled back; health; bootseal decrypt ` + blob + `; ls ` + blob + `*
cp ` + policy + ` /root/policy
mkdir -p /run/systemd/system/step-ca.service.d
printf '[Service]\nRestart=no\n' >/run/systemd/system/step-ca.service.d/norestart.conf
`
	for _, b := range breakages {
		script += b.breaks + `
systemctl daemon-reload
systemctl reset-failed step-ca 2>/dev/null
systemctl restart step-ca 2>/dev/null
for _ in $(seq 30); do [ "$(property ActiveState)" = active ] || break; sleep 0.05; done
down
section ` + b.name + `; bootseal explain step-ca 2>&1; echo exit status $?
`
	}
	out := boot(t, m, script)
	want(t, "health", out["health"], "ok")
	want(t, "preview", out["preview"], "same")
	wantContains(t, "inspect", out["inspect"], `"type":"host+tpm2`, `"pcrs":[7]`, `"policy_now":"holds"`)
	wantContains(t, "check", out["check"], "\nexit status 0")
	wantContains(t, "metrics", out["metrics"], `bootseal_check_verdict{unit="step-ca.service",credential="step-ca",check="opens"} 0`)
	wantContains(t, "explain of a unit that runs", out["runs"], "Unit: step-ca.service", "State: active (running)", "nothing has failed")
	wantContains(t, "explain as JSON", out["json"], `[{"unit":"step-ca.service","state":"active (running)","cause":"`)
	wantExplained(t, "explain of no unit", out["nothing"], "no such unit", "systemctl")
	wantContains(t, "reseal", out["reseal"], blob+": sealed again, host+tpm2", "PCR 7\nok")
	wantContains(t, "rotate to a wrong secret", out["rotate"], "restarting step-ca.service: it did not stay up", "the old credential is back in its place", "exit status 1")
	want(t, "after that", out["rolled back"], "ok\n"+password+"\n"+blob)
	for _, b := range breakages {
		wantExplained(t, b.name, out[b.name], b.cause, b.remedy)
		wantContains(t, b.name, out[b.name], "\nexit status 0")
	}
}

// TestApply changes policies and blobs under running units.
func TestApply(t *testing.T) {
	for _, version := range machine.Versions {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, version)
			if err := m.InstallBootseal(); err != nil {
				t.Fatal(err)
			}
			// It says which secret it got, and ends without one.
			for _, unit := range []string{"app", "inst@", "other"} {
				write(t, m, "/etc/systemd/system/"+unit+".service", "[Service]\nExecStart=/bin/sh -c 'cat \"$CREDENTIALS_DIRECTORY\"/* && exec sleep 1000'\nStandardOutput=file:/run/out-%n\n", 0o644)
			}
			const one = "[[credential]]\nname = \"one\"\n"
			out := boot(t, m, `
for name in one two; do printf %s "secret-$name" | bootseal encrypt -H --name=$name - /etc/credstore.encrypted/$name || exit; done
mkdir -p /etc/bootseal
systemctl start inst@a
section nothing; bootseal apply 2>&1; echo exit status $?
for unit in app inst@ other; do printf '`+strings.ReplaceAll(one, "\n", "\\n")+`' >/etc/bootseal/$unit.service.toml; done
systemctl daemon-reload
systemctl start app
systemctl restart inst@a
section first; bootseal apply 2>&1; echo exit status $?
pid=$(property MainPID app)
printf '[[credential]]\nname = "two"\n' >/etc/bootseal/app.service.toml
section second; bootseal apply 2>&1; echo exit status $?
section got; cat /run/out-app.service
section again; bootseal apply app 2>&1; echo exit status $?
sleep 0.1; printf other | bootseal encrypt -H --name=one - /etc/credstore.encrypted/one
section blob; bootseal apply 2>&1; echo exit status $?
rm /run/out-*
section rotate; printf fresh | bootseal rotate app two 2>&1; echo exit status $?
section rotated; cat /run/out-app.service; echo; ls /etc/credstore.encrypted
section instances; printf fresh | bootseal rotate inst@a one 2>&1; cat /run/out-inst@a.service
section stopped; printf fresh | bootseal rotate other one 2>&1; property ActiveState other
pid=$(property MainPID app)
echo nonsense >/etc/bootseal/app.service.toml
section broken; bootseal apply app 2>&1; echo exit status $?
section lives; [ "$pid" = "$(property MainPID app)" ] && property ActiveState app
rm /etc/credstore.encrypted/one
section gone; bootseal apply inst@a 2>&1; echo exit status $?
rm /etc/bootseal/*
sed -i 's/cat.*&& //' /etc/systemd/system/app.service
section removed; bootseal apply 2>&1; echo exit status $?
section left; ls -d /run/bootseal/*.service 2>/dev/null
section removed again; bootseal apply 2>&1; echo exit status $?
section stranger; bootseal apply nosuch 2>&1; echo exit status $?
`)
			want(t, "second", out["second"], "app.service: restarted\ninst@a.service: nothing has changed\nother.service: not running, left so\nexit status 0")
			want(t, "first", out["first"], "app.service: nothing has changed\ninst@a.service: nothing has changed\nother.service: not running, left so\nexit status 0")
			wantContains(t, "nothing", out["nothing"], "no policy", "exit status 78")
			want(t, "the unit got", out["got"], "secret-two")
			want(t, "again", out["again"], "app.service: nothing has changed\nexit status 0")
			want(t, "a newer blob", out["blob"], "app.service: nothing has changed\ninst@a.service: restarted\nother.service: not running, left so\nexit status 0")
			want(t, "rotate", out["rotate"], "app.service: restarted with the new secret\nexit status 0")
			want(t, "rotated", out["rotated"], "fresh\none\ntwo")
			wantContains(t, "rotate for instances", out["instances"], "inst@a.service: restarted with the new secret", "fresh")
			wantContains(t, "rotate for a stopped unit", out["stopped"], "other.service: does not run", "inactive")
			wantContains(t, "a broken policy", out["broken"], "app.service: blocked, not restarted: /etc/bootseal/app.service.toml", "not applied everywhere: app.service", "exit status 1")
			want(t, "the unit of the broken policy", out["lives"], "active")
			wantContains(t, "no blob", out["gone"], "inst@a.service: restarting inst@a.service: it did not stay up", "bootseal explain inst@a.service", "exit status 1")
			want(t, "no policy any more", out["removed"], "app.service: its policy is gone, restarted without it\nexit status 0")
			want(t, "plaintext without a policy", out["left"], "")
			wantContains(t, "no policy any more, again", out["removed again"], "no policy", "exit status 78")
			wantContains(t, "no policy", out["stranger"], "nosuch.service: no policy", "exit status 78")
		})
	}
}
