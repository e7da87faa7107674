package delivery

import (
	"github.com/bootseal/bootseal/internal/systemd"
	"github.com/bootseal/bootseal/units"
)

// natively is $CREDENTIALS_DIRECTORY where systemd makes it, as a unit file has it.
//
// systemd.CredentialsSpecifier says that 250 does not know %d yet; so far the drop-ins
// have it there, too.
const natively = "%d"

// native has systemd open the credentials itself, systemd.exec(5).
func native(o *order) (string, error) {
	d, commands, err := o.begin(natively)
	if err != nil {
		return "", err
	}
	d.onlyOurs(o.unit, o.policy, natively)
	for _, c := range o.policy.Credentials {
		d.set("LoadCredentialEncrypted", c.Name+":"+units.EscapeSpecifiers(c.Source))
	}
	d.environment(o.policy, natively)
	d.explain(o)
	d.commands(commands)
	if !systemd.AllowsTPM.In(o.version) {
		d.allowTPM(o.whole)
	}
	d.notify(o.unit)
	return d.text(o.policy.Path, o.unit), nil
}
