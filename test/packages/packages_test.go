// Package packages tests the Debian package: how it is built, and what it does
// to a machine when it comes and goes.
package packages

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/bootseal/bootseal/test/machine"
)

const password = "correct horse battery staple"

func want(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func build(t *testing.T, version int, tarball string) []byte {
	t.Helper()
	deb, report, err := machine.BuildDeb(version, tarball, t.TempDir())
	if errors.Is(err, machine.ErrNotSetUp) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err) // lintian's errors and warnings are among them
	}
	t.Log(report)
	content, err := os.ReadFile(deb)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func TestDebian(t *testing.T) {
	tarball, err := machine.Dist(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range machine.Versions {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			t.Parallel()
			deb := build(t, version, tarball)
			t.Run("same bytes again", func(t *testing.T) {
				t.Parallel()
				if !bytes.Equal(deb, build(t, version, tarball)) {
					t.Error("a second build differs")
				}
			})
			t.Run("comes and goes", func(t *testing.T) {
				t.Parallel()
				testLife(t, version, string(deb))
			})
		})
	}
}

// testLife installs, upgrades, removes and purges the package on a machine whose
// step-ca runs all the time.
func testLife(t *testing.T, version int, deb string) {
	m, err := machine.New(version)
	if errors.Is(err, machine.ErrNotSetUp) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := m.InstallStepCA(password + "\n"); err != nil {
		t.Fatal(err)
	}
	if err := m.Write("/root/new.deb", deb, 0o644); err != nil {
		t.Fatal(err)
	}
	r, err := m.Boot(machine.Health + machine.Script + `
exec 2>&1
unit() {
	systemctl cat step-ca.service
	systemctl show -p DropInPaths -p ConditionResult -p AssertResult -p Environment -p PrivateMounts -p NotifyAccess -p LoadCredential -p LoadCredentialEncrypted -p DeviceAllow -p NeedDaemonReload step-ca.service
	systemctl show -p DropInPaths -p NeedDaemonReload dbus.service
}
files() { find /usr /lib /etc /var /run -name '*bootseal*' ! -path '*bootseal-test*' | sort; awk '$2 ~ "^/run/bootseal" { print $2 }' /proc/mounts; }
restart() { systemctl reset-failed step-ca.service; systemctl restart step-ca.service && health; }
dpkg-deb --raw-extract /root/new.deb /root/old && sed -i 's/^Version: .*/Version: 0.0.1/' /root/old/DEBIAN/control && dpkg-deb --build /root/old /root/old.deb >/dev/null || exit
health >/dev/null || exit
section unit before; unit
section files before; files
section install; dpkg -i /root/old.deb >/dev/null; echo $?
mkdir -p /etc/bootseal
cat >/etc/bootseal/step-ca.service.toml <<'END'
[[credential]]
name     = "step-ca"
option   = "--password-file"
replaces = "/etc/step-ca/password.txt"
END
bootseal encrypt --unit=step-ca.service step-ca </etc/step-ca/password.txt || exit
mv /etc/step-ca/password.txt /root/
section covered; systemctl daemon-reload; restart; property DropInPaths
pid=$(property MainPID)
section upgrade; dpkg -i /root/new.deb >/dev/null; echo $?; health; [ "$pid" = "$(property MainPID)" ] || echo restarted
section upgraded; restart; property DropInPaths; property NeedDaemonReload
pid=$(property MainPID)
section remove; dpkg --remove bootseal >/dev/null; echo $?; health; [ "$pid" = "$(property MainPID)" ] || echo restarted
section files of remove; files
section install again; dpkg -i /root/new.deb >/dev/null; echo $?; restart
section purge; dpkg --purge bootseal >/dev/null; echo $?; health
section files after; files
section unit after; mv /root/password.txt /etc/step-ca/; restart >/dev/null; unit
section kept; ls /etc/bootseal /etc/credstore.encrypted
section failed; systemctl --failed --no-legend
`)
	if err != nil {
		t.Fatal(err)
	}
	if r.Status != 0 {
		t.Fatalf("script: exit status %d\n%s", r.Status, r.Stdout)
	}
	out := machine.Sections(r.Stdout)
	const dropIn = "/run/systemd/generator/step-ca.service.d/zz-bootseal.conf"
	const mine = "/etc/bootseal"
	want(t, "files before", out["files before"], "")
	want(t, "install", out["install"], "0")
	want(t, "covered by a policy", out["covered"], "ok\n"+dropIn)
	want(t, "upgrade", out["upgrade"], "0\nok")
	want(t, "after the upgrade", out["upgraded"], "ok\n"+dropIn+"\nno")
	want(t, "remove", out["remove"], "0\nok")
	want(t, "install again", out["install again"], "0\nok")
	want(t, "purge", out["purge"], "0\nok")
	for _, file := range strings.Fields(out["files of remove"]) {
		if file != mine && !strings.HasPrefix(file, "/var/lib/dpkg/info/") {
			t.Errorf("after remove there still is %s", file)
		}
	}
	want(t, "files after", out["files after"], mine)
	want(t, "unit after", out["unit after"], out["unit before"])
	want(t, "what the administrator has made", out["kept"], "/etc/bootseal:\nstep-ca.service.toml\n\n/etc/credstore.encrypted:\nstep-ca")
	want(t, "failed units", out["failed"], "")
}
