package delivery

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/bootseal/bootseal/internal/contract"
	"github.com/bootseal/bootseal/internal/systemd"
	"github.com/bootseal/bootseal/policy"
	"github.com/bootseal/bootseal/units"
)

// prestart has a hook put the plaintext on a ramfs below contract.Store, which only
// root can enter, and binds it to where the unit looks for it. The hook runs before the
// ExecStartPre= of the unit, for which it makes the credentials available, too; its own
// namespace lacks the ramfs, hence the "-". When the unit stops, its ExecStopPost= takes
// the plaintext away, and another unit does where that is not there or cannot be run.
func prestart(o *order) (string, error) {
	folder := contract.Store + "/%n"
	if systemd.BindsBelowRunCredentials.In(o.version) {
		folder = "/run/credentials/%n"
	}
	d, commands, err := o.begin(folder)
	if err != nil {
		return "", err
	}
	if o.policy.SharedMounts {
		return "", errors.New("private-mounts = false: the hook shows the unit its credentials by a mount of its own" + o.instead())
	}
	if err := o.hookable(); err != nil {
		return "", err
	}
	if err := contract.CheckCleanup(o.unit.Name); err != nil {
		return "", err
	}
	d.unit = append(d.unit, "Wants="+contract.WantsCleanup)
	d.set("TemporaryFileSystem", path.Dir(folder)+":ro,mode=0755")
	d.set("BindReadOnlyPaths", "-"+contract.Store+"/%n:"+folder)
	d.set("Environment", directory+"="+folder)
	before := o.unit.List("Service", "ExecStartPre")
	if o.unseen {
		before = nil // those that are not known would be lost
	}
	if len(before) > 0 {
		d.set("ExecStartPre", "")
	}
	user := o.whole.Last("Service", "User")
	if user != "" {
		user = units.Quote(user)
	}
	d.set("ExecStartPre", contract.UnsealCommand(user, o.policy.Seal.Key == policy.KeyNull, o.arguments()))
	for _, s := range before {
		if !units.Skips(s.Value) {
			d.set("ExecStartPre", s.Value)
		}
	}
	if !o.spins() {
		d.set("ExecStopPost", contract.CleanupCommand())
	}
	d.environment(o.policy)
	d.commands(commands)
	d.allowTPM(o)
	d.notify(o)
	return d.text(o.policy.Path), nil
}

// hookable refuses units in which the hook cannot run, or whose start does not depend
// on it.
func (o *order) hookable() error {
	instead := o.instead()
	switch {
	case o.rooted():
		return errors.New("the unit has a root directory of its own, in which the hook cannot run" + instead)
	case slices.ContainsFunc(o.whole.List("Service", "TemporaryFileSystem"), hidesAll):
		return errors.New("the unit has a TemporaryFileSystem= in place of /, in which the hook cannot run" + instead)
	}
	if status := o.whole.TakesForSuccess(contract.HookStatus); status != "" {
		if status == systemd.ExitCredentials || status == "CREDENTIALS" {
			instead = ""
		}
		return fmt.Errorf("the unit has SuccessExitStatus=%s, by which it would start although the hook has failed%s", status, instead)
	}
	if systemd.LoadsCredentials.In(o.version) && o.own("LoadCredential", "SetCredential") {
		return fmt.Errorf("the unit has a LoadCredential= or SetCredential= of its own, which systemd %d cannot combine with the hook%s", o.version, instead)
	}
	return nil
}

// instead is the end of a refusal of the hook: what works in its place.
func (o *order) instead() string {
	if systemd.LoadsCredentials.In(o.version) && !o.failsHook() {
		return `; delivery = "socket" works`
	}
	return ""
}

// hidesAll tells whether a TemporaryFileSystem= stands in place of /.
func hidesAll(s units.Setting) bool {
	return slices.ContainsFunc(strings.Fields(s.Value), func(word string) bool { return word == "/" || strings.HasPrefix(word, "/:") })
}
