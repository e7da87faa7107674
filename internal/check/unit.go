package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bootseal/bootseal/internal/contract"
	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/internal/delivery"
	"github.com/bootseal/bootseal/internal/encryption"
	"github.com/bootseal/bootseal/internal/failure"
	"github.com/bootseal/bootseal/internal/manager"
	"github.com/bootseal/bootseal/internal/plaintext"
	"github.com/bootseal/bootseal/internal/root"
	"github.com/bootseal/bootseal/internal/sealing"
	"github.com/bootseal/bootseal/internal/tpm"
	"github.com/bootseal/bootseal/policy"
	"github.com/bootseal/bootseal/units"
)

// soon is how long before its end a credential is told to expire.
const soon = 30 * 24 * time.Hour

// unit checks what belongs to one policy.
func (c *checking) unit(file policy.File) {
	add := func(check string, v verdict, found, remedy string) {
		c.add(finding{unit: file.Unit, check: check, verdict: v, found: found, remedy: remedy})
	}
	if file.Masked {
		add("policy", note, file.Path+" masks it", "rm "+file.Path)
		return
	}
	p, err := policy.Load(root.Dir("/"), file)
	if err != nil {
		add("policy", badOrUnknown(err), err.Error(), remedyForPolicy(err))
		return
	}
	add("policy", good, file.Path, "")
	var u *units.Unit
	if c.noSystem != nil {
		add("unit", unknown, c.noSystem.Error(), "")
	} else {
		u = c.installed(file, p, add)
	}
	for _, cred := range p.Credentials {
		c.credential(p, cred, u)
	}
}

// installed checks the unit, and what the generator makes of its policy.
func (c *checking) installed(file policy.File, p *policy.Policy, add func(string, verdict, string, string)) *units.Unit {
	u, err := c.planner.Load(file.Unit)
	unseen := errors.Is(err, units.ErrNotFound)
	if unseen {
		u, err = c.planner.Made(file.Unit)
	}
	switch {
	case errors.Is(err, units.ErrNotFound):
		add("unit", bad, err.Error(), "rm "+file.Path)
		return nil
	case errors.Is(err, units.ErrMasked):
		add("unit", bad, err.Error(), "systemctl unmask "+file.Unit)
		return nil
	case err != nil:
		add("unit", badOrUnknown(err), err.Error(), "systemd-analyze verify "+file.Unit)
		return nil
	}
	plan := c.planner.Plan(file)
	found, notes := u.Fragment, plan.Notes()
	if unseen {
		found += ", which another generator made"
		if plan.Err == nil {
			notes, err = c.planner.Review(p, plan, u)
		}
	}
	if err != nil {
		add("unit", bad, found+": "+err.Error(), "systemctl cat "+file.Unit)
	} else {
		add("unit", good, found, "")
	}
	c.delivered(file, plan, notes, add)
	dumps, limited, where := coreDumps("/")
	switch {
	case !dumps:
		add("core dumps", good, where, "")
	case limited && u.Last("Service", "LimitCORE") == "0":
		add("core dumps", good, "LimitCORE=0", "")
	case limited:
		add("core dumps", note, "a crash leaves the unit's memory, secrets included, in "+where, "systemctl edit "+file.Unit+" # [Service] LimitCORE=0")
	default:
		add("core dumps", note, "a crash leaves the unit's memory, secrets included, in "+where+", whatever its LimitCORE=", "sysctl kernel.core_pattern='|/bin/false'")
	}
	return u
}

