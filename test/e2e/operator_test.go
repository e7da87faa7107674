package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/bootseal/bootseal/test/machine"
	"github.com/bootseal/bootseal/test/story"
)

// TestOperator uses the verbs for operators on a machine that works, breaks it
// in every way and asks why.
func TestOperator(t *testing.T) {
	t.Parallel()
	for _, version := range machine.Versions {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			t.Parallel()
			testOperator(t, sealed(t, version))
		})
	}
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
	const strong = "--with-key=host+tpm2 --tpm2-pcrs=7 "
	breakages := []struct{ name, breaks, cause, remedy string }{
		{"wrong secret", "echo wrong | bootseal encrypt --unit=step-ca step-ca", "the secret is a wrong one", "bootseal encrypt --unit=step-ca"},
		{"expired", "printf secret | bootseal encrypt " + strong + "--name=step-ca --timestamp=@1000 --not-after=@2000 - " + story.Blob, "expired", "a later --not-after="},
		{"another name", "printf secret | bootseal encrypt " + strong + "--name=other - " + story.Blob, "another name", "rename the file"},
		{"no host key", "cp /root/kept " + story.Blob + "; mv " + hostKey + " /root/host-key", "no host key", "restore " + hostKey},
		{"null key", "mv /root/host-key " + hostKey + "; printf secret | bootseal encrypt --with-key=null --name=step-ca - " + story.Blob, "null key", "remove the cause"},
		{"weak blob", "echo wrong | bootseal encrypt -H --name=step-ca - " + story.Blob, "weaker than the", "remove the cause"},
		{"namespace", "cp /root/kept " + story.Blob + "; mv /etc/step-ca/db /root/", "/etc/step-ca/db: No such file or directory", "systemctl cat"},
		{"no user", "mv /root/db /etc/step-ca/; printf '[Service]\\nUser=nosuch\\n' >/run/systemd/system/step-ca.service.d/a.conf", "217/USER|Failed to determine user credentials|Failed to determine credentials for user", "systemctl cat"},
		{"condition", "printf '[Unit]\\nConditionPathExists=/nosuch\\n' >/run/systemd/system/step-ca.service.d/a.conf", "ConditionPathExists=/nosuch was not met", "systemctl cat"},
		{"no program", "printf '[Service]\\nExecStart=\\nExecStart=/nosuch\\n' >/run/systemd/system/step-ca.service.d/a.conf", "203/EXEC", "systemctl cat"},
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
section rolled back; health; bootseal decrypt ` + story.Blob + `; ls ` + story.Blob + `*
cat >/etc/systemd/system/slow.service <<'END'
[Service]
ExecStart=/bin/bash -c '[ "$(cat "$CREDENTIALS_DIRECTORY"/slow)" = right ] || { while [ $SECONDS -lt 5 ]; do :; done; exit 1; }; touch /run/slow; sleep infinity'
END
echo '[[credential]]
name = "slow"' >/etc/bootseal/slow.service.toml
printf right | bootseal encrypt --unit=slow slow && systemctl daemon-reload && systemctl start slow || exit
until [ -e /run/slow ]; do sleep 0.1; done # a software TPM serves one at a time
section rotate slow; printf wrong | bootseal rotate slow slow 2>&1; echo exit status $?
systemctl stop slow; rm /etc/systemd/system/slow.service /etc/bootseal/slow.service.toml /etc/credstore.encrypted/slow; systemctl daemon-reload
printf '[Service]\nType=oneshot\nExecStart=/bin/true\nLoadCredentialEncrypted=x:/run/garbage\n' >/etc/systemd/system/byhand.service
(umask 077; echo garbage >/run/garbage)
systemctl start byhand 2>/dev/null
section by hand; bootseal explain byhand 2>&1
section explain to another user; setpriv --reuid=nobody --clear-groups bootseal explain byhand 2>&1
section check for another user; setpriv --reuid=nobody --clear-groups bootseal check --no-legend 2>&1 | tr -s ' '; echo exit status ${PIPESTATUS[0]}
cp ` + story.Blob + ` /root/kept
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
	out := story.Boot(t, m, script)
	if m.Version >= 250 {
		wantExplained(t, "a unit without a policy", out["by hand"], "systemd could not open its credentials: /run/garbage: ", "restore the file")
	}
	if strings.Contains(out["explain to another user"], "Cause: systemd could not") {
		t.Errorf("explain takes its own lack of rights for the cause:\n%s", out["explain to another user"])
	}
	story.WantContains(t, "check for another user", out["check for another user"], "step-ca blob unknown ", "\nexit status 2")
	story.Want(t, "health", out["health"], "ok")
	story.Want(t, "preview", out["preview"], "same")
	story.WantContains(t, "inspect", out["inspect"], `"type":"host+tpm2`, `"pcrs":[7]`, `"policy_now":"holds"`)
	story.WantContains(t, "check", out["check"], "\nexit status 0")
	story.WantContains(t, "metrics", out["metrics"], `bootseal_check_verdict{unit="step-ca.service",credential="step-ca",check="opens"} 0`)
	story.WantContains(t, "explain of a unit that runs", out["runs"], "Unit: step-ca.service", "State: active (running)", "nothing has failed")
	story.WantContains(t, "explain as JSON", out["json"], `[{"unit":"step-ca.service","state":"active (running)","cause":"`)
	wantExplained(t, "explain of no unit", out["nothing"], "no such unit", "systemctl")
	story.WantContains(t, "reseal", out["reseal"], story.Blob+": sealed again, host+tpm2", "PCR 7\nok")
	story.WantContains(t, "rotate to a wrong secret", out["rotate"], "restarting step-ca.service: it did not stay up", "the old credential is back in its place", "exit status 1")
	story.WantContains(t, "rotate to a wrong secret, which takes five seconds to be told", out["rotate slow"], "restarting slow.service: it did not stay up", "exit status 1")
	story.Want(t, "after that", out["rolled back"], "ok\n"+story.Password+"\n"+story.Blob)
	for _, b := range breakages {
		wantExplained(t, b.name, out[b.name], b.cause, b.remedy)
		story.WantContains(t, b.name, out[b.name], "\nexit status 0")
	}
}

