package machine

import "strings"

// Script is a piece of script: "section NAME" begins a section of the output
// (see [Sections]), property prints a unit's property, and down waits until
// systemd has given step-ca up.
const Script = `section() { echo; echo "=== $*"; }
property() { systemctl show --property="$1" --value "${2:-step-ca.service}"; }
down() {
	for _ in $(seq 300); do
		case $(property ActiveState) in failed|inactive) return;; esac
		sleep 0.3
	done
}
`

// Sections splits what a script printed after "=== NAME" lines.
func Sections(out string) map[string]string {
	all := map[string]string{}
	name := ""
	for _, line := range strings.SplitAfter(out, "\n") {
		if rest, ok := strings.CutPrefix(line, "=== "); ok {
			name = strings.TrimSpace(rest)
			continue
		}
		all[name] += line
	}
	for name, text := range all {
		all[name] = strings.TrimSpace(text)
	}
	return all
}