// delivered checks how the credentials reach the unit.
func (c *checking) delivered(file policy.File, plan delivery.Plan, notes []string, add func(string, verdict, string, string)) {
	switch {
	case errors.Is(plan.Err, fs.ErrPermission):
		add("delivery", unknown, plan.Err.Error(), "")
		return
	case plan.Err != nil:
		add("delivery", bad, plan.Err.Error(), "bootseal preview "+file.Unit)
	default:
		add("delivery", good, fmt.Sprintf("%s: %s", plan.Delivery, plan.Why), "")
	}
	for _, text := range notes {
		add("unit", note, text, "")
	}
	switch plan.Delivery {
	case policy.Socket:
		c.needs.hostMade = true
		v, found, remedy := c.ours("bootseal.socket", "bootseal.service")
		add("server", v, found, remedy)
	case policy.Prestart:
		v, found, remedy := c.ours(contract.CleanupTemplate)
		add("cleanup", v, found, remedy)
	}
	for _, d := range plan.DropIns {
		name := contract.DropInPath(d.Unit, d.Name)
		text, err := contract.ReadDropIn("/", d.Unit, d.Name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			add("drop-in", bad, name+" is not there", "systemctl daemon-reload")
		case err != nil:
			add("drop-in", unknown, err.Error(), "")
		case string(text) != d.Text:
			add("drop-in", bad, name+" is older than the policy, the unit or the blobs", "systemctl daemon-reload")
		default:
			add("drop-in", good, name, "")
		}
	}
}

// ours looks for units that belong to bootseal, of which the first stands for all.
func (c *checking) ours(names ...string) (_ verdict, found, remedy string) {
	for _, name := range names {
		switch err := c.planner.Installed(name); {
		case errors.Is(err, units.ErrMasked):
			return bad, err.Error(), "systemctl unmask " + name
		case err != nil:
			return badOrUnknown(err), err.Error() + "; install bootseal again", ""
		}
	}
	return good, names[0], ""
}

// left looks for plaintext in memory that is of no use to its unit any more. The unit
// may have lost its policy since, or be gone itself.
func (c *checking) left(names []string) {
	add := func(check string, v verdict, unit, found, remedy string) {
		c.add(finding{unit: unit, check: check, verdict: v, found: found, remedy: remedy})
	}
	stored, err := plaintext.List()
	stored = slices.DeleteFunc(stored, func(s plaintext.Stored) bool { return !policy.Named(names, s.Unit) })
	if err == nil && len(stored) == 0 {
		return
	}
	var m *manager.Manager
	if err == nil {
		m, err = manager.New(context.Background())
	}
	if err != nil {
		add("plaintext", unknown, "", err.Error(), "")
		return
	}
	defer m.Close()
	for _, s := range stored {
		if m.Outlived(s.Unit, s.Made) {
			add("plaintext", bad, s.Unit, s.Path()+" is left of an earlier run of the unit", "bootseal apply "+s.Unit)
		}
	}
}

// credential checks one of a unit, which may not be there.
func (c *checking) credential(p *policy.Policy, cred policy.Credential, u *units.Unit) {
	add := func(check string, v verdict, found, remedy string) {
		c.add(finding{p.Unit, cred.Name, check, v, found, remedy})
	}
	left := c.plaintext(cred, u, add)
	seal := fmt.Sprintf("bootseal encrypt --unit=%s %s", p.Unit, cred.Name)
	if len(left) > 0 {
		seal += " " + left[0]
	}
	c.blob(p, cred, seal, add)
	// Whether it opens is found out right before the plaintext goes.
	sealed := true
	if _, err := os.Stat(cred.Source); errors.Is(err, fs.ErrNotExist) {
		sealed = false
	}
	for _, file := range left {
		if sealed {
			add("plaintext", bad, file+" is still there", fmt.Sprintf("bootseal decrypt --name=%s %s >/dev/null && shred -u %s", cred.Name, cred.Source, file))
		} else {
			add("plaintext", bad, file+" is still there, and nothing is sealed yet", seal)
		}
	}
}

