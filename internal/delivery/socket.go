package delivery

import (
	"fmt"

	"github.com/bootseal/bootseal/internal/contract"
	"github.com/bootseal/bootseal/internal/systemd"
)

// maxPeerNames is what is left for unit and credential of the address
// "\0" + 16 digits + "/unit/UNIT/NAME" that systemd connects from, of 108 bytes
// at most (unix(7)).
const maxPeerNames = 108 - 1 - 16 - len("/unit//")

// socket has systemd read the credentials from bootseal serve, which opens what this
// systemd cannot.
func socket(o *order) (string, error) {
	load := "LoadCredentialEncrypted"
	// The answer is sealed with the host key where systemd can open that, so that it
	// never takes one that was cut off for the secret.
	if !systemd.SealedAnswers.In(o.version) {
		load = "LoadCredential"
	}
	d, commands, err := o.begin(o.folder())
	if err != nil {
		return "", err
	}
	if o.failsHook() {
		return "", fmt.Errorf(`the unit has an ExecCondition= or ExecStartPre= of its own, which systemd %d cannot combine with delivery = "socket"; expected "prestart" or "auto"`, o.version)
	}
	d.onlyOurs(o)
	// Only wanted: without the socket the credential cannot be loaded, and a running
	// unit needs it no more.
	d.unit = append(d.unit, "Wants=bootseal.socket", "After=bootseal.socket")
	for _, c := range o.policy.Credentials {
		if len(o.unit.Name)+len(c.Name) > maxPeerNames {
			return "", fmt.Errorf("the names of the unit and of credential %s have more than %d characters together, which is too much for delivery over the socket", c.Name, maxPeerNames)
		}
		d.set(load, c.Name+":"+contract.SocketPath)
	}
	return d.end(o, commands)
}
