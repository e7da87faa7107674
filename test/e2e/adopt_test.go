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
			t.Run("there and back", func(t *testing.T) { t.Parallel(); testThereAndBack(t, story.Clone(t, m)) })
			t.Run("variants", func(t *testing.T) { t.Parallel(); testVariants(t, story.Clone(t, m)) })
			t.Run("failures", func(t *testing.T) { t.Parallel(); testAdoptFails(t, story.Clone(t, m)) })
		})
	}
}

func testThereAndBack(t *testing.T, m *machine.Machine) {
	story.Write(t, m, "/root/x.conf", "[Service]\nExecStartPre=/bin/sh -c 'test -n \"$CREDENTIALS_DIRECTORY\"'\n", 0o644)
	out := story.Boot(t, m, adoptHelpers+`
file=/etc/step-ca/password.txt
cp $file /root/password
chown step: $file; chmod 640 $file
mkdir -p /etc/bootseal
same() { bootseal decrypt `+story.Blob+` | cmp - /root/password && echo same; }
section before; health; property DropInPaths
section state; state $file
section dry run; try bootseal adopt --dry-run --tpm2-pcrs=7 step-ca
section after dry run; state $file
section adopt; try bootseal adopt --tpm2-pcrs=7 step-ca
section adopted; health; same; ls $file; property DropInPaths
section plaintext; plaintext
section check; try bootseal check --unseal --no-legend step-ca
section again; try bootseal adopt step-ca

# It does not start with the plaintext any more.
mkdir -p /run/systemd/system/step-ca.service.d
cp /root/x.conf /run/systemd/system/step-ca.service.d/
section undo fails; try bootseal adopt --undo step-ca; health; same; ls $file
rm -r /run/systemd/system/step-ca.service.d

section undo dry; try bootseal adopt --undo --dry-run step-ca; same
section undo; try bootseal adopt --undo step-ca
section undone; health; property DropInPaths
section after undo; state $file
section not adopted; try bootseal adopt --undo step-ca
`)
	story.Want(t, "after dry run", out["after dry run"], out["state"])
	story.WantContains(t, "dry run", out["dry run"], "seal /etc/step-ca/password.txt, which --password-file names, to "+story.Blob, "write "+story.Policy, `replaces = "/etc/step-ca/password.txt"`, "[7]", "remove /etc/step-ca/password.txt", "exit status 0")
	story.WantContains(t, "adopt", out["adopt"], story.Blob+": sealed, host+tpm2", "PCR 7, and opens", "step-ca.service: restarted with the sealed secret", "password.txt: removed", "Keep a copy", "exit status 0")
	story.Want(t, "adopted", out["adopted"], "ok\nsame\n/run/systemd/generator/step-ca.service.d/zz-bootseal.conf")
	story.WantDelivered(t, out["plaintext"])
	story.WantContains(t, "check", out["check"], "\nexit status 0")
	story.WantContains(t, "adopt, again", out["again"], "step-ca.service: it has been adopted", "bootseal adopt --undo", "exit status 1")
	story.WantContains(t, "undo that fails", out["undo fails"], "did not stay up", "all is as it was before", "exit status 1\nok\nsame")
	if strings.HasSuffix(out["undo fails"], "password.txt") {
		t.Error("an undo that failed left the plaintext")
	}
	story.WantContains(t, "undo, dry run", out["undo dry"], "write /etc/step-ca/password.txt from "+story.Blob, "exit status 0\nsame")
	story.WantContains(t, "undo", out["undo"], "step-ca.service: restarted with the plaintext", "exit status 0")
	story.Want(t, "undone", out["undone"], out["before"])
	story.Want(t, "after undo", out["after undo"], out["state"])
	story.WantContains(t, "undo, again", out["not adopted"], "it has not been adopted here", "exit status 1")
}