// blob checks the encrypted credential.
func (c *checking) blob(p *policy.Policy, cred policy.Credential, seal string, add func(string, verdict, string, string)) {
	blob, err := sealing.Read(cred.Source, cred.Name)
	switch {
	case errors.Is(err, sealing.ErrNoBlob):
		add("blob", bad, err.Error(), seal)
		c.need(p.Seal.Key != policy.KeyTPM2, p.Seal.Key != policy.KeyHost)
		return
	case err != nil:
		remedy := seal
		if badOrUnknown(err) == unknown {
			remedy = ""
		}
		add("blob", badOrUnknown(err), err.Error(), remedy)
		return
	}
	b := blob.Blob
	c.need(b.Type.NeedsHost(), b.Type.NeedsTPM2())
	if _, err := policy.ReadBlob(root.Dir("/"), p, cred); err != nil {
		add("blob", bad, err.Error(), seal)
	} else {
		add("blob", good, fmt.Sprintf("%s, %s", cred.Source, b.Type), "")
	}
	if b.Type == credential.TypeNull && p.Seal.Key == policy.KeyNull {
		add("key", note, "the null key keeps nothing secret; the policy wants it so", "")
	}
	if err := onlyRoots(cred.Source); err != nil {
		add("modes", bad, err.Error(), fmt.Sprintf("chown root: %[1]s && chmod go-w %[1]s", fileToClose(err)))
	} else {
		add("modes", good, "only root can write", "")
	}
	c.opens(p.Unit, blob, seal, add)
	c.bindings(b, add)
}

func (c *checking) need(host, tpm2 bool) {
	c.needs.host = c.needs.host || host
	c.needs.tpm2 = c.needs.tpm2 || tpm2
}

// plaintext finds what the credential stands for: files that the policy, systemd
// or the unit's own command have it from.
func (c *checking) plaintext(cred policy.Credential, u *units.Unit, add func(string, verdict, string, string)) (left []string) {
	var files []string
	if cred.Replaces != "" {
		files = append(files, cred.Replaces)
	}
	if u != nil && cred.Option != "" {
		// Where the path cannot be told there is nothing to look at.
		named, _ := u.OptionFiles([]string{cred.Option})
		for _, n := range named {
			files = append(files, n.File)
		}
	}
	for _, folder := range []string{"/etc", "/run", "/usr/local/lib", "/usr/lib"} {
		files = append(files, folder+"/credstore/"+cred.Name)
	}
	looked := true
	for i, file := range files {
		if slices.Contains(files[:i], file) {
			continue
		}
		switch st, err := os.Lstat(file); {
		case err == nil && st.Mode()&(fs.ModeDevice|fs.ModeDir) == 0:
			left = append(left, file)
		case errors.Is(err, fs.ErrPermission):
			looked = false
			add("plaintext", unknown, err.Error(), "")
		}
	}
	if looked && left == nil {
		add("plaintext", good, "none left", "")
	}
	return left
}

// opens tells whether the blob can be opened now, and until when.
func (c *checking) opens(unit string, s *sealing.File, seal string, add func(string, verdict, string, string)) {
	b := s.Blob
	if !c.unseal {
		if !b.Type.NeedsTPM2() {
			add("opens", good, "it needs no TPM; --unseal opens it for a try", "")
			return
		}
		if err := c.PolicyNow(s); err != nil {
			v, remedy := judge(err, seal)
			add("opens", v, err.Error(), remedy)
			return
		}
		if b.Type.PinnedSRK() {
			t, err := c.Open()
			if err == nil {
				var here bool
				if here, err = tpm.PinnedHere(t, b); err == nil && !here {
					add("opens", bad, "it is pinned to another TPM, or this one has been cleared since", seal)
					return
				}
			}
			if err != nil {
				add("opens", unknown, err.Error(), "")
				return
			}
		}
		add("opens", good, "its policy holds; --unseal opens it for a try", "")
		return
	}
	opened, err := sealing.ForAnyScope(c.Device, c.Signature, sealing.NullAccepted).Open([]*sealing.File{s})
	if err != nil {
		v, remedy := judge(err, seal)
		add("opens", v, err.Error(), remedy)
		return
	}
	end := opened[0].NotAfter
	named := opened[0].Name != ""
	sealing.Wipe(opened)
	add("opens", good, "it has been opened", "")
	if !named {
		add("name", note, "it has no name in it, so that any other blob of this machine could take its place", "bootseal reseal "+s.Path)
	}
	if end == encryption.Infinity {
		add("expires", good, "never", "")
		return
	}
	at := time.UnixMicro(int64(end))
	c.expiry = append(c.expiry, expiry{unit, s.Name, at})
	if left := at.Sub(c.now); left < soon {
		add("expires", note, fmt.Sprintf("in %d days, %s", int(left.Hours()/24), at.Format(time.RFC3339)), "bootseal reseal --not-after=+1year "+s.Path)
	} else {
		add("expires", good, at.Format(time.RFC3339), "")
	}
}

