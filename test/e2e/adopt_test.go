package e2e

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/bootseal/bootseal/test/machine"
	"github.com/bootseal/bootseal/test/story"
)

// adoptHelpers: "state" prints what an adoption may change, "try COMMAND" a
// command's output and exit status.
const adoptHelpers = `
try() { "$@" 2>&1; echo exit status $?; }
state() {
	ls -A /etc/bootseal /etc/credstore.encrypted 2>/dev/null
	for file; do stat --format='%n %a %U:%G %h' $file; sha256sum <$file; done
	ls -A /etc/step-ca
}
`

// TestAdopt takes step-ca from plaintext to sealed, and back.
func TestAdopt(t *testing.T) {
	t.Parallel()
	for _, version := range machine.Versions {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			t.Parallel()
			m := story.New(t, version)
			if err := m.InstallBootseal(); err != nil {
				t.Fatal(err)
			}
			if err := m.InstallStepCA(story.Password + "\n"); err != nil {
				t.Fatal(err)
			}
			t.Run("failures", func(t *testing.T) { t.Parallel(); testAdoptFails(t, story.Clone(t, m)) })
		})
	}
}

// testAdoptFails has adoption refuse, and fail half-way, of services that are not
// step-ca.
func testAdoptFails(t *testing.T, m *machine.Machine) {
	story.Write(t, m, "/usr/bin/app", `#!/bin/sh
for file; do :; done
case "$1 $file" in
"--strict /etc/"*) ;;
"--strict "*) echo "not from there"; exit 1 ;;
esac
grep -q . "$file" && exec sleep 1000
`, 0o755)
	unit := func(name, command, more string) {
		story.Write(t, m, "/etc/systemd/system/"+name+".service", "[Service]\nExecStart=/usr/bin/app "+command+"\nWorkingDirectory=/etc/app\n"+more, 0o644)
	}
	for _, file := range []string{"token", "strict", "busy", "late", "real"} {
		story.Write(t, m, "/etc/app/"+file, "secret without a newline", 0o600)
	}
	unit("app", "--token-file token", "")
	unit("strict", "--strict --password-file /etc/app/strict", "")
	unit("busy", "--password-file busy", "")
	unit("late", "--password-file late", "")
	unit("link", "--password-file link", "")
	unit("variable", "--password-file ${FILE}", "Environment=FILE=/etc/app/real\n")
	unit("stale", "--password-file real", "")
	unit("covered", "--password-file real", "")
	unit("taken", "--password-file real", "")
	unit("stopped", "--password-file real", "")
	unit("inst@", "--password-file real", "")
	script := adoptHelpers + `
cd /etc/app
ln -s real link
sleep 0.1
systemctl start app strict busy late link variable stale covered taken inst@a
touch /etc/systemd/system/stale.service; sed -i 's/real/real /' /etc/systemd/system/stale.service
mkdir -p /etc/bootseal; printf '[[credential]]\nname = "x"\n' >/etc/bootseal/covered.service.toml
mkdir -p -m 700 /etc/credstore.encrypted; echo blob >/etc/credstore.encrypted/taken
sleep 0.1; printf 'another secret' >late
section before; state token strict busy
`
	refusals := map[string]struct {
		args string
		says string
	}{
		"a link":                   {"link", "/etc/app/link: a symbolic link"},
		"a variable":               {"variable", "a path with a variable"},
		"a unit that has changed":  {"stale", "systemctl daemon-reload"},
		"a policy":                 {"covered", "it has a policy, /etc/bootseal/covered.service.toml"},
		"a blob":                   {"taken", "/etc/credstore.encrypted/taken is there already"},
		"a unit that does not run": {"stopped", "it is inactive"},
		"no unit":                  {"nosuch", "no such unit file"},
		"a template":               {"inst@.service", "it is a template"},
		"no option":                {"app", "there is no --password-file"},
		"another option":           {"--option=--nosuch app", "there is no --nosuch in its ExecStart="},
		"a file that has changed":  {"late", "/etc/app/late was changed after the unit had started"},
		"no TPM":                   {"--with-key=tpm2 --tpm2-device=swtpm:path=/nosuch busy", "/nosuch"},
		"no such key":              {"--with-key=null app", "--with-key=null: expected auto, host, tpm2, host+tpm2"},
		"wrong usage":              {"--undo --keep app", "--undo takes no --keep"},
	}
	for name, r := range refusals {
		script += "section " + name + "; try bootseal adopt " + r.args + "\n"
	}
	out := story.Boot(t, m, script+`
section after refusals; state token strict busy
pid() { property MainPID $1; }
section strict; try bootseal adopt strict
section strict runs; property ActiveState strict; state token strict busy
mount --bind busy busy
section busy; try bootseal adopt busy
umount busy
section busy runs; property ActiveState busy; state token strict busy
before=$(pid busy)
mount -t tmpfs -o ro none /etc/credstore.encrypted
section read-only; try bootseal adopt busy
umount /etc/credstore.encrypted
section after read-only; [ "$before" = "$(pid busy)" ] && echo not restarted; state token strict busy
true
`)
	life := story.Boot(t, m, adoptHelpers+`
cd /etc/app
systemctl start app inst@a
section app; try bootseal adopt --option=--token-file app
section app sealed; bootseal decrypt /etc/credstore.encrypted/app-token; property ActiveState app; ls token
policy=/etc/bootseal/app.service.toml
cp $policy /root/policy
printf '[[credential]]\nname = "more"\n' >>$policy
section more in the policy; try bootseal adopt --undo app
cp /root/policy $policy
echo other >token
section another secret; try bootseal adopt --undo app; cat token
rm token
section app undone; try bootseal adopt --undo app
section app plain; property ActiveState app; cat token
section after app; state token strict busy

section keep; try bootseal adopt --keep --option=--token-file app; cat token
# As if it had been killed before it wrote the policy, or the blob.
rm $policy
section broken off; try bootseal adopt --option=--token-file app
section undo without policy; try bootseal adopt --undo app; property ActiveState app; state token strict busy
bootseal adopt --keep --option=--token-file app >/dev/null
rm $policy /etc/credstore.encrypted/app-token
section undo without blob; try bootseal adopt --undo app; property ActiveState app; state token strict busy
bootseal adopt --option=--token-file app >/run/progress 2>&1 &
for _ in $(seq 900); do grep -q "toml: written" /run/progress && break; sleep 0.02; done
kill -KILL $!
wait
section undo after kill; try bootseal adopt --undo app; property ActiveState app; state token strict busy
section instance; try bootseal adopt --keep inst@a; ls /etc/bootseal
`)
	maps.Copy(out, life)
	for name, r := range refusals {
		story.WantContains(t, name, out[name], r.says)
		if strings.HasSuffix(out[name], "exit status 0") {
			t.Errorf("%s: exit status 0", name)
		}
	}
	story.Want(t, "after refusals", out["after refusals"], out["before"])
	for name, says := range map[string]string{
		"strict":    "restarting strict.service: it did not stay up",
		"busy":      "removing /etc/app/busy: device or resource busy",
		"read-only": "read-only file system",
	} {
		story.WantContains(t, name, out[name], says, "all is as it was before", "exit status 1")
	}
	story.Want(t, "strict runs", out["strict runs"], "active\n"+out["before"])
	story.Want(t, "busy runs", out["busy runs"], "active\n"+out["before"])
	story.Want(t, "after read-only", out["after read-only"], "not restarted\n"+out["before"])
	story.WantContains(t, "app", out["app"], `option   = "--token-file"`, "/etc/app/token: removed", "exit status 0")
	story.Want(t, "app, sealed", out["app sealed"], "secret without a newlineactive")
	story.WantContains(t, "undo of a policy with more in it", out["more in the policy"], "app.service.toml: credential more", "exit status 1")
	story.WantContains(t, "undo over another secret", out["another secret"], "there is another secret in it", "exit status 1\nother")
	story.WantContains(t, "app, undone", out["app undone"], "exit status 0")
	story.Want(t, "after app", out["after app"], out["before"])
	story.WantContains(t, "keep", out["keep"], "keep /etc/app/token", "exit status 0\nsecret without a newline")
	story.WantContains(t, "after breaking off", out["broken off"], "an earlier run was broken off", "--undo", "exit status 1")
	for _, name := range []string{"undo without policy", "undo without blob", "undo after kill"} {
		story.WantContains(t, name, out[name], "exit status 0\nactive\n"+out["before"])
	}
	story.Want(t, "app, with the plaintext", out["app plain"], "active\nsecret without a newline")
	story.WantContains(t, "an instance", out["instance"], "/etc/credstore.encrypted/inst@a: sealed", "exit status 0", "inst@a.service.adopted", "inst@a.service.toml")
}
