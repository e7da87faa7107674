package units

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/bootseal/bootseal/internal/contract"
	"github.com/bootseal/bootseal/internal/systemd"
	"github.com/bootseal/bootseal/policy"
)

// maxPeerNames is what is left for unit and credential of the address
// "\0" + 16 digits + "/unit/UNIT/NAME" that systemd connects from, of 108 bytes
// at most (unix(7)).
const maxPeerNames = 108 - 1 - 16 - len("/unit//")

// dropIn collects the lines of a drop-in.
type dropIn struct {
	unit, service []string
}

func (d *dropIn) set(name, value string) {
	d.service = append(d.service, name+"="+value)
}

// text is the whole file, made from the policy source for u, which may be nil.
func (d *dropIn) text(source string, u *Unit) string {
	lines := []string{contract.Heading, "[Unit]"}
	if u == nil || u.Last("Unit", "SourcePath") == "" {
		lines = append(lines, "SourcePath="+escapeSpecifiers(source))
	} else {
		lines = append(lines, "# From "+source)
	}
	lines = append(lines, d.unit...)
	lines = append(append(lines, "", "[Service]"), d.service...)
	return strings.Join(lines, "\n") + "\n"
}

// checks writes the Condition…= and Assert…= settings of u again, as if files
// were there.
func (d *dropIn) checks(u *Unit, files []string) {
	for _, prefix := range []string{"Condition", "Assert"} {
		rest, changed := u.withoutFiles(u.checks(prefix), files)
		if !changed {
			continue
		}
		d.unit = append(d.unit, prefix+"PathExists=")
		for _, s := range rest {
			d.unit = append(d.unit, s.Name+"="+s.Value)
		}
	}
}

// notify lets the helper say in "systemctl status" why the unit did not start.
func (d *dropIn) notify(u *Unit) {
	if access := u.notifyAccess(); access != "all" && access != "exec" {
		d.set("NotifyAccess", "exec")
	}
}

