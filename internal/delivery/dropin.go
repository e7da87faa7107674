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

// dropIn collects the lines of a drop-in.
type dropIn struct {
	folder        string // of the credentials, as a unit file has it
	unit, service []string
}

func (d *dropIn) set(name, value string) {
	d.service = append(d.service, name+"="+value)
}

// text is the whole file, made from the policy source. That is no SourcePath=, which
// "systemctl status" would show in place of the unit's own file.
func (d *dropIn) text(source string) string {
	lines := []string{contract.Heading + "# from " + source, "", "[Unit]"}
	lines = append(lines, d.unit...)
	lines = append(append(lines, "", "[Service]"), d.service...)
	return strings.Join(lines, "\n") + "\n"
}

// order is what a drop-in is made from.
type order struct {
	policy  *policy.Policy
	unit    *units.Unit // without the drop-ins that apply after ours
	whole   *units.Unit // with them
	version int         // of systemd
	unseen  bool        // another generator makes the unit: the drop-in is made without its settings
}

// renderers are the ways to put a policy into force. Each is to be read from top to
// bottom: the order of its steps is that of the lines, and of the reasons to refuse.
var renderers = map[policy.Delivery]func(*order) (string, error){
	policy.Native:   native,
	policy.Prestart: prestart,
	policy.Socket:   socket,
}

// own tells whether the unit has one of the settings itself.
func (o *order) own(names ...string) bool {
	return slices.ContainsFunc(names, func(name string) bool { return len(o.whole.List("Service", name)) > 0 })
}

// rooted tells whether the unit has a root directory of its own, where nothing of
// bootseal is.
func (o *order) rooted() bool {
	return o.whole.Last("Service", "RootDirectory") != "" || o.whole.Last("Service", "RootImage") != ""
}

// spins tells whether systemd would not come to rest with an ExecStopPost= that the unit
// has not by itself.
func (o *order) spins() bool {
	return systemd.SpinsAfterExec.In(o.version) && o.whole.Type() == "exec" && !o.own("ExecStopPost")
}

// failsHook tells whether on this systemd credentials and a hook of the unit's own do
// not go together.
func (o *order) failsHook() bool {
	return systemd.CredentialsFailHooks.In(o.version) && o.own("ExecCondition", "ExecStartPre")
}

// arguments are the credentials as words of a hook's command line.
func (o *order) arguments() []string {
	var words []string
	for _, c := range o.policy.Credentials {
		words = append(words, units.EscapeWord(contract.CredentialArgument(c.Name, c.Source)))
	}
	return words
}

// begin makes a drop-in for credentials in folder, as a unit file has it, with what all
// deliveries begin with, and returns the lines of ExecStart= that it is to end with. It
// refuses a unit that cannot be given the options or variables of the policy.
func (o *order) begin(folder string) (d *dropIn, commands []string, err error) {
	var options []units.Option
	for _, c := range o.policy.Credentials {
		if c.Option != "" {
			options = append(options, units.Option{Name: c.Option, Replaces: c.Replaces, Variable: "${" + directory + "}/" + c.Name, Plain: folder + "/" + c.Name})
		}
	}
	if commands, err = o.setOptions(options); err != nil {
		return nil, nil, err
	}
	if err := settable(o.unit, variables(o.policy)); err != nil {
		return nil, nil, err
	}
	if len(o.unit.List("Service", "ExecStart")) == 0 && o.whole.Fragment != "" {
		return nil, nil, errors.New("the unit has no ExecStart=, so nothing could use a credential")
	}
	d = &dropIn{folder: folder}
	d.checks(o.unit, o.policy.Replaced())
	d.mounts(o.policy)
	if o.policy.SharedMounts {
		return d, commands, nil
	}
	if s := o.unit.SharesMounts(); s != nil {
		return nil, nil, fmt.Errorf("%s:%d: %s=%s has the host see what the unit mounts, which the policy would end; expected private-mounts = false in the policy", s.File, s.Line, s.Name, s.Value)
	}
	d.set("PrivateMounts", "true")
	return d, commands, nil
}

