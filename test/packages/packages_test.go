// Package packages tests the packages: how they are built, and what they do to a
// machine when they come and go.
package packages

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/bootseal/bootseal/test/machine"
	"github.com/bootseal/bootseal/test/story"
)

func read(t *testing.T, file string) []byte {
	t.Helper()
	content, err := os.ReadFile(file)
	story.Must(t, err)
	return content
}

// A manager is how a package comes and goes.
type manager struct {
	install, remove, purge string
	files                  string // lists those of the package
	licenses               string // where they are
}

func TestDebian(t *testing.T) {
	t.Parallel()
	for _, version := range machine.Sample(t, machine.DebVersions, 247, 257) {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			t.Parallel()
			file, report, err := machine.Deb(version)
			story.Must(t, err) // lintian's errors and warnings are among them
			t.Log(report)
			deb := read(t, file)
			t.Run("comes and goes", func(t *testing.T) {
				t.Parallel()
				m := story.New(t, version)
				story.Must(t, m.Write("/root/new", string(deb), 0o644))
				const older = `set -e
dpkg-deb --raw-extract "$1"/new "$1"/tree
sed -i 's/^Version: .*/Version: 0.0.1/' "$1"/tree/DEBIAN/control
dpkg-deb --build "$1"/tree "$1"/old
`
				out, err := exec.Command("sh", "-c", older, "sh", m.Path("/root")).CombinedOutput()
				if err != nil {
					t.Fatalf("making an older package: %v: %s", err, out)
				}
				testLife(t, m, manager{"dpkg -i", "dpkg --remove bootseal", "dpkg --purge bootseal", "dpkg -L bootseal", "/usr/share/doc/bootseal"})
			})
		})
	}
}

// TestSameBytes builds the package of Debian once more, as TestReproducible of test/build
// does with what is in it.
func TestSameBytes(t *testing.T) {
	t.Parallel()
	machine.OnlyAll(t)
	for _, version := range machine.DebVersions {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			t.Parallel()
			first, _, err := machine.Deb(version)
			story.Must(t, err)
			tarball, err := machine.Dist()
			story.Must(t, err)
			second, _, err := machine.BuildDeb(version, tarball, t.TempDir())
			story.Must(t, err)
			if !bytes.Equal(read(t, first), read(t, second)) {
				t.Error("a second build differs")
			}
		})
	}
}

// TestOthers takes a Debian machine for one of Fedora, by the macros that
// [machine.RPM] knows, and of Arch Linux, by the hooks that systemd's package
// has there.
func TestOthers(t *testing.T) {
	t.Parallel()
	const (
		version  = 257 // of the tree that has the tools for both
		licenses = "/usr/share/licenses/bootseal"
		hook     = "[Trigger]\nType = Path\nOperation = Install\nOperation = Upgrade\nOperation = Remove\nTarget = %s\n[Action]\nWhen = PostTransaction\nExec = %s\n"
	)
	for name, c := range map[string]struct {
		build func(version int) ([2]string, error)
		manager
	}{
		"Fedora": {machine.RPM, manager{"rpm -U --nodeps", "rpm -e bootseal", "rpm -e bootseal", "rpm -ql bootseal", licenses}},
		"Arch":   {machine.Arch, manager{"pacman -U --noconfirm --nodeps --nodeps", "pacman -R --noconfirm bootseal", "pacman -R --noconfirm bootseal", "pacman -Qlq bootseal", licenses}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			packages, err := c.build(version)
			story.Must(t, err)
			m := story.New(t, version, fmt.Sprint("build-", version))
			for path, content := range map[string]string{
				"/root/old":                         string(read(t, packages[0])),
				"/root/new":                         string(read(t, packages[1])),
				"/etc/pacman.d/hooks/reload.hook":   fmt.Sprintf(hook, "usr/lib/systemd/system/*", "/bin/systemctl daemon-reload"),
				"/etc/pacman.d/hooks/tmpfiles.hook": fmt.Sprintf(hook, "usr/lib/tmpfiles.d/*.conf", "/bin/systemd-tmpfiles --create"),
			} {
				story.Must(t, m.Write(path, content, 0o644))
			}
			testLife(t, m, c.manager)
		})
	}
}

