package e2e

import (
	"fmt"
	"testing"

	"github.com/bootseal/bootseal/test/machine"
	"github.com/bootseal/bootseal/test/story"
)

// TestLog looks for what the generator says when systemd runs it, with
// /dev/null for its standard error. A container has no kernel log, and its
// journal begins after the boot's generators.
func TestLog(t *testing.T) {
	t.Parallel()
	for _, version := range machine.Versions {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			t.Parallel()
			m := story.New(t, version)
			if err := m.InstallBootseal(); err != nil {
				t.Fatal(err)
			}
			story.Write(t, m, story.Policy, "[[credential]]\nnme = \"a\"\n", 0o644)
			out := story.Boot(t, m, `
systemctl daemon-reload
journalctl --sync
section log; journalctl --boot --identifier=bootseal-generator --output=cat
section priority; journalctl --boot --identifier=bootseal-generator --output=verbose | grep -o PRIORITY=.
`)
			story.WantContains(t, "log", out["log"], "blocking step-ca.service: "+story.Policy+": credential[0].nme: unknown key")
			story.Want(t, "priority", out["priority"], "PRIORITY=3")
		})
	}
}