// judge tells whether an error is about the credential, or kept us from looking.
func judge(err error, seal string) (verdict, string) {
	if errors.Is(err, fs.ErrPermission) {
		return unknown, ""
	}
	switch failure.Of(err).Kind {
	case failure.Damaged, failure.Missing, failure.WrongPCRs, failure.OtherTPM, failure.HostKey, failure.Unfit, failure.Signature:
		return bad, seal
	case failure.NoTPM:
		return bad, "bootseal has-tpm2"
	case failure.LockedOut:
		return bad, "tpm2_dictionarylockout --clear-lockout"
	case failure.Busy:
		return unknown, "fuser -v /dev/tpm0 /dev/tpmrm0"
	}
	if errors.Is(err, tpm.ErrOwnerAuth) {
		return bad, "tpm2_changeauth -c owner -p PASSWORD"
	}
	return unknown, ""
}

// breaks tells what changes a PCR (UAPI group's Linux TPM PCR Registry, and TCG
// PC Client Platform Firmware Profile, section 3.3.4).
var breaks = map[int]string{
	0: "firmware updates", 1: "changes of hardware and firmware settings", 2: "updates of option ROMs", 3: "settings of option ROMs",
	4: "updates of boot loader and kernel", 5: "changes of the partition table", 6: "waking up from suspend, on some machines",
	7: "updates of the Secure Boot databases (db, dbx)", 8: "changes of the boot loader's commands", 9: "updates of kernel and initrd",
	10: "every new program that IMA measures", 11: "updates of a unified kernel image, and each phase of the boot",
	12: "changes of the kernel command line", 13: "changes of system extensions", 14: "changes of shim's keys (MOK)",
	15: "changes of machine ID, root file system or LUKS keys",
}

// bindings tells what will break the literal PCRs of a blob.
func (c *checking) bindings(b *credential.Blob, add func(string, verdict, string, string)) {
	if b.TPM2 == nil || b.TPM2.PCRMask == 0 {
		return
	}
	var why []string
	pcrs := credential.PCRs(b.TPM2.PCRMask)
	for _, pcr := range pcrs {
		if text := breaks[pcr]; text != "" {
			why = append(why, fmt.Sprintf("%d: %s", pcr, text))
		}
	}
	found := "bound to PCR " + sealing.JoinPCRs(pcrs)
	if len(why) > 0 {
		found += ", broken by " + strings.Join(why, ", ")
	}
	add("pcrs", note, found, "")
	if slices.Contains(pcrs, 7) {
		switch on, err := secureBoot(); {
		case err != nil:
			add("pcr 7", unknown, err.Error(), "")
		case !on:
			add("pcr 7", note, "Secure Boot is off: PCR 7 says no more than that", "")
		}
	}
}

// modeError is about a file or folder that others than root can write.
type modeError struct{ file, why string }

func (e *modeError) Error() string { return e.file + " " + e.why }

// fileToClose is the file that a modeError is about.
func fileToClose(err error) string {
	var at *modeError
	if errors.As(err, &at) {
		return at.file
	}
	return ""
}

// onlyRoots makes sure that nobody but root can exchange the file.
func onlyRoots(file string) error {
	for name := file; ; name = path.Dir(name) {
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil {
			return &modeError{name, "cannot be looked at: " + err.Error()}
		}
		sticky := st.Mode&unix.S_IFMT == unix.S_IFDIR && st.Mode&unix.S_ISVTX != 0 && name != path.Dir(file)
		switch {
		case name == file && st.Mode&unix.S_IFMT != unix.S_IFREG:
			return &modeError{name, "is not a regular file"}
		case st.Uid != 0:
			return &modeError{name, fmt.Sprintf("belongs to user %d, not to root", st.Uid)}
		case st.Mode&unix.S_IFMT != unix.S_IFLNK && st.Mode&0o022 != 0 && !sticky:
			return &modeError{name, fmt.Sprintf("can be written by others than root, its mode is %04o", st.Mode&0o7777)}
		}
		if name == "/" {
			return nil
		}
	}
}
