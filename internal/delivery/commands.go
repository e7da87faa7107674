package delivery

import (
	"fmt"
	"slices"
	"strings"

	"github.com/bootseal/bootseal/internal/contract"
	"github.com/bootseal/bootseal/internal/systemd"
	"github.com/bootseal/bootseal/policy"
	"github.com/bootseal/bootseal/units"
)

// systemd gives the credentials that it opens to ExecStart=. Which of a unit's other
// commands see them depends on its version, and on whether the unit has a mount
// namespace; what follows makes up for that.

// The settings whose commands run before ExecStart=, and after it.
var (
	condition    = []string{"ExecCondition"}
	hooks        = []string{"ExecStartPre"}
	lateCommands = []string{"ExecStartPost", "ExecReload", "ExecStop", "ExecStopPost"}
)

// unreading are programs that read no credential that their command line does not name.
var unreading = []string{"chmod", "chown", "install", "kill", "mkdir", "pkill", "podman", "rm", "sleep", "systemctl", "systemd-tmpfiles", "test", "touch", "true"}

// mayRead tells whether a command may read a credential.
func (o *order) mayRead(s units.Setting) bool {
	return o.names(s) || slices.ContainsFunc(units.Programs(s.Value), func(p units.Program) bool { return !slices.Contains(unreading, p.Name) })
}

// names tells whether a command line names the credentials.
func (o *order) names(s units.Setting) bool {
	line := o.whole.Expand(s.Value)
	return o.namesSystemds(s) || slices.ContainsFunc(variables(o.policy), func(name string) bool { return strings.Contains(line, "$"+name) || strings.Contains(line, "${"+name) })
}

// namesSystemds tells whether a value names the credentials by the path that they have
// where systemd opens them.
func (o *order) namesSystemds(s units.Setting) bool {
	return strings.Contains(strings.ReplaceAll(s.Value, "%%", ""), "%d") || strings.Contains(o.whole.Expand(s.Value), natively(o.whole.Name))
}

// natively is where systemd puts the credentials of a unit.
func natively(unit string) string { return "/run/credentials/" + unit }

// systemds is the folder of the credentials as systemd has it, and as a unit file names
// it.
func (o *order) systemds() string {
	if systemd.CredentialsSpecifier.In(o.version) {
		return "%d"
	}
	return natively("%n")
}

// folder is where all commands of the unit find the credentials that systemd opens.
func (o *order) folder() string {
	if o.readsLate() {
		return contract.Store + "/%n"
	}
	return o.systemds()
}

// find returns the first command of those settings that is such a one, or nil.
func (o *order) find(names []string, is func(units.Setting) bool) *units.Setting {
	for _, name := range names {
		list := o.whole.List("Service", name)
		if i := slices.IndexFunc(list, is); i >= 0 {
			return &list[i]
		}
	}
	return nil
}

// findMore is find for ExecStart= after its first line.
func (o *order) findMore(is func(units.Setting) bool) *units.Setting {
	first := true
	return o.find([]string{"ExecStart"}, func(s units.Setting) bool {
		later := !first
		first = false
		return later && is(s)
	})
}

// wantsHook tells why the hook serves the unit better than systemd, which could open its
// credentials itself; "" if it does not.
func (o *order) wantsHook() string {
	if !systemd.EncryptedCredentials.In(o.version) || o.policy.SharedMounts || o.find([]string{"ExecStart", "Environment"}, o.namesSystemds) != nil {
		return ""
	}
	if systemd.HookCredentials.In(o.version) {
		if systemd.FailsConditions.In(o.version) && o.own("ExecCondition") && o.find(condition, o.names) == nil {
			return fmt.Sprintf("systemd %d would take a credential that cannot be opened for an ExecCondition= that is not met", o.version)
		}
		return ""
	}
	s := o.find(slices.Concat(hooks, lateCommands), o.mayRead)
	if s == nil {
		s = o.findMore(o.mayRead)
	}
	if s == nil {
		return ""
	}
	return fmt.Sprintf("systemd %d gives no credentials of its own to the unit's %s=", o.version, s.Name)
}

// lacks returns a command that is such a one and gets no credentials by this delivery.
// It is nil where there is none.
func (o *order) lacks(delivery policy.Delivery, is func(units.Setting) bool) *units.Setting {
	if delivery == policy.Prestart || systemd.ConditionsLackCredentials.In(o.version) {
		if s := o.find(condition, is); s != nil || delivery == policy.Prestart && !o.unseen {
			return s
		}
	}
	if delivery == policy.Prestart {
		return o.find(hooks, is) // ours comes after them
	}
	if systemd.HookCredentials.In(o.version) {
		switch {
		case o.rooted():
			return o.find(lateCommands, is)
		case !o.unseen && !o.policy.SharedMounts:
			return nil // see late
		case systemd.LateCommandsLackCredentials.In(o.version):
			return o.find([]string{"ExecReload", "ExecStop", "ExecStopPost"}, is)
		case !o.policy.SharedMounts:
			return o.find(lateCommands, is)
		}
		return nil
	}
	if systemd.HooksLackCredentials.In(o.version) {
		if s := o.find(hooks, is); s != nil {
			return s
		}
	}
	if o.policy.SharedMounts {
		return nil
	}
	if s := o.find(lateCommands, is); s != nil {
		return s
	}
	return o.findMore(is)
}