// render writes the drop-in that puts p into force for u. The delivery is any
// but policy.Auto.
func render(p *policy.Policy, u *Unit, delivery policy.Delivery, version int) (string, error) {
	// folder is $CREDENTIALS_DIRECTORY, as a unit file has it.
	folder := "%d"
	switch {
	case delivery == policy.Prestart && !systemd.BindsBelowRunCredentials.In(version):
		folder = contract.Store + "/%n"
	case !systemd.EncryptedCredentials.In(version): // which has no such specifier
		folder = "/run/credentials/%n"
	}
	var (
		hook    []string // arguments of the helper
		options []option
	)
	for _, c := range p.Credentials {
		hook = append(hook, escapeWord(contract.CredentialArgument(c.Name, c.Source)))
		if c.Option != "" {
			options = append(options, option{c.Option, "${CREDENTIALS_DIRECTORY}/" + c.Name, folder + "/" + c.Name})
		}
	}
	commands, err := u.setOptions(options)
	if err != nil {
		return "", err
	}
	if err := u.settable(variables(p)); err != nil {
		return "", err
	}
	d := &dropIn{}
	d.checks(u, p.Replaced())
	d.set("PrivateMounts", "true")
	rooted := u.whole.Last("Service", "RootDirectory") != "" || u.whole.Last("Service", "RootImage") != ""
	own := func(names ...string) bool {
		return slices.ContainsFunc(names, func(name string) bool { return len(u.whole.List("Service", name)) > 0 })
	}
	hooked := systemd.CredentialsFailHooks.In(version) && own("ExecCondition", "ExecStartPre")
	instead := ""
	if systemd.LoadsCredentials.In(version) && !hooked {
		instead = `; delivery = "socket" works`
	}
	switch {
	case len(u.List("Service", "ExecStart")) == 0:
		return "", errors.New("the unit has no ExecStart=, so nothing could use a credential")
	case delivery != policy.Prestart:
	case rooted:
		return "", errors.New("the unit has a root directory of its own, in which the hook cannot run" + instead)
	case slices.ContainsFunc(u.whole.List("Service", "TemporaryFileSystem"), func(s Setting) bool {
		return slices.ContainsFunc(strings.Fields(s.Value), func(word string) bool { return word == "/" || strings.HasPrefix(word, "/:") })
	}):
		return "", errors.New("the unit has a TemporaryFileSystem= in place of /, in which the hook cannot run" + instead)
	case u.whole.hidesFailure() != "":
		return "", fmt.Errorf("the unit has SuccessExitStatus=%s, by which it would start although the hook has failed%s", u.whole.hidesFailure(), instead)
	case own("LoadCredential", "SetCredential"):
		return "", fmt.Errorf("the unit has a LoadCredential= or SetCredential= of its own, which systemd %d cannot combine with the hook%s", version, instead)
	}
	if delivery != policy.Prestart {
		d.onlyOurs(u, p, folder)
	}
	switch delivery {
	case policy.Native:
		for _, c := range p.Credentials {
			d.set("LoadCredentialEncrypted", c.Name+":"+escapeSpecifiers(c.Source))
		}
	case policy.Socket:
		if hooked {
			return "", fmt.Errorf(`the unit has an ExecCondition= or ExecStartPre= of its own, which systemd %d cannot combine with delivery = "socket"; expected "prestart" or "auto"`, version)
		}
		// Only wanted: without the socket the credential cannot be loaded, and
		// a running unit needs it no more.
		d.unit = append(d.unit, "Wants=bootseal.socket", "After=bootseal.socket")
		// The answer is sealed with the host key where systemd can open that,
		// so that it never takes one that was cut off for the secret.
		load := "LoadCredentialEncrypted"
		if !systemd.SealedAnswers.In(version) {
			load = "LoadCredential"
		}
		for _, c := range p.Credentials {
			if len(u.Name)+len(c.Name) > maxPeerNames {
				return "", fmt.Errorf("the names of the unit and of credential %s have more than %d characters together, which is too much for delivery over the socket", c.Name, maxPeerNames)
			}
			d.set(load, c.Name+":"+contract.SocketPath)
		}
	case policy.Prestart:
		d.prestart(u, folder, hook, p.Seal.Key == policy.KeyNull)
	}
	for _, c := range p.Credentials {
		if c.Environment != "" {
			d.set("Environment", c.Environment+"="+folder+"/"+c.Name)
		}
	}
	if delivery != policy.Prestart && !rooted {
		d.set("ExecStopPost", contract.ExplainCommand(hook))
	}
	for _, line := range commands {
		d.set("ExecStart", line)
	}
	if (!systemd.AllowsTPM.In(version) || delivery == policy.Socket) && u.whole.restrictsDevices() {
		// Devices that the kernel does not know yet when the unit starts are not allowed.
		d.unit = append(d.unit, "Wants=modprobe@tpm.service", "After=modprobe@tpm.service")
		d.set("DeviceAllow", "char-tpm rw")
	}
	d.notify(u)
	return d.text(p.Path, u), nil
}

// onlyOurs takes away what the unit itself says of the policy's credentials, which
// systemd would use for a blob that is missing, and of the variable that names
// their folder, which goes before systemd's.
func (d *dropIn) onlyOurs(u *Unit, p *policy.Policy, folder string) {
	own := u.List("Service", "SetCredential", "SetCredentialEncrypted")
	rest := slices.DeleteFunc(slices.Clone(own), func(s Setting) bool { return u.isCredential(s, p) })
	if len(rest) < len(own) {
		d.set("SetCredential", "")
		for _, s := range rest {
			d.set(s.Name, s.Value)
		}
	}
	if slices.ContainsFunc(u.List("Service", "Environment"), func(s Setting) bool { return strings.Contains(s.Value, directory+"=") }) {
		d.set("Environment", directory+"="+folder)
	}
}

// isCredential tells whether a LoadCredential= or the like is of one of the
// policy's credentials.
func (u *Unit) isCredential(s Setting, p *policy.Policy) bool {
	name, _, _ := strings.Cut(s.Value, ":")
	return slices.ContainsFunc(p.Credentials, func(c policy.Credential) bool { return c.Name == u.expand(name) })
}