// TestApply changes policies and blobs under running units.
func TestApply(t *testing.T) {
	t.Parallel()
	for _, version := range machine.Versions {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			t.Parallel()
			m := story.New(t, version)
			if err := m.InstallBootseal(); err != nil {
				t.Fatal(err)
			}
			// It says which secret it got, and ends without one.
			for _, unit := range []string{"app", "inst@", "other"} {
				story.Write(t, m, "/etc/systemd/system/"+unit+".service", "[Service]\nExecStart=/bin/sh -c 'cat \"$CREDENTIALS_DIRECTORY\"/* && exec sleep 1000'\nStandardOutput=file:/run/out-%n\n", 0o644)
			}
			const one = "[[credential]]\nname = \"one\"\n"
			out := story.Boot(t, m, `
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
rm -f /usr/lib/*/libtss2-*
printf '[[credential]]\nname = "two"\n[seal]\nkey = "tpm2"\n' >/etc/bootseal/app.service.toml
section another key; printf newer | bootseal rotate app two 2>&1; cat /run/out-app.service
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
			story.Want(t, "second", out["second"], "app.service: restarted\ninst@a.service: nothing has changed\nother.service: not running, left so\nexit status 0")
			story.Want(t, "first", out["first"], "app.service: nothing has changed\ninst@a.service: nothing has changed\nother.service: not running, left so\nexit status 0")
			story.WantContains(t, "nothing", out["nothing"], "no policy", "exit status 78")
			story.Want(t, "the unit got", out["got"], "secret-two")
			story.Want(t, "again", out["again"], "app.service: nothing has changed\nexit status 0")
			story.Want(t, "a newer blob", out["blob"], "app.service: nothing has changed\ninst@a.service: restarted\nother.service: not running, left so\nexit status 0")
			story.Want(t, "rotate", out["rotate"], "app.service: restarted with the new secret\nexit status 0")
			story.Want(t, "rotated", out["rotated"], "fresh\none\ntwo")
			// Where systemd opened it by itself before, it takes a server now.
			story.Want(t, "rotate to another key", out["another key"], "app.service: restarted with the new secret\nnewer")
			story.WantContains(t, "rotate for instances", out["instances"], "inst@a.service: restarted with the new secret", "fresh")
			story.WantContains(t, "rotate for a stopped unit", out["stopped"], "other.service: does not run", "inactive")
			story.WantContains(t, "a broken policy", out["broken"], "app.service: blocked, not restarted: /etc/bootseal/app.service.toml", "not applied everywhere: app.service", "exit status 1")
			story.Want(t, "the unit of the broken policy", out["lives"], "active")
			story.WantContains(t, "no blob", out["gone"], "inst@a.service: restarting inst@a.service: it did not stay up", "bootseal explain inst@a.service", "exit status 1")
			story.Want(t, "no policy any more", out["removed"], "app.service: its policy is gone, restarted without it\nexit status 0")
			story.Want(t, "plaintext without a policy", out["left"], "")
			story.WantContains(t, "no policy any more, again", out["removed again"], "no policy", "exit status 78")
			story.WantContains(t, "no policy", out["stranger"], "nosuch.service: no policy", "exit status 78")
		})
	}
}
