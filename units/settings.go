package units

import (
	"path"
	"slices"
	"strconv"
	"strings"
)

// List returns the assignments in section that are in force, of a setting or of
// several that make up one list: those after the last empty one, which resets it.
func (u *Unit) List(section string, names ...string) []Setting {
	var list []Setting
	for _, s := range u.settings {
		switch {
		case s.Section != section || !slices.Contains(names, s.Name):
		case s.Value == "":
			list = nil
		default:
			list = append(list, s)
		}
	}
	return list
}

// Last returns the value that is in force of a setting that takes one, or "".
func (u *Unit) Last(section, name string) string {
	for _, s := range slices.Backward(u.settings) {
		if s.Section == section && s.Name == name {
			return s.Value
		}
	}
	return ""
}

// Bool tells whether a boolean setting is on, systemd.syntax(7). What is no
// boolean leaves it as it was.
func (u *Unit) Bool(section, name string) bool {
	return isTrue(u.lastOf(section, name, func(value string) bool { return isTrue(value) || IsFalse(value) }))
}

// lastOf returns the value in force of a setting that ignores all but valid ones.
func (u *Unit) lastOf(section, name string, valid func(string) bool) string {
	for _, s := range slices.Backward(u.settings) {
		if s.Section == section && s.Name == name && valid(s.Value) {
			return s.Value
		}
	}
	return ""
}

// NotifyAccess is NotifyAccess=, or "" for the default, systemd.service(5).
func (u *Unit) NotifyAccess() string {
	return u.lastOf("Service", "NotifyAccess", func(value string) bool {
		return slices.Contains([]string{"none", "main", "exec", "all"}, value)
	})
}

// Notifies tells whether the unit's main process has a socket for sd_notify(3) by what
// the unit itself says.
func (u *Unit) Notifies() bool {
	access, kind := u.NotifyAccess(), u.Type()
	isSet := func(name string) bool { return strings.Trim(u.Last("Service", name), "0") != "" }
	return access != "" && access != "none" || strings.HasPrefix(kind, "notify") || isSet("WatchdogSec") || isSet("FileDescriptorStoreMax")
}

// Type is Type=, or "" for the default, systemd.service(5).
func (u *Unit) Type() string {
	return u.lastOf("Service", "Type", func(value string) bool {
		return slices.Contains([]string{"simple", "exec", "forking", "oneshot", "dbus", "notify", "notify-reload", "idle"}, value)
	})
}

// Sets tells whether the unit's Environment= sets a variable.
func (u *Unit) Sets(variable string) bool {
	return slices.ContainsFunc(u.List("Service", "Environment"), func(s Setting) bool { return strings.Contains(s.Value, variable+"=") })
}

// SharesMounts returns the setting by which the unit itself wants to have no mounts of
// its own, or nil.
func (u *Unit) SharesMounts() *Setting {
	private, flags := u.lastSetting("PrivateMounts"), u.lastSetting("MountFlags")
	switch {
	case private != nil && IsFalse(private.Value):
		return private
	case flags != nil && flags.Value == "shared":
		return flags
	}
	return nil
}

// lastSetting is the last of that name, or nil.
func (u *Unit) lastSetting(name string) *Setting {
	for _, s := range slices.Backward(u.settings) {
		if s.Section == "Service" && s.Name == name {
			return &s
		}
	}
	return nil
}

func (u *Unit) devicePolicy() string {
	return u.lastOf("Service", "DevicePolicy", func(value string) bool {
		return slices.Contains([]string{"auto", "closed", "strict"}, value)
	})
}

// RestrictsDevices tells whether the unit's device cgroup shuts out the TPM.
func (u *Unit) RestrictsDevices() bool {
	access := u.devicePolicy()
	return access == "closed" || access == "strict" || u.Bool("Service", "PrivateDevices") || len(u.List("Service", "DeviceAllow")) > 0
}

// TakesForSuccess returns a word of SuccessExitStatus= that is a status which fails
// accepts, or a signal other than those that end a service well anyway, or "": systemd
// takes such an end for a success of ExecStartPre=, too.
func (u *Unit) TakesForSuccess(fails func(status int) bool) string {
	for _, s := range u.List("Service", "SuccessExitStatus") {
		for _, word := range strings.Fields(s.Value) {
			if n, err := strconv.Atoi(word); err == nil && !fails(n) {
				continue
			}
			if !slices.Contains([]string{"HUP", "INT", "PIPE", "TERM"}, strings.TrimPrefix(word, "SIG")) {
				return word
			}
		}
	}
	return ""
}

func isTrue(value string) bool {
	return slices.Contains([]string{"1", "yes", "y", "true", "t", "on"}, strings.ToLower(value))
}

// IsFalse tells whether a value is a boolean that is off, systemd.syntax(7).
func IsFalse(value string) bool {
	return slices.Contains([]string{"0", "no", "n", "false", "f", "off"}, strings.ToLower(value))
}