// testVariants adopts step-ca as distributions run it, with one password and three.
func testVariants(t *testing.T, m *machine.Machine) {
	key := "auto"
	if m.Version == 252 {
		// It leaves a session in the TPM for each credential that it opens, and
		// a software TPM, which has no resource manager, holds three.
		key = "host"
	}
	helpers := adoptHelpers + `
unit=/etc/systemd/system/step-ca.service
[ -e /root/upstream ] || cp $unit /root/upstream
restart() { systemctl daemon-reload; systemctl restart step-ca; health || { systemctl status step-ca >&2; journalctl --boot --unit=step-ca -n 5 >&2; exit 1; }; }
round() {
	restart >/dev/null
	section $1; try bootseal adopt --with-key=` + key + ` step-ca; health; for file in $2; do ls $file && journalctl --boot --output=cat --lines=30 --unit=step-ca; done
	section $1 undone; try bootseal adopt --undo step-ca; health; stat --format='%a %U' $2
}
`
	out := story.Boot(t, m, helpers+`
# Of the Arch User Repository: a dynamic user, and a folder for the configuration.
sed 's,^Group=step$,&\nDynamicUser=yes\nConfigurationDirectory=step-ca\nRuntimeDirectory=step-ca\nLogsDirectory=step-ca,' /root/upstream >$unit
round arch /etc/step-ca/password.txt
`)
	suse := story.Boot(t, m, helpers+`
cd /etc/step-ca
for key in host user; do
	echo "another secret, $key" >$key.txt
	step crypto change-pass secrets/ssh_${key}_ca_key --password-file=password.txt --new-password-file=$key.txt --force 2>/dev/null
done
chmod 600 host.txt

# As openSUSE has it, with three passwords, of which two are found in the working directory.
systemctl stop step-ca
useradd --system --user-group --home-dir /var/lib/step-ca --shell /usr/sbin/nologin _step-ca
mkdir -p /var/lib/step-ca/.step
cp -a certs config db secrets templates /var/lib/step-ca/.step
mv host.txt user.txt /var/lib/step-ca
sed -i 's,/etc/step-ca,/var/lib/step-ca/.step,g' /var/lib/step-ca/.step/config/*
[ -e /usr/sbin/step-ca ] || ln -s ../bin/step-ca /usr/sbin/step-ca
chown -R _step-ca: /var/lib/step-ca
chown root:_step-ca . password.txt; chmod 750 .; chmod 640 password.txt
sed -e 's,=step$,=_step-ca,; s,^ConditionFileNotEmpty=.*/ca.json,ConditionFileNotEmpty=/var/lib/step-ca/.step/config/ca.json,
	s,^Environment=STEPPATH=.*,Environment=STEPPATH=/var/lib/step-ca/.step/,; s,^WorkingDirectory=.*,WorkingDirectory=/var/lib/step-ca/,
	s,^ExecStart=.*,ExecStart=/usr/sbin/step-ca .step/config/ca.json --password-file /etc/step-ca/password.txt --ssh-host-password-file=host.txt --ssh-user-password-file user.txt,
	s,^ReadWriteDirectories=.*,ReadWriteDirectories=/var/lib/step-ca/,' /root/upstream >$unit
round opensuse "/etc/step-ca/password.txt /var/lib/step-ca/host.txt /var/lib/step-ca/user.txt"
`)
	maps.Copy(out, suse)
	for name, files := range map[string][]string{"arch": {"/etc/step-ca/password.txt"}, "opensuse": {"/etc/step-ca/password.txt", "/var/lib/step-ca/host.txt", "/var/lib/step-ca/user.txt"}} {
		story.WantContains(t, name, out[name], "exit status 0\nok")
		for _, file := range files {
			story.WantContains(t, name, out[name], file+": removed")
		}
		if !strings.HasSuffix(out[name], "\nok") {
			t.Errorf("%s: plaintext is left:\n%s", name, out[name])
		}
	}
	story.WantContains(t, "three passwords", out["opensuse"], "/etc/credstore.encrypted/step-ca-ssh-host: sealed", "/etc/credstore.encrypted/step-ca-ssh-user: sealed", `option   = "--ssh-user-password-file"`)
	story.WantContains(t, "undo, Arch", out["arch undone"], "exit status 0\nok\n600 step")
	story.WantContains(t, "undo, openSUSE", out["opensuse undone"], "exit status 0\nok\n640 root\n600 _step-ca\n644 _step-ca")
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