// end finishes a drop-in of a unit for which systemd opens the credentials.
func (d *dropIn) end(o *order, commands []string) (string, error) {
	d.environment(o.policy)
	d.late(o)
	d.wait(o)
	if err := d.guard(o); err != nil {
		return "", err
	}
	d.explain(o)
	d.commands(commands)
	if !systemd.AllowsTPM.In(o.version) {
		d.allowTPM(o)
	}
	d.notify(o)
	return d.text(o.policy.Path), nil
}

// mounts has what the credentials are sealed in mounted before the unit starts.
func (d *dropIn) mounts(p *policy.Policy) {
	var words []string
	for _, c := range p.Credentials {
		words = append(words, units.Quote(units.EscapeSpecifiers(c.Source)))
	}
	d.unit = append(d.unit, "RequiresMountsFor="+strings.Join(words, " "))
}

// checks writes the Condition…= and Assert…= settings of u again, as if files
// were there.
func (d *dropIn) checks(u *units.Unit, files []string) {
	for _, prefix := range []string{"Condition", "Assert"} {
		// Those of the guard, which has the drop-in's name, end with it.
		own := slices.DeleteFunc(u.Checks(prefix), func(s units.Setting) bool { return path.Base(s.File) == contract.DropInName })
		rest, changed := u.WithoutFiles(own, files)
		if !changed {
			continue
		}
		d.unit = append(d.unit, prefix+"PathExists=")
		for _, s := range rest {
			d.unit = append(d.unit, s.Name+"="+s.Value)
		}
	}
}

// setOptions returns the ExecStart= lines of the unit with the options pointing to
// their credentials, after an empty one that resets them. Without options there is
// nothing to write.
func (o *order) setOptions(options []units.Option) ([]string, error) {
	if len(options) == 0 {
		return nil, nil
	}
	// A later drop-in may still say which folder relative paths are in.
	lines, err := o.whole.SetOptions(o.unit.List("Service", "ExecStart"), options)
	return append([]string{""}, lines...), err
}

// environment points the variables that the policy names at their credentials.
func (d *dropIn) environment(p *policy.Policy) {
	for _, c := range p.Credentials {
		if c.Environment != "" {
			d.set("Environment", c.Environment+"="+d.folder+"/"+c.Name)
		}
	}
}

// explain says why systemd could not open a credential, where there is something that
// can.
func (d *dropIn) explain(o *order) {
	if !o.rooted() && !o.spins() {
		d.set("ExecStopPost", contract.ExplainCommand(o.arguments()))
	}
}

// commands replaces the unit's ExecStart= lines.
func (d *dropIn) commands(lines []string) {
	for _, line := range lines {
		d.set("ExecStart", line)
	}
}

// allowTPM opens the unit's device policy for the TPM, if there is one.
func (d *dropIn) allowTPM(o *order) {
	if o.whole.RestrictsDevices() && !o.unseen {
		// Devices that the kernel does not know yet when the unit starts are not allowed.
		d.unit = append(d.unit, "Wants=modprobe@tpm.service", "After=modprobe@tpm.service")
		d.set("DeviceAllow", "char-tpm rw")
	}
}

// notify lets the helper say in "systemctl status" why the unit did not start. A
// service that has no socket for sd_notify(3) gets none by that: some behave differently
// where there is one. The helper knows where it is.
func (d *dropIn) notify(o *order) {
	u := o.whole
	if access := u.NotifyAccess(); o.unseen || access == "all" || access == "exec" || u.Sets(contract.NotifySocket) {
		return
	}
	d.set("NotifyAccess", "exec")
	if !u.Notifies() {
		d.set("UnsetEnvironment", contract.NotifySocket)
	}
}