// testLife installs the package /root/old, upgrades it to /root/new, removes and
// purges it on a machine whose step-ca runs all the time.
func testLife(t *testing.T, m *machine.Machine, with manager) {
	story.Must(t, m.InstallStepCA(story.Password+"\n"))
	r, err := m.Boot(machine.Health + machine.Script + `
exec 2>&1
unit() {
	systemctl cat step-ca.service
	systemctl show -p DropInPaths -p ConditionResult -p AssertResult -p Environment -p PrivateMounts -p NotifyAccess -p LoadCredential -p LoadCredentialEncrypted -p DeviceAllow -p NeedDaemonReload step-ca.service
	systemctl show -p DropInPaths -p NeedDaemonReload dbus.service
}
files() { find /usr /lib /etc /var /run -name '*bootseal*' ! -path '*bootseal-test*' | sort; awk '$2 ~ "^/run/bootseal" { print $2 }' /proc/mounts; }
restart() { systemctl reset-failed step-ca.service; systemctl restart step-ca.service && health; }
health >/dev/null || exit
section unit before; unit
section files before; files
section install; ` + with.install + ` /root/old >/dev/null; echo $?
section files; ` + with.files + `
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
section upgrade; ` + with.install + ` /root/new >/dev/null; echo $?; health; [ "$pid" = "$(property MainPID)" ] || echo restarted
section upgraded; restart; property DropInPaths; property NeedDaemonReload
pid=$(property MainPID)
section remove; ` + with.remove + ` >/dev/null; echo $?; health; [ "$pid" = "$(property MainPID)" ] || echo restarted
section files of remove; files
section install again; ` + with.install + ` /root/new >/dev/null; echo $?; restart
section purge; ` + with.purge + ` >/dev/null; echo $?; health
section files after; files
section unit after; mv /root/password.txt /etc/step-ca/; restart >/dev/null; unit
section kept; ls /etc/bootseal /etc/credstore.encrypted
section failed; systemctl --failed --no-legend
`)
	story.Must(t, err)
	if r.Status != 0 {
		t.Fatalf("script: exit status %d\n%s", r.Status, r.Stdout)
	}
	out := machine.Sections(r.Stdout)
	const dropIn = "/run/systemd/generator/step-ca.service.d/zz-bootseal.conf"
	const mine = "/etc/bootseal"
	story.Want(t, "files before", out["files before"], "")
	story.Want(t, "install", out["install"], "0")
	checkFiles(t, out["files"], with.licenses)
	story.Want(t, "covered by a policy", out["covered"], "ok\n"+dropIn)
	story.Want(t, "upgrade", out["upgrade"], "0\nok")
	story.Want(t, "after the upgrade", out["upgraded"], "ok\n"+dropIn+"\nno")
	story.Want(t, "remove", out["remove"], "0\nok")
	story.Want(t, "install again", out["install again"], "0\nok")
	story.Want(t, "purge", out["purge"], "0\nok")
	for _, file := range strings.Fields(out["files of remove"]) {
		if file != mine && !strings.HasPrefix(file, "/var/lib/dpkg/info/") {
			t.Errorf("after remove there still is %s", file)
		}
	}
	story.Want(t, "files after", out["files after"], mine)
	story.Want(t, "unit after", out["unit after"], out["unit before"])
	story.Want(t, "what the administrator has made", out["kept"], "/etc/bootseal:\nstep-ca.service.toml\n\n/etc/credstore.encrypted:\nstep-ca")
	story.Want(t, "failed units", out["failed"], "")
}

// checkFiles holds the list of a package's files against what it should bring.
func checkFiles(t *testing.T, list, licenses string) {
	t.Helper()
	has := map[string]bool{}
	for _, file := range strings.Fields(list) {
		// Where /lib still has a name of its own it is the same folder.
		has["/usr/"+strings.TrimPrefix(strings.TrimSuffix(strings.TrimPrefix(file, "/usr"), ".gz"), "/")] = true
	}
	var missing []string
	for _, file := range []string{
		"/usr/bin/bootseal",
		"/usr/lib/systemd/system-generators/bootseal-generator",
		"/usr/lib/systemd/system/bootseal-cleanup@.service",
		"/usr/lib/systemd/system/bootseal.service",
		"/usr/lib/systemd/system/bootseal.socket",
		"/usr/lib/systemd/system/service.d/zz-bootseal.conf",
		"/usr/lib/tmpfiles.d/bootseal.conf",
		"/usr/share/bash-completion/completions/bootseal",
		"/usr/share/fish/vendor_completions.d/bootseal.fish",
		"/usr/share/zsh/site-functions/_bootseal",
		"/usr/share/doc/bootseal/README.md",
		"/usr/share/doc/bootseal/examples/step-ca.service.toml",
		"/usr/share/man/man1/bootseal.1",
		"/usr/share/man/man5/bootseal.policy.5",
		"/usr/share/man/man7/bootseal-security.7",
		"/usr/share/man/man8/bootseal-generator.8",
		"/usr/share/man/man8/bootseal-unseal.8",
		licenses + "/copyright", // of the modules, too
	} {
		if !has[file] {
			missing = append(missing, file)
		}
	}
	if missing != nil {
		t.Errorf("the package has not\n%s\nbut\n%s", strings.Join(missing, "\n"), list)
	}
}
