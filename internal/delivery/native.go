package delivery

import (
	"fmt"
	"strings"

	"github.com/bootseal/bootseal/internal/systemd"
	"github.com/bootseal/bootseal/units"
)

// native has systemd open the credentials itself, systemd.exec(5).
func native(o *order) (string, error) {
	d, commands, err := o.begin(o.folder())
	if err != nil {
		return "", err
	}
	d.onlyOurs(o)
	for _, c := range o.policy.Credentials {
		if systemd.UnquotesSources.In(o.version) && strings.ContainsAny(c.Source, " \\") {
			return "", fmt.Errorf(`source %s has a blank or backslash, and systemd %d would open another file; expected one without, or delivery = "socket"`, c.Source, o.version)
		}
		d.set("LoadCredentialEncrypted", c.Name+":"+units.EscapeSpecifiers(c.Source))
	}
	return d.end(o, commands)
}
