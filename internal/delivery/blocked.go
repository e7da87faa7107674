package delivery

import (
	"path"
	"strings"

	"github.com/bootseal/bootseal/internal/contract"
	"github.com/bootseal/bootseal/policy"
	"github.com/bootseal/bootseal/units"
)

// Pending is a drop-in that keeps the unit of any policy from starting as long as
// it has no other.
func Pending(reason error) string {
	return renderBlocked(policy.Dirs[0], nil, nil, reason.Error())
}

// Block keeps the unit of a policy from starting, for a reason that lies
// outside of the policy and the unit.
func Block(file policy.File, reason error) Plan {
	if file.Masked {
		return masked(file)
	}
	return blocked(file, nil, nil, reason)
}

func masked(file policy.File) Plan {
	return Plan{DropIns: []DropIn{comment(file.Unit, "The policy is masked by "+file.Path+".")}}
}

// blocked keeps the unit of a policy from starting.
func blocked(file policy.File, u *units.Unit, p *policy.Policy, reason error) Plan {
	text := renderBlocked(file.Path, u, p, file.Unit+" is not started: "+reason.Error())
	plan := Plan{Err: reason, DropIns: []DropIn{{file.Unit, contract.DropInName, text}}}
	if u == nil {
		return plan
	}
	// Where another drop-in could undo this one, it is said again after it.
	last := contract.DropInName
	if len(u.DropIns) > 0 {
		last = max(last, path.Base(u.DropIns[len(u.DropIns)-1]))
	}
	if replaced(u) != nil || last != contract.DropInName {
		name := strings.TrimSuffix(last, ".conf") + "~bootseal.conf"
		plan.DropIns = append(plan.DropIns, DropIn{file.Unit, name, text})
	}
	return plan
}

// comment is a drop-in that sets nothing, in place of the installed one.
func comment(unit, text string) DropIn {
	return DropIn{unit, contract.DropInName, contract.Heading + "# " + text + "\n"}
}

// renderBlocked writes the drop-in that keeps a unit from starting and says why
// in "systemctl status". A check on a plaintext file that the policy replaces
// would skip the unit in silence first, so it goes, and where the policy or the
// unit could not be read (nil) all checks go.
func renderBlocked(source string, u *units.Unit, p *policy.Policy, reason string) string {
	d := &dropIn{}
	if u != nil && p != nil {
		d.checks(u, p.Replaced())
	} else {
		d.unit = []string{"ConditionPathExists=", "AssertPathExists="}
	}
	if u != nil && len(u.List("Service", "ExecCondition")) > 0 {
		d.set("ExecCondition", "")
	}
	if u != nil {
		for _, name := range unspawnable {
			if len(u.List("Service", name)) > 0 {
				d.set(name, "")
			}
		}
		// Each resets the encrypted ones, too, whose names not all versions know.
		for _, name := range []string{"LoadCredential", "SetCredential"} {
			if len(u.List("Service", name, name+"Encrypted")) > 0 {
				d.set(name, "")
			}
		}
		d.optional(u)
	}
	d.set("ExecStartPre", "")
	d.set("ExecStartPre", contract.RefuseCommand(units.EscapeWord(oneLine(reason))))
	d.set("StandardError", "journal")
	d.set("NotifyAccess", "exec")
	// These go for what ExecStartPre= exits with, too.
	d.set("SuccessExitStatus", "")
	d.set("RestartForceExitStatus", "")
	d.set("Restart", "no")
	return d.text(source)
}

// unspawnable are settings that can keep even the helper, which says why the unit is
// blocked, from running: what they name may be missing, or hide it.
var unspawnable = []string{"RootDirectory", "RootImage", "TemporaryFileSystem", "InaccessiblePaths", "NoExecPaths",
	"InaccessibleDirectories", "ImportCredential"}

// optional has systemd go on without what the unit's settings name, so that the helper
// runs even where that is missing.
func (d *dropIn) optional(u *units.Unit) {
	for _, name := range []string{"EnvironmentFile", "BindPaths", "BindReadOnlyPaths", "ReadOnlyPaths", "ReadWritePaths", "ExecPaths"} {
		var lines []string
		for _, s := range u.List("Service", name) {
			if name == "EnvironmentFile" {
				lines = append(lines, "-"+strings.TrimPrefix(s.Value, "-"))
				continue
			}
			words := units.Words(s.Value)
			for i, word := range words {
				words[i] = units.Quote("-" + strings.TrimPrefix(word, "-"))
			}
			lines = append(lines, strings.Join(words, " "))
		}
		if len(lines) > 0 {
			d.set(name, "")
		}
		for _, line := range lines {
			d.set(name, line)
		}
	}
	if folder := u.Last("Service", "WorkingDirectory"); folder != "" {
		d.set("WorkingDirectory", "-"+strings.TrimPrefix(folder, "-"))
	}
	if strings.HasPrefix(u.Last("Service", "StandardInput"), "file:") {
		d.set("StandardInput", "null")
	}
}

// oneLine makes text fit for a line of a unit file or of the kernel log.
func oneLine(text string) string {
	const most = 700 // bytes; a record of the kernel log has less than 1,024
	text = strings.ToValidUTF8(text, "?")
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, text)
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + " …"
	}
	return text
}
