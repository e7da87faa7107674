package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/bootseal/bootseal/test/machine"
	"github.com/bootseal/bootseal/test/story"
)

// TestUsers gives two credentials to units of every kind of user.
func TestUsers(t *testing.T) {
	t.Parallel()
	units := map[string]string{
		"root":      "",
		"user":      "User=nobody\n",
		"dynamic":   "DynamicUser=yes\nStateDirectory=dynamic\n",
		"own":       "User=nobody\nRuntimeDirectory=own\nExecStartPre=/bin/sh -c 'test -r \"$CREDENTIALS_DIRECTORY\"/one && test \"$RUNTIME_DIRECTORY\" = /run/own'\n",
		"instance@": "User=nobody\n",
		"hides":     "User=nobody\nTemporaryFileSystem=/etc:ro /var:ro\n",
	}
	for _, version := range machine.Versions {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			t.Parallel()
			m := story.New(t, version)
			if err := m.InstallBootseal(); err != nil {
				t.Fatal(err)
			}
			script := `
for name in one two; do printf %s "secret $name" | bootseal encrypt --with-key=tpm2 - /etc/credstore.encrypted/$name || exit; done
`
			for name, settings := range units {
				story.Write(t, m, "/etc/systemd/system/"+name+".service", "[Service]\n"+settings+
					"ExecStart=/bin/sh -c 'cd \"$CREDENTIALS_DIRECTORY\" && cat one && echo && cat two && echo && ls && sleep 1000'\n"+
					"StandardOutput=file:/bootseal-test/out/%n\n", 0o644)
				story.Write(t, m, "/etc/bootseal/"+name+".service.toml", "[[credential]]\nname = \"one\"\n[[credential]]\nname = \"two\"\n", 0o644)
			}
			story.Boot(t, m, script)
			script = ""
			for name := range units {
				if strings.HasSuffix(name, "@") {
					name += "x"
				}
				script += fmt.Sprintf(`
section %[1]s
touch /bootseal-test/out/%[1]s.service
systemctl start %[1]s || systemctl status --full %[1]s
for i in $(seq 50); do grep -q ^two$ /bootseal-test/out/%[1]s.service && break; sleep 0.1; done
cat /bootseal-test/out/%[1]s.service
systemctl restart %[1]s || echo no restart
systemctl stop %[1]s
property ActiveState %[1]s
awk '$2 ~ "/%[1]s.service$" { print $2 }' /proc/mounts
`, name)
			}
			out := story.Boot(t, m, script)
			for name := range units {
				if strings.HasSuffix(name, "@") {
					name += "x"
				}
				story.Want(t, name, out[name], "secret one\nsecret two\none\ntwo\ninactive")
			}
		})
	}
}

// TestReadme uses the hook of the README, in a unit without any policy.
func TestReadme(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(readme), "<!-- test/e2e runs this drop-in -->\n```ini\n")
	dropin, _, ended := strings.Cut(rest, "```")
	if !found || !ended {
		t.Fatal("no drop-in in README.md")
	}
	for _, version := range machine.Versions {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			t.Parallel()
			m := story.New(t, version)
			if err := m.InstallBootseal(); err != nil {
				t.Fatal(err)
			}
			story.Write(t, m, "/etc/systemd/system/db.service", "[Service]\nUser=nobody\nExecStart=/bin/sh -c 'cat \"$CREDENTIALS_DIRECTORY\"/db-password; sleep 1000'\nStandardOutput=file:/bootseal-test/out/db\n", 0o644)
			story.Write(t, m, "/etc/systemd/system/db.service.d/hook.conf", dropin, 0o644)
			out := story.Boot(t, m, `
printf %s '`+story.Password+`' | bootseal encrypt --name=db-password - /etc/credstore.encrypted/db-password || exit
touch /bootseal-test/out/db
section started; systemctl start db && echo yes
section got; for i in $(seq 50); do [ -s /bootseal-test/out/db ] && break; sleep 0.1; done; cat /bootseal-test/out/db
section by others; setpriv --reuid=nobody --regid=nogroup --clear-groups ls /run/bootseal/db.service 2>/dev/null
section options; awk '$2 == "/run/bootseal/db.service" { print $3 "," $4 }' /proc/mounts
section restarted; systemctl restart db && property ActiveState db
section stopped; systemctl stop db; property ActiveState db
section plaintext; plaintext
rm /etc/credstore.encrypted/db-password
section refused; systemctl start db 2>/dev/null || echo yes
section status; systemctl status --full db
section hooks at once
printf %s hidden | bootseal encrypt -H --name=twice - /etc/credstore.encrypted/twice
for _ in $(seq 10); do bootseal unseal --unit=twice.service twice & hooks+=($!); done
for hook in ${hooks[@]}; do wait $hook || echo failed; done
cat /run/bootseal/twice.service/twice; echo
bootseal cleanup --unit=twice.service; ls /run/bootseal
`)
			story.Want(t, "started", out["started"], "yes")
			story.Want(t, "the service got", out["got"], story.Password)
			story.Want(t, "other processes of the same user see", out["by others"], "")
			for _, option := range []string{"ramfs", "ro", "nosuid", "nodev", "noexec", "nosymfollow"} {
				if !slices.Contains(strings.Split(out["options"], ","), option) {
					t.Errorf("the plaintext is mounted as %s; want %s", out["options"], option)
				}
			}
			story.Want(t, "ten hooks of one unit at once", out["hooks at once"], "hidden")
			story.Want(t, "restarted", out["restarted"], "active")
			story.Want(t, "stopped", out["stopped"], "inactive")
			story.Want(t, "plaintext after stop", out["plaintext"], "")
			story.Want(t, "refused without the blob", out["refused"], "yes")
			story.WantContains(t, "status", out["status"], `Status: "/etc/credstore.encrypted/db-password: `)
		})
	}
}