// reaches refuses a unit one of whose commands names the credentials and would not see
// them by this delivery.
func (o *order) reaches(delivery policy.Delivery) error {
	s := o.lacks(delivery, o.names)
	if s == nil {
		return nil
	}
	expected := "expected it to be changed"
	if s.Name == condition[0] {
		expected = "expected it in ExecStartPre="
	} else if delivery != policy.Prestart && !systemd.HookCredentials.In(o.version) && !o.policy.SharedMounts && o.hookable() == nil {
		expected = `expected delivery = "prestart" or "auto"`
	}
	return fmt.Errorf("%s:%d: %s= names the credentials, which systemd %d does not give to it; %s", s.File, s.Line, s.Name, o.version, expected)
}

// readsLate tells whether the unit gets its credentials in another place: there they
// can be shown to the commands after ExecStart=, too.
func (o *order) readsLate() bool {
	return systemd.HookCredentials.In(o.version) && !o.unseen && !o.policy.SharedMounts && !o.rooted() && o.find(lateCommands, o.mayRead) != nil
}

// late shows the credentials to the commands after ExecStart=. From those systemd hides
// /run/credentials, but not what is bound from there to elsewhere.
func (d *dropIn) late(o *order) {
	if !o.readsLate() {
		return
	}
	d.set("TemporaryFileSystem", contract.Store+":ro,mode=0755")
	d.set("BindReadOnlyPaths", "-"+natively("%n")+":"+d.folder)
	elsewhere := strings.NewReplacer("%%", "%%", "%d", d.folder, natively("%n"), d.folder, natively(o.whole.Name), d.folder)
	for _, s := range o.unit.List("Service", "Environment") {
		if value := elsewhere.Replace(s.Value); value != s.Value {
			d.set("Environment", value)
		}
	}
	for _, name := range lateCommands {
		list := o.unit.List("Service", name)
		if !slices.ContainsFunc(list, func(s units.Setting) bool { return elsewhere.Replace(s.Value) != s.Value }) {
			continue
		}
		d.set(name, "")
		for _, s := range list {
			d.set(name, elsewhere.Replace(s.Value))
		}
	}
}

// wait has ExecStartPost= run after systemd has set up the credentials for ExecStart=.
func (d *dropIn) wait(o *order) {
	if o.races() && !o.unseen {
		d.set("Type", "exec")
	}
}

// races tells whether systemd would set up the credentials for ExecStartPost= and
// ExecStart= at a time, as with Type=simple, by which either can fail.
func (o *order) races() bool {
	kind := o.whole.Type()
	if kind == "" && o.whole.Last("Service", "BusName") == "" && !systemd.WaitsForExec.In(o.version) {
		kind = "simple"
	}
	return systemd.HookCredentials.In(o.version) && kind == "simple" && o.own("ExecStartPost")
}

// guard keeps a unit from starting without a credential where systemd would take the
// failure to open it for a success of ExecStart=.
func (d *dropIn) guard(o *order) error {
	for _, s := range o.whole.List("Service", "SuccessExitStatus") {
		for _, word := range strings.Fields(s.Value) {
			if word == "CREDENTIALS" || word == systemd.ExitCredentials {
				return fmt.Errorf("%s:%d: SuccessExitStatus=%s takes it for a success when systemd cannot open a credential; remove it there", s.File, s.Line, word)
			}
		}
	}
	s := o.find([]string{"ExecStart"}, func(s units.Setting) bool {
		return slices.ContainsFunc(units.Programs(s.Value), func(p units.Program) bool { return strings.Contains(p.Prefix, "-") })
	})
	switch {
	case s == nil:
		return nil
	case o.unseen:
		return fmt.Errorf(`%s:%d: ExecStart=- takes it for a success when systemd cannot open a credential, and nothing looks after that in a unit that another generator makes; remove the "-"`, s.File, s.Line)
	case o.rooted():
		return fmt.Errorf(`%s:%d: ExecStart=- takes it for a success when systemd cannot open a credential, and in a root directory of the unit's own nothing can look after that; remove the "-"`, s.File, s.Line)
	case systemd.CredentialsFailHooks.In(o.version):
		return fmt.Errorf(`%s:%d: ExecStart=- takes it for a success when systemd cannot load a credential; expected delivery = "prestart" or "auto"`, s.File, s.Line)
	}
	d.set("ExecStartPre", contract.VerifyCommand(o.arguments()))
	return nil
}