// kinds are the checks that systemd.unit(5) knows. What is none resets nothing.
var kinds = strings.Fields(`ACPower Architecture CPUFeature CPUPressure CPUs Capability ControlGroupController
	Credential DirectoryNotEmpty Environment FileIsExecutable FileNotEmpty Firmware FirstBoot Group Host IOPressure
	KernelCommandLine KernelModuleLoaded KernelVersion Memory MemoryPressure NeedsUpdate OSRelease PathExists
	PathExistsGlob PathIsDirectory PathIsEncrypted PathIsMountPoint PathIsReadWrite PathIsSocket PathIsSymbolicLink
	Security User Version Virtualization`)

// Checks returns the Condition…= or Assert…= settings in force. An empty one of
// any kind resets all kinds.
func (u *Unit) Checks(prefix string) []Setting {
	var list []Setting
	for _, s := range u.settings {
		switch {
		case s.Section != "Unit" || !strings.HasPrefix(s.Name, prefix) || !slices.Contains(kinds, s.Name[len(prefix):]):
		case s.Value == "":
			list = nil
		default:
			list = append(list, s)
		}
	}
	return list
}

// WithoutFiles returns the checks that remain when those files count as
// present, and whether any went. Of several triggering checks ("|") one that
// holds is enough, so with one of them all of them go.
func (u *Unit) WithoutFiles(checks []Setting, files []string) (rest []Setting, changed bool) {
	triggered := false
	for _, s := range checks {
		if u.Needs(s, files) {
			changed = true
			triggered = triggered || strings.HasPrefix(s.Value, "|")
		}
	}
	for _, s := range checks {
		if !u.Needs(s, files) && !(triggered && strings.HasPrefix(s.Value, "|")) {
			rest = append(rest, s)
		}
	}
	return rest, changed
}

// Needs tells whether a check can only hold if one of files is there.
func (u *Unit) Needs(s Setting, files []string) bool {
	kind := strings.TrimPrefix(strings.TrimPrefix(s.Name, "Condition"), "Assert")
	value := u.Expand(strings.TrimPrefix(s.Value, "|"))
	if !strings.HasPrefix(value, "/") || slices.Contains(strings.Split(value, "/"), "..") {
		return false // the negated "!", or a path that systemd ignores
	}
	value = path.Clean(value)
	switch kind {
	case "PathExists", "PathIsReadWrite", "FileNotEmpty":
		return slices.Contains(files, value)
	case "PathExistsGlob":
		return slices.ContainsFunc(files, func(file string) bool {
			ok, err := path.Match(value, file)
			return ok && err == nil
		})
	}
	return false
}

// Around parts the settings of u from the point of view of a drop-in of that name:
// before has all that apply before it, after are those of drop-ins that apply after it.
// Those of a drop-in with the same name are in neither.
func (u *Unit) Around(name string) (before *Unit, after []Setting) {
	before = &Unit{Name: u.Name, Fragment: u.Fragment}
	for _, s := range u.settings {
		switch base := path.Base(s.File); {
		case s.File == u.Fragment || base < name:
			before.settings = append(before.settings, s)
		case base > name:
			after = append(after, s)
		}
	}
	return before, after
}

// Expand replaces the specifiers of systemd.unit(5) that follow from the unit's
// name or are the same for every unit of the system manager. Others stay as they are.
func (u *Unit) Expand(value string) string {
	if !strings.Contains(value, "%") {
		return value
	}
	return strings.NewReplacer(u.specifiers()...).Replace(value)
}

// specifiers lists pairs of a specifier and its value.
func (u *Unit) specifiers() []string {
	bare := strings.TrimSuffix(u.Name, service)
	prefix, instance, _ := strings.Cut(bare, "@")
	file := prefix
	if instance != "" {
		file = instance
	}
	final := prefix[strings.LastIndexByte(prefix, '-')+1:]
	return []string{"%%", "%",
		"%n", u.Name, "%N", bare,
		"%p", prefix, "%P", unescape(prefix),
		"%i", instance, "%I", unescape(instance),
		"%j", final, "%J", unescape(final),
		"%f", path.Clean("/" + unescape(file)),
		"%E", "/etc", "%S", "/var/lib", "%C", "/var/cache", "%L", "/var/log", "%t", "/run",
		"%h", "/root", "%u", "root", "%U", "0", "%g", "root", "%G", "0"}
}

// unescape undoes systemd-escape(1).
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '-':
			b.WriteByte('/')
		case s[i] == '\\' && i+3 < len(s) && s[i+1] == 'x' && isHex(s[i+2]) && isHex(s[i+3]):
			b.WriteByte(unhex(s[i+2])<<4 | unhex(s[i+3]))
			i += 3
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func unhex(c byte) byte {
	switch {
	case c <= '9':
		return c - '0'
	case c <= 'F':
		return c - 'A' + 10
	}
	return c - 'a' + 10
}
