package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bootseal/bootseal/test/machine"
	"github.com/bootseal/bootseal/test/story"
)

// withoutTSS takes from a machine what its systemd needs to use a TPM.
func withoutTSS(t *testing.T, m *machine.Machine) {
	t.Helper()
	libraries, err := filepath.Glob(m.Path("/usr/lib/*/libtss2-*"))
	if err != nil || len(libraries) == 0 {
		t.Fatalf("no libtss2 to remove: %v", err)
	}
	for _, library := range libraries {
		if err := os.Remove(library); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSocket is TestStepCA where systemd cannot unseal the credential itself, or
// where the policy wants the socket.
func TestSocket(t *testing.T) {
	t.Parallel()
	for _, version := range machine.Versions {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			t.Parallel()
			m := sealed(t, version)
			if version < 250 {
				story.Write(t, m, story.Policy, "delivery = \"socket\"\n"+story.PolicyText, 0o644)
			} else {
				withoutTSS(t, m)
			}
			t.Run("serves", func(t *testing.T) { t.Parallel(); testSocketServes(t, story.Clone(t, m)) })
			t.Run("keeps its credential to itself", func(t *testing.T) { t.Parallel(); testSecret(t, story.Clone(t, m)) })
			t.Run("refuses strangers", func(t *testing.T) { t.Parallel(); testStrangers(t, story.Clone(t, m)) })
			for _, f := range failures(version) {
				t.Run(f.name, func(t *testing.T) {
					t.Parallel()
					c := story.Clone(t, m)
					f.breaks(t, c)
					if version < 250 {
						// 247 cannot run ExecStopPost= of a unit whose
						// LoadCredential= has failed; the reason is in the
						// journal only.
						f.says = nil
					}
					testRefuses(t, c, f)
				})
			}
		})
	}
}

func testSocketServes(t *testing.T, m *machine.Machine) {
	testServes(t, m)
	out := story.Boot(t, m, `
section health; health
section setting; systemctl cat step-ca
section security; systemd-analyze security --no-pager bootseal.service
server() { property MainPID bootseal.service; }
descriptors() { ls /proc/1/fd | wc -l; }
pid=$(server)
before="$(mounts | wc -l) $(pgrep --count --full step-ca)"
fds=$(descriptors)
for i in $(seq 100); do systemctl reset-failed step-ca; systemctl restart step-ca || echo restart $i failed; done
section left; health
[ "$before" = "$(mounts | wc -l) $(pgrep --count --full step-ca)" ] || { mounts; pgrep --list-full --full step-ca; }
now=$(descriptors); [ $now -le $((fds + 3)) ] || echo "PID 1 had $fds descriptors and has $now"
pid=$(server)
[ "$pid" = 0 ] || { now=$(ls /proc/$pid/fd | wc -l); [ $now -lt 16 ] || ls -l /proc/$pid/fd; }
section protected
systemctl reset-failed step-ca; systemctl restart step-ca; pid=$(server)
awk '$1 == "VmLck:" { print ($2 > 0 ? "locked" : "swappable") }' /proc/$pid/status
[ -n "$(setpriv --reuid=step --clear-groups ls /proc/$pid/fd 2>/dev/null)" ] || echo closed
awk '/^Max core file size/ { print $6 }' /proc/$pid/limits
sleep 11
section idle; property ActiveState bootseal.service; property Result bootseal.service; property ActiveState bootseal.socket
`)
	story.Want(t, "health", out["health"], "ok")
	if !strings.Contains(out["setting"], "/run/bootseal/unseal.sock") {
		t.Errorf("not over the socket:\n%s", out["setting"])
	}
	story.Want(t, "after a hundred restarts", out["left"], "ok")
	story.Want(t, "memory, descriptors and core limit of the server", out["protected"], "locked\nclosed\n0")
	story.Want(t, "the server when it is idle", out["idle"], "inactive\nsuccess\nactive")
	t.Logf("measured: systemd %d: systemd-analyze security bootseal.service\n%s", m.Version, out["security"])
}

// testStrangers connects to the socket as others than PID 1 would.
func testStrangers(t *testing.T, m *machine.Machine) {
	story.Write(t, m, "/usr/bin/client", `#!/usr/bin/perl
use Socket;
socket(my $s, AF_UNIX, SOCK_STREAM, 0) or die;
bind($s, pack_sockaddr_un("\0" . $ARGV[0])) or die if $ARGV[0];
connect($s, pack_sockaddr_un("/run/bootseal/unseal.sock")) or die "no access\n";
shutdown($s, 1);
my ($all, $part) = ("", "");
$all .= $part while sysread($s, $part, 65536);
print length($all) > 1 << 20 ? "refused\n" : "got $all\n";
`, 0o755)
	strange := map[string]string{
		"name of another unit": "1/unit/step-ca.service/step-ca",
		"not in the policy":    "1/unit/peek.service/other",
		"no such unit":         "1/unit/none.service/step-ca",
		"no name":              "",
		"short":                "1/unit/step-ca.service",
		"long":                 "1/unit/step-ca.service/step-ca/x",
		"another kind":         "1/user/step-ca.service/step-ca",
		"up":                   "1/unit/../step-ca",
	}
	script := "section health; health\n"
	for name, address := range strange {
		script += "section " + name + "; systemd-run --quiet --pipe --wait --unit=peek client '" + address + "'\n"
	}
	out := story.Boot(t, m, script+`
section user; setpriv --reuid=nobody --clear-groups client 1/unit/step-ca.service/step-ca 2>&1
section again; systemctl restart step-ca && health
section journal; journalctl --unit=bootseal.service --output=cat
true
`)
	for name := range strange {
		story.Want(t, name, out[name], "refused")
	}
	story.Want(t, "another user", out["user"], "no access")
	story.Want(t, "PID 1, before and after", out["health"]+out["again"], "okok")
	story.WantContains(t, "journal of the server", out["journal"], "step-ca.service: refusing credential step-ca: the peer, process ", "refusing a connection: the peer's address")
}

// TestManyUnits starts fifty units with two credentials each at once, and some
// of them one after the other.
func TestManyUnits(t *testing.T) {
	t.Parallel()
	const count, inTurn = 50, 10
	for _, version := range []int{252, 257, 262} {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			t.Parallel()
			m := story.New(t, version)
			if err := m.InstallBootseal(); err != nil {
				t.Fatal(err)
			}
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
			withoutTSS(t, m)
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
