package delivery

import (
	"cmp"
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

// unseen is for a unit that has no file here, for the reason given: another generator
// may make it, at the same time. It refuses a policy for which the unit's own settings
// would have to be known. The unit that it returns has what drop-ins set, in any case.
func (pl *Planner) unseen(p *policy.Policy, reason error) (*units.Unit, error) {
	u, err := pl.tree.Unseen(p.Unit)
	if err != nil {
		return nil, err
	}
	for _, c := range p.Credentials {
		key := "replaces"
		switch {
		case c.Option != "":
			key = "option"
		case c.Replaces == "":
			continue
		}
		maker := cmp.Or(pl.maker(p.Unit), "if another generator makes it, it is not there yet")
		return u, fmt.Errorf("%w; %s, and what is not there yet cannot be changed by the %s of credential %s: expected a policy without", reason, maker, key, c.Name)
	}
	return u, nil
}

// maker tells which generator makes a unit, and what its own files can do; "" if that
// is not known.
func (pl *Planner) maker(unit string) string {
	name := strings.TrimSuffix(unit, ".service")
	names := []string{name}
	if template, instance, _ := strings.Cut(name, "@"); instance != "" {
		names = append(names, template+"@")
	}
	for _, folder := range []string{"/etc/containers/systemd", "/run/containers/systemd", "/usr/local/share/containers/systemd", "/usr/share/containers/systemd"} {
		for _, name := range names {
			for _, kind := range []string{".container", ".kube"} {
				if file := path.Join(folder, name+kind); pl.dir.IsFile(file) {
					return fmt.Sprintf("podman makes it from %s, which can itself name the credential below %%d, or have Secret= or [Service] LoadCredentialEncrypted=", file)
				}
			}
		}
	}
	if systemd.RunsScripts.In(pl.version) {
		for _, file := range []string{"/etc/init.d/" + name, "/etc/init.d/" + name + ".sh"} {
			if pl.dir.IsFile(file) {
				return "systemd makes it from " + file
			}
		}
	}
	return ""
}

// suits refuses what a drop-in that is made without the unit's own settings does not
// do for it, though the unit needs it.
func (o *order) suits(delivery policy.Delivery) error {
	if !o.unseen {
		return nil
	}
	for _, s := range o.whole.List("Service", "SetCredential", "SetCredentialEncrypted") {
		if delivery != policy.Prestart && isCredential(o.whole, s, o.policy) {
			return fmt.Errorf("%s:%d: %s=%s would take the place of a blob that is missing; remove it there", s.File, s.Line, s.Name, s.Value)
		}
	}
	key := o.policy.Seal.Key
	allows := slices.ContainsFunc(o.whole.List("Service", "DeviceAllow"), func(s units.Setting) bool { return strings.HasPrefix(s.Value, "char-tpm") })
	if key != policy.KeyHost && key != policy.KeyNull && !systemd.AllowsTPM.In(o.version) && o.whole.RestrictsDevices() && !allows {
		return errors.New("a PrivateDevices=, DevicePolicy= or DeviceAllow= of the unit, which another generator makes, shuts out the TPM; expected DeviceAllow=char-tpm rw in a drop-in of it, too")
	}
	return nil
}

// Made loads a unit that another generator made, after that; the error is
// units.ErrNotFound where none did.
func (pl *Planner) Made(name string) (*units.Unit, error) {
	tree, err := pl.after()
	if err != nil {
		return nil, err
	}
	return tree.Load(name)
}

// Review looks at a plan again that was made without its unit, which is known now. It
// tells what may be otherwise than expected, and with an error what keeps the unit from
// getting its credentials by it.
func (pl *Planner) Review(p *policy.Policy, plan Plan, u *units.Unit) (notes []string, err error) {
	if u.Name != p.Unit {
		return nil, fmt.Errorf("%s is an alias of %s; name the policy after that", p.Unit, u.Name)
	}
	before, after := u.Around(contract.DropInName)
	o := &order{policy: p, unit: before, whole: u, version: pl.version, unseen: true}
	if _, err := pl.render(o, plan.Delivery, after); err != nil {
		return nil, err
	}
	notes = o.notes(plan.Delivery)
	if plan.Delivery != policy.Prestart && o.races() {
		notes = append(notes, "with Type=simple systemd sets up the credentials for ExecStart= and ExecStartPost= at a time, by which either can fail; expected Type=exec")
	}
	if o.spins() {
		notes = append(notes, fmt.Sprintf("with Type=exec systemd %d may not come to rest when ExecStart= cannot be executed, as the drop-in has an ExecStopPost=; expected another Type=", o.version))
	}
	return notes, nil
}
