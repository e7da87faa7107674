package contract

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/bootseal/bootseal/internal/root/roottest"
	"github.com/bootseal/bootseal/policy"
)

// TestInstalled holds the files that are installed against the contract.
func TestInstalled(t *testing.T) {
	for file, want := range map[string]string{
		"bootseal.socket":       "\nListenStream=" + SocketPath + "\n",
		"bootseal.tmpfiles":     " " + Store + " ",
		CleanupTemplate + ".in": "/bootseal " + Cleanup + " --unit=%i\n",
	} {
		text, err := os.ReadFile("../../units/" + file)
		if err != nil || !strings.Contains(string(text), want) {
			t.Errorf("%s: %v; want %q in it", file, err, want)
		}
	}
	build, err := os.ReadFile("../../meson.build")
	if err != nil || !strings.Contains(string(build), "/internal/contract.HelperPath=") {
		t.Errorf("meson.build does not set HelperPath: %v", err)
	}
}

// TestGuard: no unit that has anything by the name of a policy starts by the installed
// drop-in alone, whatever that is and in whichever folder.
func TestGuard(t *testing.T) {
	text, err := os.ReadFile("../../units/" + DropInName)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{"[Unit]": true}
	for _, folder := range policy.Dirs {
		for _, name := range []string{"%n", "%p@.service"} {
			// The first follows links, and takes one that leads nowhere for nothing.
			want["AssertPathExists=!"+folder+"/"+name+".toml"] = true
			want["AssertPathIsSymbolicLink=!"+folder+"/"+name+".toml"] = true
		}
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		if !want[line] {
			t.Errorf("%q is not expected", line)
		}
		delete(want, line)
	}
	for line := range want {
		t.Errorf("there is no %q", line)
	}
}

func TestCommands(t *testing.T) {
	credentials := []string{CredentialArgument("a", "/b"), CredentialArgument("c", "/d:e")}
	for want, got := range map[string]string{
		"+/usr/bin/bootseal unseal --unit=%n a:/b c:/d:e":                        UnsealCommand("", false, credentials),
		"+/usr/bin/bootseal unseal --unit=%n --user=ca --allow-null a:/b c:/d:e": UnsealCommand("ca", true, credentials),
		"+/usr/bin/bootseal cleanup --unit=%n":                                   CleanupCommand(),
		"-+/usr/bin/bootseal explain --unit=%n a:/b c:/d:e":                      ExplainCommand(credentials),
		"+/usr/bin/bootseal verify --unit=%n a:/b c:/d:e":                        VerifyCommand(credentials),
		`+/usr/bin/bootseal refuse "it is so"`:                                   RefuseCommand(`"it is so"`),
	} {
		if got != want {
			t.Errorf("%s; want %s", got, want)
		}
	}
	if name, source, given := CutCredential(credentials[1]); name != "c" || source != "/d:e" || !given {
		t.Errorf("%q, %q, %v", name, source, given)
	}
	if name, source, given := CutCredential("a"); name != "a" || source != "" || given {
		t.Errorf("%q, %q, %v", name, source, given)
	}
}

func TestHookStatus(t *testing.T) {
	for status, want := range map[int]bool{0: false, 1: true, 2: true, 3: false, 63: false, 64: true, 86: true, 87: false, 143: false, 200: true, 243: true} {
		if HookStatus(status) != want {
			t.Errorf("%d: %v", status, !want)
		}
	}
}

func TestDropIn(t *testing.T) {
	const native = Heading + "\n[Unit]\n\n[Service]\nPrivateMounts=true\nLoadCredentialEncrypted=a:/a\n"
	dir := roottest.Tree(t, map[string]string{
		Generated + "/a.service.d/" + DropInName:       native,
		Generated + "/b.service.d/" + DropInName:       Heading + "\n[Unit]\n\n[Service]\nLoadCredential=a:" + SocketPath + "\n",
		Generated + "/blocked.service.d/" + DropInName: Heading + "\n[Unit]\n\n[Service]\nExecStartPre=+/usr/bin/bootseal refuse no\n",
		Generated + "/masked.service.d/" + DropInName:  Heading + "# masked\n",
		Generated + "/foreign.service.d/other.conf":    native,
		Generated + "/data.mount.d/" + DropInName:      native,
		Generated + "/plain.service":                   native,
	})
	for unit, want := range map[string]Answer{"a.service": SealedAnswer, "b.service": PlainAnswer, "blocked.service": NoAnswer, "masked.service": NoAnswer} {
		d, err := ReadDropIn(dir, unit, DropInName)
		if err != nil || d.Answer() != want {
			t.Errorf("%s: %v, %v; want %v", unit, d.Answer(), err, want)
		}
	}
	for text, want := range map[DropIn]bool{"\n[Service]\nNotifyAccess=exec\nUnsetEnvironment=NOTIFY_SOCKET\n": true, "\n[Service]\nNotifyAccess=exec\n": false} {
		if text.HidesNotifySocket() != want {
			t.Errorf("%q hides the socket: %v", text, !want)
		}
	}
	if _, err := ReadDropIn(dir, "foreign.service", DropInName); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a drop-in that is not there: %v", err)
	}
	if got, want := Settled(dir), []string{"a.service", "b.service", "blocked.service"}; !slices.Equal(got, want) {
		t.Errorf("settled: %q; want %q", got, want)
	}
	if got := Settled(roottest.Tree(t, nil)); got != nil {
		t.Errorf("settled where no generator ran: %q", got)
	}
}
