package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/internal/root"
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
		add("policy", bad, err.Error(), remedyForPolicy(err))
		return
	}
	add("policy", good, file.Path, "")
	if c.noSystem != nil {
		add("unit", unknown, c.noSystem.Error(), "")
	} else {
		c.installed(file, p, add)
	}
	for _, cred := range p.Credentials {
		c.credential(p, cred)
	}
}

// installed checks the unit file and the drop-in.
func (c *checking) installed(file policy.File, p *policy.Policy, add func(string, verdict, string, string)) {
	u, err := c.planner.Load(file.Unit)
	switch {
	case errors.Is(err, units.ErrMasked):
		add("unit", bad, err.Error(), "systemctl unmask "+file.Unit)
		return
	case errors.Is(err, units.ErrNotFound):
		add("unit", bad, err.Error(), "rm "+file.Path)
		return
	case err != nil:
		add("unit", bad, err.Error(), "systemd-analyze verify "+file.Unit)
		return
	}
	add("unit", good, u.Fragment, "")
	plan := c.planner.Plan(file)
	if plan.Err != nil {
		add("delivery", bad, plan.Err.Error(), "bootseal preview "+file.Unit)
	} else {
		add("delivery", good, fmt.Sprintf("%s: %s", plan.Delivery, plan.Why), "")
	}
	for _, d := range plan.DropIns {
		name := path.Join(generated, d.Unit+".d", d.Name)
		text, err := root.Dir("/").ReadFile(name, 1<<20)
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
	if dumps, where := coreDumps("/"); !dumps {
		add("core dumps", good, where, "")
	} else if limit := u.Last("Service", "LimitCORE"); limit == "0" {
		add("core dumps", good, "LimitCORE=0", "")
	} else {
		add("core dumps", note, "a crash leaves the unit's memory, secrets included, in "+where, "systemctl edit "+file.Unit+" # [Service] LimitCORE=0")
	}
}

// credential checks one of a unit.
func (c *checking) credential(p *policy.Policy, cred policy.Credential) {
	add := func(check string, v verdict, found, remedy string) {
		c.add(finding{p.Unit, cred.Name, check, v, found, remedy})
	}
	seal := fmt.Sprintf("bootseal encrypt --unit=%s %s", p.Unit, cred.Name)
	c.plaintext(cred, add)
	blob, err := readSealed(cred.Source, cred.Name)
	switch {
	case errors.Is(err, errNoBlob):
		add("blob", bad, err.Error(), seal)
		c.need(p.Seal.Key != policy.KeyTPM2, p.Seal.Key != policy.KeyHost)
		return
	case errors.Is(err, fs.ErrPermission):
		add("blob", unknown, err.Error(), "")
		return
	case err != nil:
		add("blob", bad, err.Error(), seal)
		return
	}
	b := blob.blob
	c.need(b.Type.NeedsHost(), b.Type.NeedsTPM2())
	if _, err := units.ReadBlob(root.Dir("/"), p, cred); err != nil {
		add("blob", bad, err.Error(), seal)
	} else {
		add("blob", good, fmt.Sprintf("%s, %s", cred.Source, b.Type), "")
	}
	if b.Type == credential.TypeNull {
		add("key", note, "the null key keeps nothing secret; the policy wants it so", "")
	}
	if err := onlyRoots(cred.Source); err != nil {
		add("modes", bad, err.Error(), fmt.Sprintf("chown root: %[1]s && chmod go-w %[1]s", culprit(err)))
	} else {
		add("modes", good, "only root can write", "")
	}
	c.opens(p.Unit, blob, seal, add)
	c.bindings(b, seal, add)
}

func (c *checking) need(host, tpm2 bool) {
	c.needs.host = c.needs.host || host
	c.needs.tpm2 = c.needs.tpm2 || tpm2
}

// plaintext looks for what the credential stands for.
func (c *checking) plaintext(cred policy.Credential, add func(string, verdict, string, string)) {
	files := []string{"/etc/credstore/" + cred.Name, "/run/credstore/" + cred.Name, "/usr/local/lib/credstore/" + cred.Name, "/usr/lib/credstore/" + cred.Name}
	if cred.Replaces != "" {
		files = append([]string{cred.Replaces}, files...)
	}
	left := false
	for _, file := range files {
		switch _, err := os.Lstat(file); {
		case err == nil:
			left = true
			add("plaintext", bad, file+" is still there", "shred -u "+file)
		case errors.Is(err, fs.ErrPermission):
			left = true
			add("plaintext", unknown, err.Error(), "")
		}
	}
	if !left {
		add("plaintext", good, "none left", "")
	}
}

// opens tells whether the blob can be opened now, and until when.
func (c *checking) opens(unit string, s *sealed, seal string, add func(string, verdict, string, string)) {
	b := s.blob
	if !c.unseal {
		if !b.Type.NeedsTPM2() {
			add("opens", good, "it needs no TPM; --unseal opens it for a try", "")
			return
		}
		if err := c.holds(b); err != nil {
			v, remedy := judge(err, seal)
			add("opens", v, err.Error(), remedy)
			return
		}
		if b.Type.PinnedSRK() {
			t, err := c.open()
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
	opened, err := opening{device: c.device, signature: c.signature, anyScope: true, allowNull: true, now: c.now}.open([]*sealed{s})
	if err != nil {
		v, remedy := judge(err, seal)
		add("opens", v, err.Error(), remedy)
		return
	}
	end := opened[0].NotAfter
	named := opened[0].Name != ""
	wipe(opened)
	add("opens", good, "it has been opened", "")
	if !named {
		add("name", note, "it has no name in it, so that any other blob of this machine could take its place", seal)
	}
	if end == credential.Infinity {
		add("expires", good, "never", "")
		return
	}
	at := time.UnixMicro(int64(end))
	c.expiry = append(c.expiry, expiry{unit, s.name, at})
	if left := at.Sub(c.now); left < soon {
		add("expires", note, fmt.Sprintf("in %d days, %s", int(left.Hours()/24), at.Format(time.RFC3339)), seal+" --not-after=…")
	} else {
		add("expires", good, at.Format(time.RFC3339), "")
	}
}

// judge tells whether an error is about the credential, or kept us from looking.
func judge(err error, seal string) (verdict, string) {
	if errors.Is(err, fs.ErrPermission) {
		return unknown, ""
	}
	o := outcomeOf(err)
	switch o.status {
	case 65, 66, 80, 81, 83, 84:
		return bad, seal
	case 85:
		return bad, ""
	case 69:
		return bad, "bootseal has-tpm2"
	case 82:
		return bad, "tpm2_dictionarylockout --clear-lockout"
	case 75:
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
func (c *checking) bindings(b *credential.Blob, seal string, add func(string, verdict, string, string)) {
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
	found := "bound to PCR " + joinPCRs(pcrs)
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

// culprit is the file that err is about.
func culprit(err error) string {
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
