package delivery

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/internal/systemd"
	"github.com/bootseal/bootseal/policy"
)

// choose follows the generations of systemd, what the blobs ask for, and which of the
// unit's commands may need them. It says why it is this one.
func (pl *Planner) choose(o *order) (_ policy.Delivery, why string, err error) {
	p, fits := o.policy, policy.Prestart
	why = fmt.Sprintf("systemd %d cannot open encrypted credentials, which takes %d", pl.version, systemd.EncryptedCredentials.From)
	var socketOnly error // why systemd itself cannot open the blobs
	switch {
	case !systemd.Supported.In(pl.version):
		return "", "", fmt.Errorf("systemd %d is too old; at least %d is needed", pl.version, systemd.Supported.From)
	case systemd.EncryptedCredentials.In(pl.version):
		fits = policy.Native
		why = fmt.Sprintf("systemd %d opens the credentials itself", pl.version)
	}
	for _, c := range p.Credentials {
		var blob *credential.Blob
		// One that is missing may be there when the unit starts, or else the
		// unit says so.
		if !pl.automount(c.Source) {
			if blob, err = policy.ReadBlob(pl.dir, p, c); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return "", "", err
			}
		}
		if err := pl.opens(blob, p.Seal); err != nil && fits != policy.Prestart {
			fits, socketOnly = policy.Socket, fmt.Errorf("credential %s, %s: %w", c.Name, c.Source, err)
			why = socketOnly.Error()
		}
	}
	switch {
	case p.Delivery == policy.Auto:
		if why := o.wantsHook(); why != "" && o.hookable() == nil {
			return policy.Prestart, why, nil
		}
		return fits, why, nil
	case p.Delivery == fits:
		return fits, why, nil
	case p.Delivery == policy.Prestart && !systemd.HookCredentials.In(pl.version):
		return policy.Prestart, "the policy says so", nil
	case p.Delivery == policy.Socket && systemd.LoadsCredentials.In(pl.version):
		return policy.Socket, "the policy says so", nil
	case p.Delivery == policy.Native && socketOnly != nil:
		return "", "", fmt.Errorf(`delivery = "native" cannot work: %w; expected "socket" or "auto"`, socketOnly)
	case p.Delivery == policy.Native:
		return "", "", fmt.Errorf(`delivery = "native" needs systemd %d, this is %d; expected "prestart" or "auto"`, systemd.EncryptedCredentials.From, pl.version)
	case p.Delivery == policy.Prestart:
		return "", "", fmt.Errorf(`delivery = "prestart" ends with systemd %d, this is %d; expected "socket" or "auto"`, systemd.HookCredentials.From-1, pl.version)
	}
	return "", "", fmt.Errorf(`delivery = "socket" needs systemd %d, this is %d; expected "prestart" or "auto"`, systemd.LoadsCredentials.From, pl.version)
}

// opens tells why PID 1 itself cannot open the blob. One that is not there yet
// (nil) will be what the policy says.
func (pl *Planner) opens(blob *credential.Blob, seal policy.Seal) error {
	tpm2 := seal.Key != policy.KeyHost && seal.Key != policy.KeyNull
	if blob != nil {
		tpm2 = blob.Type.NeedsTPM2()
		if since := blob.Since(); since > pl.version {
			return fmt.Errorf("systemd %d cannot open a credential of this kind (%s), which needs %d", pl.version, blob.Type, since)
		}
	}
	if !tpm2 {
		return nil
	}
	if err := pl.tpm2(); err != nil {
		return fmt.Errorf("systemd cannot unseal it: %w", err)
	}
	return nil
}

// unsealsTPM2 tells why PID 1 cannot use a TPM, whatever the blob.
func (pl *Planner) unsealsTPM2() error {
	missing, err := systemd.TPM2Libraries(pl.dir)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		return fmt.Errorf("%s is not installed", strings.Join(missing, ", "))
	}
	if pl.assumeTPM2 {
		return nil
	}
	built, err := systemd.BuiltWithTPM2(pl.dir)
	if err == nil && !built {
		err = errors.New("it was built without TPM2 support")
	}
	return err
}
