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

// Automounts returns what tells whether a path lies where a file system is mounted
// only when it is used (autofs, as systemd.automount(5) has it). A generator must
// not look there: PID 1, which is to mount it, waits for the generator.
func Automounts(dir root.Dir) func(name string) bool {
	kinds := map[string]string{} // of what was mounted last on each mount point
	text, _ := dir.ReadFile("/proc/self/mountinfo", maxMountinfo)
	for line := range strings.Lines(string(text)) {
		mount, device, ok := strings.Cut(line, " - ")
		if fields := strings.Fields(mount); ok && len(fields) > 4 {
			kinds[UnescapePath(fields[4])], _, _ = strings.Cut(device, " ")
		}
	}
	return func(name string) bool {
		for name = path.Clean(name); ; name = path.Dir(name) {
			if kind, ok := kinds[name]; ok || name == "/" || name == "." {
				return kind == "autofs"
			}
		}
	}
}