// prestart has the helper put the plaintext on a ramfs below /run/bootseal,
// which only root can enter, and binds it to where the unit looks for it. The
// hook runs before the ExecStartPre= of the unit, for which it makes the
// credentials available, too; its own namespace lacks the ramfs, hence the "-".
func (d *dropIn) prestart(u *Unit, folder string, hook []string, allowNull bool) {
	user := u.whole.Last("Service", "User")
	if user != "" {
		user = quote(user)
	}
	d.set("TemporaryFileSystem", path.Dir(folder)+":ro,mode=0755")
	d.set("BindReadOnlyPaths", "-"+contract.Store+"/%n:"+folder)
	d.set("Environment", directory+"="+folder)
	before := u.List("Service", "ExecStartPre")
	if len(before) > 0 {
		d.set("ExecStartPre", "")
	}
	d.set("ExecStartPre", contract.UnsealCommand(user, allowNull, hook))
	for _, s := range before {
		if _, err := splitCommands(s.Value); err == nil || !ignored(s.Value) {
			d.set("ExecStartPre", s.Value)
		}
	}
	d.set("ExecStopPost", contract.CleanupCommand())
}

// setOptions returns the ExecStart= lines of u with the options pointing to
// their credentials, after an empty one that resets them. An option that is in
// none of the lines is appended if there is only one. Without options there is
// nothing to write.
func (u *Unit) setOptions(options []option) ([]string, error) {
	if len(options) == 0 {
		return nil, nil
	}
	lines := []string{""}
	found := map[string]bool{}
	for _, s := range u.List("Service", "ExecStart") {
		line, err := setOptions(s.Value, options, found)
		if err != nil && ignored(s.Value) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", s.File, s.Line, err)
		}
		lines = append(lines, line)
	}
	for _, o := range options {
		switch {
		case found[o.name]:
		case len(lines) == 1:
			return nil, fmt.Errorf("the unit has no ExecStart= that could take %s", o.name)
		case len(lines) > 2:
			return nil, fmt.Errorf("%s is in none of the unit's %d ExecStart= lines; add it to the one that takes it", o.name, len(lines)-1)
		default:
			var err error
			if lines[1], err = appendOption(lines[1], o); err != nil {
				return nil, err
			}
		}
	}
	return lines, nil
}

// directory is the variable that names the folder of all credentials.
const directory = "CREDENTIALS_DIRECTORY"

// variables lists what p sets in the environment.
func variables(p *policy.Policy) []string {
	all := []string{directory}
	for _, c := range p.Credentials {
		if c.Environment != "" {
			all = append(all, c.Environment)
		}
	}
	return all
}

// settable refuses variables that the unit takes back when it starts.
func (u *Unit) settable(list []string) error {
	for _, name := range list {
		for _, s := range u.List("Service", "UnsetEnvironment") {
			if slices.Contains(strings.Fields(s.Value), name) {
				return fmt.Errorf("%s:%d: UnsetEnvironment= takes %s away from the unit; remove it there", s.File, s.Line, name)
			}
		}
	}
	return nil
}

// hidesFailure returns a word of SuccessExitStatus= that may be what a hook ends
// with when it fails, or "": systemd takes it for a success of ExecStartPre=, too.
func (u *Unit) hidesFailure() string {
	for _, s := range u.List("Service", "SuccessExitStatus") {
		for _, word := range strings.Fields(s.Value) {
			if n, err := strconv.Atoi(word); err == nil && !contract.HookStatus(n) {
				continue
			}
			if !slices.Contains([]string{"HUP", "INT", "PIPE", "TERM"}, strings.TrimPrefix(word, "SIG")) {
				return word
			}
		}
	}
	return ""
}

// restrictsDevices tells whether the unit's device cgroup shuts out the TPM.
func (u *Unit) restrictsDevices() bool {
	access := u.devicePolicy()
	return access == "closed" || access == "strict" || u.Bool("Service", "PrivateDevices") || len(u.List("Service", "DeviceAllow")) > 0
}

