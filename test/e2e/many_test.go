package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/bootseal/bootseal/test/machine"
	"github.com/bootseal/bootseal/test/story"
)

// TestManyUnits starts fifty units with two credentials each at once, and some
// of them one after the other.
func TestManyUnits(t *testing.T) {
	t.Parallel()
	const count, inTurn = 50, 10
	for _, version := range machine.Sample(t, []int{252, 257, 262}, 257) {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			t.Parallel()
			m := fresh(t, version, "bootseal")
			story.Write(t, m, "/etc/systemd/system/many@.service", "[Service]\nType=oneshot\nRemainAfterExit=yes\nDynamicUser=yes\nExecStartPre=/bin/true\n"+
				"ExecStart=/bin/sh -c '[ \"$(cat \"$CREDENTIALS_DIRECTORY\"/one) $(cat \"$CREDENTIALS_DIRECTORY\"/two)\" = \"secret one secret two\" ]'\n", 0o644)
			story.Write(t, m, "/etc/systemd/system/killed@.service", "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'cat \"$CREDENTIALS_DIRECTORY\"/one; echo'\nStandardOutput=append:/bootseal-test/out/killed\nStandardError=null\n", 0o644)
			story.Write(t, m, "/etc/bootseal/killed@.service.toml", "[[credential]]\nname = \"one\"\n", 0o644)
			story.Write(t, m, "/etc/bootseal/many@.service.toml", "[[credential]]\nname = \"one\"\n[[credential]]\nname = \"two\"\n", 0o644)
			// Also for a unit that starts before all others.
			story.Write(t, m, "/etc/systemd/system/early.service", "[Unit]\nDefaultDependencies=no\nBefore=sysinit.target\n[Install]\nWantedBy=sysinit.target\n"+
				"[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c '[ \"$(cat \"$CREDENTIALS_DIRECTORY\"/one)\" = \"secret one\" ]'\n", 0o644)
			story.Write(t, m, "/etc/bootseal/early.service.toml", "[[credential]]\nname = \"one\"\n", 0o644)
			story.Boot(t, m, `
for name in one two; do printf %s "secret $name" | bootseal encrypt --with-key=tpm2 - /etc/credstore.encrypted/$name || exit; done
systemctl enable early
`)
			script := fmt.Sprintf("units=$(echo many@{1..%d}.service)\nfirst=$(echo many@{1..%d}.service)\n", count, inTurn) + `
stamp() { date +%s%3N; }
begin=$(stamp)
for unit in $first; do systemctl start $unit; done
section in turn; echo $(($(stamp) - begin))
section started in turn; systemctl list-units --plain --no-legend --state=active 'many@*' | wc -l
section setting; systemctl cat many@1.service
section early; property ActiveState early; systemctl cat early | grep -o unseal.sock
cd /etc/credstore.encrypted; cp one kept; cp two one
section wrong name; systemctl start many@wrong 2>/dev/null; property ActiveState many@wrong; property StatusText many@wrong
mv kept one; systemctl reset-failed many@wrong
true
`
			// A software TPM serves one client at a time: systemd's own way
			// needs the kernel's resource manager to start units at once.
			native := story.Boot(t, m, script)
			story.Must(t, removeTSS(m))
			socket := story.Boot(t, m, script+`
systemctl stop $first
begin=$(stamp)
systemctl start $units
section at once; echo $(($(stamp) - begin))
section started; systemctl list-units --plain --no-legend --state=active 'many@*' | wc -l
section failed; systemctl --failed --plain --no-legend
section killed
for i in $(seq 20); do
	systemctl reset-failed bootseal.service bootseal.socket 2>/dev/null
	systemctl start killed@$i 2>/dev/null &
	sleep 0.0$((i % 7))
	systemctl kill --signal=KILL bootseal.service 2>/dev/null
	wait
done
systemctl reset-failed
sort -u /bootseal-test/out/killed
true
`)
			for _, out := range []map[string]string{native, socket} {
				story.WantContains(t, "a blob of another name", out["wrong name"], "failed\n/etc/credstore.encrypted/one: credential is for another name")
			}
			story.Want(t, "native, started in turn", native["started in turn"], fmt.Sprint(inTurn))
			story.Want(t, "unit in early boot, native", native["early"], "active")
			story.Want(t, "unit in early boot", socket["early"], "active\nunseal.sock")
			story.Want(t, "started in turn", socket["started in turn"], fmt.Sprint(inTurn))
			story.Want(t, "started", socket["started"], fmt.Sprint(count))
			story.Want(t, "failed", socket["failed"], "")
			// Some get it, some do not start, none starts with another.
			if got := socket["killed"]; got != "secret one" && got != "" {
				t.Errorf("units got %q from a server that was killed", got)
			}
			if !strings.Contains(socket["setting"], "unseal.sock") {
				t.Errorf("not over the socket:\n%s", socket["setting"])
			}
			t.Logf("measured: systemd %d: units with two credentials each: %d in turn %s ms over the socket, %s ms native; %d at once %s ms over the socket", version, inTurn, socket["in turn"], native["in turn"], count, socket["at once"])
		})
	}
}
