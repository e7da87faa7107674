package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/bootseal/bootseal/test/machine"
	"github.com/bootseal/bootseal/test/story"
)

// TestInstances has instances of one template that set what the template's
// policy is about: each keeps its own command, and none starts without its secret.
func TestInstances(t *testing.T) {
	t.Parallel()
	for _, version := range machine.Versions {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			t.Parallel()
			m := story.New(t, version)
			if err := m.InstallBootseal(); err != nil {
				t.Fatal(err)
			}
			story.Write(t, m, "/usr/bin/app", "#!/bin/sh\necho \"$*\"\nfor file; do :; done\ncat \"$file\"\necho\nexec sleep 1000\n", 0o755)
			story.Write(t, m, "/etc/app/token", "plain", 0o644)
			story.Write(t, m, "/etc/systemd/system/app@.service", "[Service]\nExecStart=/usr/bin/app %i --token /etc/app/token\nStandardOutput=file:/bootseal-test/out/%n\n", 0o644)
			story.Write(t, m, "/etc/systemd/system/app@own.service.d/override.conf", "[Service]\nExecStart=\nExecStart=/usr/bin/app %i --own\n", 0o644)
			story.Write(t, m, "/etc/systemd/system/app@naked.service.d/zzz.conf", "[Service]\nExecStart=\nExecStart=/usr/bin/app %i --token /etc/app/token\n", 0o644)
			story.Write(t, m, "/etc/bootseal/app@.service.toml", "[[credential]]\nname = \"token\"\noption = \"--token\"\n", 0o644)
			story.Boot(t, m, "printf %s sealed | bootseal encrypt --unit=app@.service token")
			out := story.Boot(t, m, `
for name in plain own naked; do
	touch /bootseal-test/out/app@$name.service
	systemctl start app@$name
	for i in $(seq 50); do grep -q sealed /bootseal-test/out/app@$name.service && break; sleep 0.1; done
	section $name; sed 's,/run/[^ ]*/token,CREDENTIAL,' /bootseal-test/out/app@$name.service
done
section status; systemctl status --full app@naked
section check; bootseal check --no-legend app@naked | grep ' bad '
section apply; bootseal apply 2>/dev/null
true
`)
			story.Want(t, "an instance without settings of its own", out["plain"], "plain --token CREDENTIAL\nsealed")
			story.Want(t, "an instance with a command of its own", out["own"], "own --own --token CREDENTIAL\nsealed")
			story.Want(t, "an instance that takes the option away", out["naked"], "")
			story.WantContains(t, "systemctl status", out["status"], "/etc/systemd/system/app@naked.service.d/zzz.conf:2")
			story.WantContains(t, "bootseal check", out["check"], "zzz.conf")
			story.WantContains(t, "bootseal apply", out["apply"], "app@own.service: nothing has changed", "app@plain.service: nothing has changed", "app@naked.service: blocked")
			if strings.Contains(out["apply"], "gone") {
				t.Errorf("bootseal apply:\n%s", out["apply"])
			}
		})
	}
}