// renderBlocked writes the drop-in that keeps a unit from starting and says why
// in "systemctl status". A check on a plaintext file that the policy replaces
// would skip the unit in silence first, so it goes, and where the policy or the
// unit could not be read (nil) all checks go.
func renderBlocked(source string, u *Unit, p *policy.Policy, reason string) string {
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
		// In a root directory of its own there is no helper to say why.
		for _, name := range []string{"RootDirectory", "RootImage", "TemporaryFileSystem", "InaccessiblePaths", "NoExecPaths"} {
			if u.Last("Service", name) != "" {
				d.set(name, "")
			}
		}
	}
	d.set("ExecStartPre", "")
	d.set("ExecStartPre", contract.RefuseCommand(escapeWord(oneLine(reason))))
	d.set("StandardError", "journal")
	d.set("NotifyAccess", "exec")
	// These go for what ExecStartPre= exits with, too.
	d.set("SuccessExitStatus", "")
	d.set("RestartForceExitStatus", "")
	d.set("Restart", "no")
	return d.text(source, u)
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

// later returns the settings of drop-ins that apply after ours, and u without
// them. err says that a drop-in of the same name replaces ours.
func (u *Unit) later() (before *Unit, after []Setting, err error) {
	before = &Unit{Name: u.Name, Fragment: u.Fragment, whole: u}
	for _, s := range u.settings {
		switch name := path.Base(s.File); {
		case s.File == u.Fragment || name < contract.DropInName:
			before.settings = append(before.settings, s)
		case name > contract.DropInName:
			after = append(after, s)
		}
	}
	for _, file := range u.DropIns {
		if path.Base(file) == contract.DropInName && outranksGenerator(file) {
			err = fmt.Errorf("%s takes the place of the drop-in with that name that bootseal generates; remove it", file)
		}
	}
	return before, after, err
}

// outranksGenerator tells whether a drop-in in that folder takes precedence over
// one of the same name in /run/systemd/generator.
func outranksGenerator(file string) bool {
	folder := path.Dir(path.Dir(file))
	return path.Base(path.Dir(file)) != "service.d" && folder != splitUsr &&
		slices.Index(searchPath, folder) < slices.Index(searchPath, "/usr/local/lib/systemd/system")
}

// undoes finds the setting among after that takes back what text sets.
func undoes(after []Setting, u *Unit, p *policy.Policy, text string) error {
	ours, _ := Parse([]byte(text), contract.DropInName)
	variables := variables(p)
	set := func(name string) bool {
		return slices.ContainsFunc(ours, func(s Setting) bool { return s.Section == "Service" && s.Name == name })
	}
	// sets tells whether a value has one of our variables, with that after it.
	sets := func(value, after string) bool {
		return slices.ContainsFunc(variables, func(name string) bool { return strings.Contains(value, name+after) })
	}
	for _, s := range after {
		undone := false
		switch s.Name {
		case "LoadCredential", "LoadCredentialEncrypted":
			// An empty one of either kind resets both.
			undone = (set("LoadCredential") || set("LoadCredentialEncrypted")) && (s.Value == "" || u.isCredential(s, p))
		case "SetCredential", "SetCredentialEncrypted":
			undone = s.Value != "" && (set("TemporaryFileSystem") || u.isCredential(s, p))
		case "ExecStart":
			undone = set("ExecStart")
		case "ExecStartPre", "ExecStopPost", "TemporaryFileSystem", "DeviceAllow":
			undone = s.Value == "" && set(s.Name)
		case "BindPaths", "BindReadOnlyPaths":
			undone = s.Value == "" && set("BindReadOnlyPaths")
		case "Environment":
			undone = set("Environment") && s.Value == "" || sets(s.Value, "=")
		case "UnsetEnvironment":
			undone = sets(s.Value, "")
		case "PrivateMounts":
			undone = isFalse(s.Value) || s.Value == ""
		default:
			undone = (strings.HasPrefix(s.Name, "Condition") || strings.HasPrefix(s.Name, "Assert")) && u.needs(s, p.Replaced())
		}
		if undone {
			return fmt.Errorf("%s:%d: %s=%s takes back what the policy sets; rename that file so that it sorts before %s", s.File, s.Line, s.Name, s.Value, contract.DropInName)
		}
	}
	return nil
}
