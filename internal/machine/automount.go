package machine

import (
	"path"
	"strings"

	"github.com/bootseal/bootseal/internal/root"
)

// maxMountinfo bounds what is read of the list of mounts: 150 bytes each.
const maxMountinfo = 64 << 20

var mangled = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// UnescapePath undoes the escapes of paths in /proc/self/mountinfo,
// proc_pid_mountinfo(5), and /proc/swaps, proc_swaps(5).
func UnescapePath(field string) string { return mangled.Replace(field) }

// Automounts returns what follows a path as the kernel does, symbolic links too, and
// tells where it leads: who owns a folder may have put a link in it. Where that is a file
// system that is mounted only when it is used (autofs, as systemd.automount(5) has it),
// it says so and looks no further, and a generator must not either: PID 1, which is to
// mount it, waits for the generator.
func Automounts(dir root.Dir) func(name string) (leads string, automount bool) {
	kinds := map[string]string{} // of what was mounted last on each mount point
	text, _ := dir.ReadFile("/proc/self/mountinfo", maxMountinfo)
	for line := range strings.Lines(string(text)) {
		mount, device, ok := strings.Cut(line, " - ")
		if fields := strings.Fields(mount); ok && len(fields) > 4 {
			kinds[UnescapePath(fields[4])], _, _ = strings.Cut(device, " ")
		}
	}
	return func(name string) (string, bool) { return follow(dir, kinds, name) }
}

// maxLinks is how many symbolic links a path may lead through, path_resolution(7).
const maxLinks = 40

// follow walks to name, and ends at the first place of the kind autofs.
func follow(dir root.Dir, kinds map[string]string, name string) (leads string, automount bool) {
	at, rest, links := "/", strings.Split(name, "/"), 0
	for {
		if automount = kinds[at] == "autofs"; automount || len(rest) == 0 {
			return path.Join(at, path.Join(rest...)), automount
		}
		next := rest[0]
		rest = rest[1:]
		switch next {
		case "", ".":
			continue
		case "..":
			at = path.Dir(at)
			continue
		}
		target, err := dir.Readlink(at, next)
		switch {
		case err != nil: // no link, or nothing
			at = path.Join(at, next)
		case links == maxLinks: // it cannot be opened
			return path.Join(at, next, path.Join(rest...)), false
		default:
			links++
			if path.IsAbs(target) {
				at = "/"
			}
			rest = append(strings.Split(target, "/"), rest...)
		}
	}
}
