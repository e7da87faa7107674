package units

import (
	"path"
	"slices"
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
	return isTrue(u.lastOf(section, name, func(value string) bool { return isTrue(value) || isFalse(value) }))
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

func (u *Unit) notifyAccess() string {
	return u.lastOf("Service", "NotifyAccess", func(value string) bool {
		return slices.Contains([]string{"none", "main", "exec", "all"}, value)
	})
}

func (u *Unit) devicePolicy() string {
	return u.lastOf("Service", "DevicePolicy", func(value string) bool {
		return slices.Contains([]string{"auto", "closed", "strict"}, value)
	})
}

func isTrue(value string) bool {
	return slices.Contains([]string{"1", "yes", "y", "true", "t", "on"}, strings.ToLower(value))
}

func isFalse(value string) bool {
	return slices.Contains([]string{"0", "no", "n", "false", "f", "off"}, strings.ToLower(value))
}

// kinds are the checks that systemd.unit(5) knows. What is none resets nothing.
var kinds = strings.Fields(`ACPower Architecture CPUFeature CPUPressure CPUs Capability ControlGroupController
	Credential DirectoryNotEmpty Environment FileIsExecutable FileNotEmpty Firmware FirstBoot Group Host IOPressure
	KernelCommandLine KernelModuleLoaded KernelVersion Memory MemoryPressure NeedsUpdate OSRelease PathExists
	PathExistsGlob PathIsDirectory PathIsEncrypted PathIsMountPoint PathIsReadWrite PathIsSocket PathIsSymbolicLink
	Security User Version Virtualization`)

// checks returns the Condition…= or Assert…= settings in force. An empty one of
// any kind resets all kinds.
func (u *Unit) checks(prefix string) []Setting {
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

// withoutFiles returns the checks that remain when those files count as
// present, and whether any went. Of several triggering checks ("|") one that
// holds is enough, so with one of them all of them go.
func (u *Unit) withoutFiles(checks []Setting, files []string) (rest []Setting, changed bool) {
	triggered := false
	for _, s := range checks {
		if u.needs(s, files) {
			changed = true
			triggered = triggered || strings.HasPrefix(s.Value, "|")
		}
	}
	for _, s := range checks {
		if !u.needs(s, files) && !(triggered && strings.HasPrefix(s.Value, "|")) {
			rest = append(rest, s)
		}
	}
	return rest, changed
}

// needs tells whether a check can only hold if one of files is there.
func (u *Unit) needs(s Setting, files []string) bool {
	kind := strings.TrimPrefix(strings.TrimPrefix(s.Name, "Condition"), "Assert")
	value := u.expand(strings.TrimPrefix(s.Value, "|"))
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

// expand replaces the specifiers of systemd.unit(5) that follow from the unit's
// name or are the same for every unit of the system manager. Others stay as they are.
func (u *Unit) expand(value string) string {
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
