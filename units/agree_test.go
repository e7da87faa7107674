package units

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/bootseal/bootseal/internal/contract"
	"github.com/bootseal/bootseal/internal/root"
	"github.com/bootseal/bootseal/internal/systemd"
	"github.com/bootseal/bootseal/test/machine"
)

// bus is all that PID 1 tells of a unit: the properties of org.freedesktop.systemd1(5).
type bus map[string]struct {
	Type string
	Data json.RawMessage
}

func (b bus) read(t *testing.T, name string, to any) {
	t.Helper()
	p, ok := b[name]
	if !ok {
		t.Fatalf("PID 1 has no property %s", name)
	}
	if err := json.Unmarshal(p.Data, to); err != nil {
		t.Fatalf("%s: %v in %s", name, err, p.Data)
	}
}

func (b bus) str(t *testing.T, name string) (s string) {
	t.Helper()
	b.read(t, name, &s)
	return s
}

func (b bus) list(t *testing.T, name string) (list []string) {
	t.Helper()
	b.read(t, name, &list)
	return list
}

// commands reads an Exec…Ex property: each command's flags and arguments.
func (b bus) commands(t *testing.T, name string) []string {
	t.Helper()
	var all [][]json.RawMessage
	b.read(t, name+"Ex", &all)
	var list []string
	for _, c := range all {
		var argv, flags []string
		if json.Unmarshal(c[1], &argv) != nil || json.Unmarshal(c[2], &flags) != nil {
			t.Fatalf("%s: %s", name, c)
		}
		slices.Sort(flags)
		list = append(list, fmt.Sprintf("%q %q", flags, argv))
	}
	return list
}

// ours is how we read a list of commands, in the same form.
func ours(u *Unit, name string, version int, full func(string) string) []string {
	var list []string
	for _, s := range u.List("Service", name) {
		commands, err := splitCommands(s.Value)
		if err != nil && ignored(s.Value) {
			continue
		}
		if err != nil {
			return append(list, err.Error())
		}
		for _, c := range commands {
			var argv, flags []string
			words := c.words
			login := strings.Contains(c.prefix, "@")
			switch {
			case strings.Contains(c.prefix, "|"):
				flags = append(flags, "via-shell")
				argv = append(argv, map[bool]string{false: "sh", true: "-sh"}[login])
			case login:
				words = words[1:]
			}
			for _, w := range words {
				argv = append(argv, full(w.value))
			}
			for _, f := range []struct{ prefix, flag string }{{":", "no-env-expand"}, {"!!", "ambient"}, {"-", "ignore-failure"}, {"!", "no-setuid"}, {"+", "privileged"}} {
				if strings.Contains(c.prefix, f.prefix) && !(f.flag == "ambient" && version >= 258) && !(f.prefix == "!" && strings.Contains(c.prefix, "!!")) {
					flags = append(flags, f.flag)
				}
			}
			slices.Sort(flags)
			list = append(list, fmt.Sprintf("%q %q", flags, argv))
		}
	}
	return list
}

// words splits the values of a list setting, as those of Environment=.
func words(u *Unit, name string, full func(string) string) []string {
	var list []string
	for _, s := range u.List("Service", name) {
		for rest := s.Value; ; {
			rest = strings.TrimLeft(rest, blanks)
			if rest == "" {
				break
			}
			w, err := nextWord(rest, 0)
			if err != nil {
				break
			}
			list = append(list, full(w.value))
			rest = rest[w.end:]
		}
	}
	return list
}

// merged is how we name a path where /lib is a link to /usr/lib.
func merged(tree *Tree, file string) string {
	if !slices.Contains(tree.path, splitUsr) && strings.HasPrefix(file, "/lib/") {
		return "/usr" + file
	}
	return file
}

// agree holds what we read of a unit against what PID 1 says of it, and returns
// how many settings were compared.
func agree(t *testing.T, tree *Tree, name string, unit, service bus, machine []string) (count int) {
	plain := func(file string) string {
		resolved, err := tree.dir.Path(file)
		if err != nil {
			return file
		}
		return resolved
	}
	same := func(what string, ours, theirs any) {
		count++
		if fmt.Sprint(ours) != fmt.Sprint(theirs) {
			t.Errorf("%s: %s\nours   %v\nPID 1: %v", name, what, ours, theirs)
		}
	}
	u, err := tree.Load(name)
	state := unit.str(t, "LoadState")
	switch {
	case errors.Is(err, ErrNotFound):
		same("state", "not-found", state)
		return count
	case errors.Is(err, ErrMasked):
		same("state", "masked", state)
		return count
	case errors.Is(err, ErrSyntax):
		if state != "error" && state != "bad-setting" {
			same("state", err, state)
		}
		return count + 1
	case err != nil:
		t.Errorf("%s: %v; PID 1 says %s", name, err, state)
		return count
	case state == "bad-setting":
		// It does not start; what we make of it is of no consequence.
		return count
	}
	same("state", "loaded", state)
	same("name", u.Name, unit.str(t, "Id"))
	names := tree.names(u.Name)
	theirs := unit.list(t, "Names")
	slices.Sort(names)
	slices.Sort(theirs)
	same("names", names, theirs)
	same("file", plain(u.Fragment), plain(unit.str(t, "FragmentPath")))
	var dropIns, mine []string
	for _, file := range u.DropIns {
		mine = append(mine, plain(file))
	}
	for _, file := range unit.list(t, "DropInPaths") {
		if !tree.dir.IsNull(file) {
			dropIns = append(dropIns, plain(file))
		}
	}
	same("drop-ins", mine, dropIns)

	instance := strings.NewReplacer(append(u.specifiers(), machine...)...).Replace
	for _, exec := range []string{"ExecCondition", "ExecStartPre", "ExecStart", "ExecStartPost", "ExecReload", "ExecStop", "ExecStopPost"} {
		same(exec, ours(u, exec, tree.version, instance), service.commands(t, exec))
	}
	same("Environment", slices.Sorted(slices.Values(environment(words(u, "Environment", instance)))), slices.Sorted(slices.Values(service.list(t, "Environment"))))
	dynamic := false
	service.read(t, "DynamicUser", &dynamic)
	same("DynamicUser", u.Bool("Service", "DynamicUser"), dynamic)
	for _, s := range []string{"User", "RootDirectory", "RootImage"} {
		if dynamic && u.Last("Service", s) == "" {
			continue // User= then is the unit's name, if it can be
		}
		same(s, instance(u.Last("Service", s)), service.str(t, s))
	}
	if s := u.NotifyAccess(); s != "" {
		same("NotifyAccess", s, service.str(t, "NotifyAccess"))
	}
	if s := u.devicePolicy(); s != "" {
		same("DevicePolicy", s, service.str(t, "DevicePolicy"))
	}
	for _, s := range []string{"PrivateDevices", "PrivateMounts"} {
		on := false
		service.read(t, s, &on)
		same(s, u.Bool("Service", s), on)
	}
	same("RuntimeDirectory", slices.Compact(slices.Sorted(slices.Values(words(u, "RuntimeDirectory", instance)))), slices.Sorted(slices.Values(service.list(t, "RuntimeDirectory"))))
	structs := func(properties ...string) (all [][]any) {
		for _, property := range properties {
			if _, ok := service[property]; ok { // else newer than this systemd
				var list [][]any
				service.read(t, property, &list)
				all = append(all, list...)
			}
		}
		return all
	}
	// settings are ours, less those that are newer than this systemd.
	settings := func(names ...string) (values []string) {
		if !systemd.EncryptedCredentials.In(tree.version) {
			names = names[:1]
		}
		for _, s := range u.List("Service", names...) {
			values = append(values, instance(s.Value))
		}
		return values
	}
	credentials, theirCredentials := map[string]any{}, map[string]any{}
	for _, value := range settings("LoadCredential", "LoadCredentialEncrypted") {
		name, file, ok := strings.Cut(value, ":")
		if !ok {
			file = name
		}
		credentials[name] = file
	}
	for _, c := range structs("LoadCredential", "LoadCredentialEncrypted") {
		theirCredentials[fmt.Sprint(c[0])] = c[1]
	}
	same("LoadCredential", credentials, theirCredentials)
	set, theirSet := map[string]bool{}, map[string]bool{}
	for _, value := range settings("SetCredential", "SetCredentialEncrypted") {
		name, _, _ := strings.Cut(value, ":")
		set[name] = true
	}
	for _, c := range structs("SetCredential", "SetCredentialEncrypted") {
		theirSet[fmt.Sprint(c[0])] = true
	}
	same("SetCredential", set, theirSet)
	var files, theirFiles []string
	for _, value := range settings("EnvironmentFile") {
		file, optional := strings.CutPrefix(value, "-")
		files = append(files, fmt.Sprint(file, optional))
	}
	for _, f := range structs("EnvironmentFiles") {
		theirFiles = append(theirFiles, fmt.Sprint(f...))
	}
	same("EnvironmentFile", files, theirFiles)
	same("UnsetEnvironment", slices.Sorted(slices.Values(words(u, "UnsetEnvironment", instance))), slices.Sorted(slices.Values(service.list(t, "UnsetEnvironment"))))
	// To these PID 1 adds what follows from other settings.
	has := func(what, name string, of [][]any) {
		same(what+" "+name, true, slices.ContainsFunc(of, func(fields []any) bool { return fields[0] == name }))
	}
	for _, value := range settings("DeviceAllow") {
		has("DeviceAllow", strings.Fields(value)[0], structs("DeviceAllow"))
	}
	for _, word := range words(u, "TemporaryFileSystem", instance) {
		folder, _, _ := strings.Cut(word, ":")
		has("TemporaryFileSystem", path.Clean(folder), structs("TemporaryFileSystem"))
	}
	for _, s := range u.List("Service", "BindPaths", "BindReadOnlyPaths") { // one list
		for _, word := range strings.Fields(instance(s.Value)) {
			source, _, _ := strings.Cut(strings.TrimPrefix(word, "-"), ":")
			has(s.Name, path.Clean(source), structs(s.Name))
		}
	}

	for kind, property := range map[string]string{"Condition": "Conditions", "Assert": "Asserts"} {
		var list [][]any
		unit.read(t, property, &list)
		var theirs, mine []string
		for _, c := range list {
			theirs = append(theirs, fmt.Sprintf("%s %v %v %s", c[0], c[1], c[2], c[3]))
		}
		for _, s := range u.Checks(kind) {
			value, trigger := strings.CutPrefix(s.Value, "|")
			value, negate := strings.CutPrefix(value, "!")
			value = instance(value)
			if strings.HasPrefix(value, "/") {
				value = path.Clean(value)
			}
			if strings.Contains(s.Name, "Path") && (!strings.HasPrefix(value, "/") || strings.Contains(s.Value, "/../")) {
				continue // ignored
			}
			mine = append(mine, fmt.Sprintf("%s %v %v %s", strings.Replace(s.Name, "Assert", "Condition", 1), trigger, negate, value))
		}
		for i, c := range theirs {
			theirs[i] = strings.Replace(c, "Assert", "Condition", 1)
		}
		// PID 1 keeps them in the opposite order.
		slices.Sort(theirs)
		slices.Sort(mine)
		same(property, mine, theirs)
	}
	return count
}

// environment keeps the last of each variable, and leaves out what is no assignment.
func environment(assignments []string) []string {
	last := map[string]string{}
	for _, a := range assignments {
		name, _, ok := strings.Cut(a, "=")
		if ok && name != "" && strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_") == "" && (name[0] < '0' || name[0] > '9') {
			last[name] = a
		}
	}
	return slices.Collect(maps.Values(last))
}

// objectPath is where a unit is on the bus.
func objectPath(name string) string {
	var b strings.Builder
	b.WriteString("/org/freedesktop/systemd1/unit/")
	for i, c := range []byte(name) {
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || i > 0 && '0' <= c && c <= '9' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "_%02x", c)
		}
	}
	return b.String()
}

// specifiers are those of systemd.unit(5) that depend on the machine only. They
// are read from a unit that has all of them in its commands.
const specifiers = "TVHmbsvla"

const probe = "zz-probe.service"

func TestAgree(t *testing.T) {
	for _, version := range machine.Containers(t, 247, 257) {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			t.Parallel()
			m, err := machine.New(version)
			if errors.Is(err, machine.ErrNotSetUp) {
				t.Skip(err)
			}
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := m.Close(); err != nil {
					t.Error(err)
				}
			})
			testAgree(t, m)
		})
	}
}

func testAgree(t *testing.T, m *machine.Machine) {
	suite := m.Version
	if suite == 254 { // of bookworm's backports
		suite = 252
	}
	packages := filepath.Join(machine.Cache(), fmt.Sprintf("units-%d", suite))
	if _, err := os.Stat(packages); err != nil {
		t.Skip("run test/setup-packages as root first")
	}
	if err := m.InstallBootseal(); err != nil {
		t.Fatal(err)
	}
	copyTree := exec.Command("sh", "-c", `tar -C "$0" -c . | tar -C "$1" -x --keep-directory-symlink`, packages, m.Root)
	if out, err := copyTree.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	makeNasty(t, m)
	var text strings.Builder
	text.WriteString("[Service]\nExecStart=/bin/true")
	for _, c := range specifiers {
		fmt.Fprintf(&text, " %%%c", c)
	}
	if err := m.Write("/etc/systemd/system/"+probe, text.String()+"\n", 0o644); err != nil {
		t.Fatal(err)
	}
	dropIn, err := filepath.Glob(m.Path("/usr/lib/systemd/system/service.d/" + contract.DropInName))
	if err != nil || len(dropIn) == 0 {
		dropIn, _ = filepath.Glob(m.Path("/lib/systemd/system/service.d/" + contract.DropInName))
	}
	if len(dropIn) != 1 {
		t.Fatalf("installed drop-in: %v", dropIn)
	}
	// Without it, to see what the generated ones change.
	if err := os.Remove(dropIn[0]); err != nil {
		t.Fatal(err)
	}
	tree, err := ReadTree(root.Dir(m.Root), m.Version)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for name := range tree.files {
		if name == "bootseal-test.service" {
			continue
		}
		if prefix, ok := strings.CutSuffix(name, "@"+service); ok {
			name = prefix + "@in-st\\x2da" + service
		}
		names = append(names, name)
	}
	names = append(names, "none.service", "dash-ed-pre@x.service", "plain@one.service", "plain@two.service")
	slices.Sort(names)
	names = slices.Compact(names)
	var script strings.Builder
	script.WriteString("look() {\n")
	for _, name := range names {
		for _, kind := range []string{"Unit", "Service"} {
			fmt.Fprintf(&script, "busctl --json=short call org.freedesktop.systemd1 %s org.freedesktop.DBus.Properties GetAll s org.freedesktop.systemd1.%s || echo '{}'\n", objectPath(name), kind)
		}
	}
	script.WriteString("}\n")
	policies := map[string]plan{}
	for _, name := range names {
		u, err := tree.Load(name)
		if err != nil || u.Name != name || strings.HasPrefix(name, "bootseal") {
			continue
		}
		policies[name] = planFor(u)
	}
	writePolicies(t, m, tree, policies)
	script.WriteString(`
cp -a /root/run/. /run/
systemctl daemon-reload
echo "=== path"; systemctl show --property=UnitPath --value
echo "=== before"; look
`)
	out := run(t, m, script.String())
	maps.Copy(out, run(t, m, `
show() { systemctl show --all $(cat /root/names); }
verify() { SYSTEMD_UNIT_PATH=/run/systemd/generator: systemd-analyze verify --man=no $(cat /root/names) 2>&1 | sort -u; }
cp -a /root/run/. /run/
systemctl daemon-reload
echo "=== shown before"; show
echo "=== verified before"; verify
mkdir -p /etc/bootseal
mv /root/policies/* /etc/bootseal/
systemctl daemon-reload
echo "=== shown after"; show
echo "=== credentials"
for unit in $(cat /root/paths); do busctl --json=short get-property org.freedesktop.systemd1 $unit org.freedesktop.systemd1.Service LoadCredentialEncrypted 2>/dev/null || echo; done
echo "=== verified after"; verify
`))
	before := parseBus(t, names, out["before"])
	full := expander(t, before[probe][1])
	count := 0
	for _, name := range names {
		count += agree(t, tree, name, before[name][0], before[name][1], full)
	}
	var searched []string
	for _, folder := range strings.Fields(out["path"]) {
		folder = merged(tree, folder)
		if !strings.Contains(folder, "generator") && !slices.Contains(searched, folder) {
			searched = append(searched, folder)
		}
	}
	if !slices.Equal(tree.path, searched) {
		t.Errorf("PID 1 looks in\n%s; we look in\n%s", searched, tree.path)
	}
	count += changes(t, tree, policies, out)
	t.Logf("measured: systemd %d: %d units, %d settings compared", m.Version, len(names), count)
}

// run boots the machine for a script, whose output has sections that begin with
// "=== NAME" lines.
func run(t *testing.T, m *machine.Machine, script string) map[string]string {
	t.Helper()
	r, err := m.Boot(script)
	if err != nil {
		t.Fatal(err)
	}
	if r.Stderr != "" {
		t.Log(r.Stderr)
	}
	out := map[string]string{}
	for _, section := range strings.Split("\n"+r.Stdout, "\n=== ")[1:] {
		name, text, _ := strings.Cut(section, "\n")
		out[name] = text
	}
	return out
}

// parseBus reads two lines for each name.
func parseBus(t *testing.T, names []string, text string) map[string][2]bus {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if len(lines) != 2*len(names) {
		t.Fatalf("%d lines for %d units", len(lines), len(names))
	}
	all := map[string][2]bus{}
	for i, name := range names {
		var both [2]bus
		for j := range both {
			var reply struct{ Data []bus }
			if err := json.Unmarshal([]byte(lines[2*i+j]), &reply); err != nil || len(reply.Data) != 1 {
				t.Fatalf("%s: %v: %s", name, err, lines[2*i+j])
			}
			both[j] = reply.Data[0]
		}
		all[name] = both
	}
	return all
}

// expander replaces the specifiers of which the probe tells the values.
func expander(t *testing.T, service bus) (pairs []string) {
	t.Helper()
	var all [][]json.RawMessage
	service.read(t, "ExecStart", &all)
	var argv []string
	if err := json.Unmarshal(all[0][1], &argv); err != nil || len(argv) != 1+len(specifiers) {
		t.Fatalf("%v: %q", err, argv)
	}
	for i, c := range specifiers {
		pairs = append(pairs, "%"+string(c), argv[i+1])
	}
	return pairs
}

// makeNasty writes units that are hard to read.
func makeNasty(t *testing.T, m *machine.Machine) {
	t.Helper()
	files := maps.Clone(nasty)
	for file, text := range nasty {
		// A boot begins with an empty /run; the script fills it from there.
		if strings.HasPrefix(file, "/run/") {
			files["/root"+file] = text
		}
	}
	for file, text := range files {
		if target, link := strings.CutPrefix(text, "-> "); link {
			if err := os.MkdirAll(m.Path(path.Dir(file)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(target, m.Path(file)); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := m.Write(file, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

const (
	runtime = "/run/systemd/system/"
	loc     = "/usr/local/lib/systemd/system/"
)

var nasty = map[string]string{
	etc + "continue.service":   "[Service]\nExecStart=/bin/true one \\\n   two \\\n# a comment \\\n; and another\n\\\n\tthree\\\nfour\nEnvironment=A=1 \\\n\n[Service]\nUser=nobody\n",
	etc + "comments.service":   "# ends in a backslash \\\n[Service]\n; so does this \\\nExecStart=/bin/true # is no comment\n  # but this \\\nUser=nobody\n",
	etc + "reset.service":      "[Service]\nExecStart=/bin/false\nExecStart=\nExecStart=/bin/true\nEnvironment=A=1\nEnvironment=\nEnvironment=B=2 B=3\nUser=nobody\nUser=\nRuntimeDirectory=a b\nRuntimeDirectory=\nRuntimeDirectory=c\n",
	etc + "sections.service":   "[Unit]\nConditionPathExists=/a\n[Service]\nType=oneshot\nExecStart=/bin/true 1\n[Unit]\nConditionPathExists=!/b\n[X-Other]\nExecStart=/bin/false\n[Service]\nExecStart=/bin/true 2\n[Unknown]\nUser=nobody\n",
	etc + "headers.service":    "[Service]\nExecStart=/bin/true\n[Service\nUser=nobody\n",
	etc + "long.service":       "[Service]\nExecStart=/bin/true " + strings.Repeat("x", 100000) + "\n",
	etc + "limit.service":      "[Service]\nExecStart=/bin/true\nEnvironment=A=" + strings.Repeat("x", maxLine-100) + "\n",
	etc + "overlong.service":   "[Service]\nExecStart=/bin/true\nX-Long=" + strings.Repeat("x", maxLine) + "\n",
	etc + "joined.service":     "[Service]\nExecStart=/bin/true\nX-Long=" + strings.Repeat(strings.Repeat("x", 1000)+"\\\n", 1100) + "\n",
	etc + "bytes.service":      "[Service]\nExecStart=/bin/true a\nExecStartPre=/bin/true \xff\nUser=\xc3\x28\nEnvironment=A=ä\n",
	etc + "zero.service":       "[Service]\nExecStart=/bin/true a\x00User=nobody\nEnvironment=A=1\n",
	etc + "bom.service":        "\xef\xbb\xbf[Service]\nExecStart=/bin/true\n",
	etc + "bom2.service":       "# comment\n\xef\xbb\xbf[Service]\nExecStart=/bin/true\n",
	etc + "bom3.service":       "\xef\xbb\xbf# comment\\\n[Service]\n[Service]\nExecStart=/bin/true\n",
	etc + "crlf.service":       "[Service]\r\nExecStart=/bin/true a \\\r\n b\r\nUser=nobody\r\n\r\n",
	etc + "cr.service":         "[Service]\rExecStart=/bin/true a\r\rUser=nobody\n\r\nEnvironment=A=1\r",
	etc + "noeol.service":      "[Service]\nExecStart=/bin/true a\\",
	etc + "spaces.service":     "  [Service]  \n\t ExecStart \t=\t /bin/true   a\t b  \nUser = nobody\nExecStartPre=   \n=x\n",
	etc + "case.service":       "[service]\nExecStart=/bin/false\n[Service]\nexecstart=/bin/false\nEXECSTART=/bin/false\nExecStart=/bin/true\n",
	etc + "quotes.service":     "[Service]\nType=oneshot\nExecStart=/bin/true \"a b\" 'c \"d' e\"f g\"h '' \"\" \\\"i\\\" \"j\\\"k\" 'l\\'m'\nExecStart=\"/bin/true\" \"%%n\" %n '%p' $$A ${B} $C\nExecStart=/bin/true \\x41\\102\\u00e4\\U0001F600\\s\\t|\\n\\a\\b\\f\\r\\v\\\\\n",
	etc + "escapes.service":    "[Service]\nType=oneshot\nExecStart=/bin/sed s/\\d\\.\\w/x/ \\x4 \\xzz \\400 \\8 \\u12 \\q\\x41 a\\ b \"\\$x\" '\\;' b\\;c\nExecStart=/bin/true \\x00 \\000 \\u0000\n",
	etc + "semicolon.service":  "[Service]\nType=oneshot\nExecStart=/bin/true a ; /bin/true b ;\nExecStart=/bin/true \\; ; -/bin/true \";\" ;x x; ';' \\;x\nExecStart=; /bin/true c\n",
	etc + "prefix.service":     "[Service]\nType=oneshot\nExecStart=-/bin/true\nExecStart=@/bin/true zero one\nExecStart=-@/bin/true zero one\nExecStart=+/bin/true\nExecStart=!/bin/true\nExecStart=!!/bin/true\nExecStart=:/bin/true $A\nExecStart=-:@+/bin/true zero\nExecStart=\"-/bin/true\" x\nExecStart=true relative\n",
	etc + "badexec.service":    "[Service]\nExecStart=/bin/true \"open\n",
	etc + "badfirst.service":   "[Service]\nExecStart=\"/bin/true\nExecStart=/bin/true two\n",
	etc + "via-shell.service":  "[Service]\nType=oneshot\nExecStart=|/bin/true a\nExecStart=-@|/bin/true \"b c\"\n",
	etc + "places.service":     "[Service]\nExecStart=/bin/true %E %S %C %L %t %h %u %U %g %G\nEnvironmentFile=-%E/default/%p*\n",
	etc + "lists.service":      "[Service]\nExecStart=/bin/true\nSetCredential=a:1\nSetCredentialEncrypted=\nSetCredential=b:%%n\nSetCredential=%N:x y\nLoadCredential=old:/a\nLoadCredential=\nLoadCredential=new:/b c\nEnvironmentFile=/old\nEnvironmentFile=\nEnvironmentFile=-/etc/%p.env\nEnvironmentFile=/etc/*.env\nUnsetEnvironment=A\nUnsetEnvironment=\nUnsetEnvironment=B C=1\nDeviceAllow=/dev/zero r\nDeviceAllow=\nDeviceAllow=char-rtc r\nTemporaryFileSystem=/old\nTemporaryFileSystem=\nTemporaryFileSystem=/a:ro /b//c\nBindPaths=/old\nBindReadOnlyPaths=/old2\nBindPaths=\nBindReadOnlyPaths=-/x:/y /z\n",
	etc + "badpre.service":     "[Service]\nExecStartPre=-/bin/true \"open\nExecStartPre=-/bin/true ok\nExecStart=/bin/true\n",
	etc + "slashes.service":    "[Service]\nExecStart=/bin//true /a//b\nRootDirectory=/\n",
	etc + "bools.service":      "[Service]\nExecStart=/bin/true\nPrivateDevices=yes\nPrivateDevices=maybe\nPrivateMounts=on\nDynamicUser=T\nDynamicUser=\n",
	etc + "bools2.service":     "[Service]\nExecStart=/bin/true\nPrivateDevices=TRUE\nPrivateDevices=\n",
	etc + "access.service":     "[Service]\nExecStart=/bin/true\nNotifyAccess=all\nNotifyAccess=everybody\nDevicePolicy=closed\nDevicePolicy=open\n",
	etc + "env.service":        "[Service]\nExecStart=/bin/true\nEnvironment=\"A=1 2\" B='3' C=\"4\\\"5\" 'D=6 7' E=%n %% 1=2 F==x\nEnvironment=A=8\nEnvironment=bad-name=1\n",
	etc + "checks.service":     "[Unit]\nConditionPathExists=|!/a\nConditionPathExists=| ! /b\nConditionPathExists=| /b1\nConditionPathExists=! /b2\nConditionPathExists=|! /b3\nConditionPathExists=!|/b4\nConditionPathExists=/x/../b5\nConditionPathExists=/x//b6/./\nConditionPathExists=b7\nConditionUnknown=\nConditionFileNotEmpty=/%p/%N\nConditionHost=x\nAssertPathExists=/c/\nAssertFileNotEmpty=!/d\nConditionPathExistsGlob=/e*\n[Service]\nExecStart=/bin/true\n",
	etc + "checks2.service":    "[Unit]\nConditionPathExists=/a\nAssertPathExists=/b\nConditionHost=\nConditionPathExists=/c\nAssertHost=\n[Service]\nExecStart=/bin/true\n",
	etc + "credential.service": "[Service]\nExecStart=/bin/true\nLoadCredential=a:/a\nLoadCredential=b:/%n\nLoadCredential=a:/c\n",

	usr + "drop.service":                  "[Service]\nType=oneshot\nExecStart=/bin/true\nEnvironment=A=unit\n",
	usr + "drop.service.d/50-a.conf":      "[Service]\nEnvironment=A=usr\n",
	loc + "drop.service.d/50-a.conf":      "[Service]\nEnvironment=A=local\n",
	runtime + "drop.service.d/50-b.conf":  "[Service]\nEnvironment=B=run\n",
	etc + "drop.service.d/50-b.conf":      "[Service]\nEnvironment=B=etc\n",
	etc + "drop.service.d/10-z.conf":      "[Service]\nEnvironment=A=early Z=1\n",
	usr + "drop.service.d/60-off.conf":    "[Service]\nEnvironment=OFF=1\n",
	etc + "drop.service.d/60-off.conf":    "-> /dev/null",
	usr + "drop.service.d/61-off.conf":    "[Service]\nEnvironment=OFF=1\n",
	etc + "drop.service.d/61-off.conf":    "",
	etc + "drop.service.d/.hidden.conf":   "[Service]\nEnvironment=HIDDEN=1\n",
	etc + "drop.service.d/none.conf~":     "[Service]\nEnvironment=BACKUP=1\n",
	etc + "drop.service.d/dir.conf/x":     "",
	etc + "drop.service.d/70-bad.conf":    "[Service]\nEnvironment=BEFORE=1\n[Service\nEnvironment=AFTER=1\n",
	etc + "drop.service.d/80-lost.conf":   "-> /nowhere",
	etc + "drop.service.d/90-ä.conf":      "[Service]\nEnvironment=U=1\n",
	etc + "drop.service.d/90-B.conf":      "[Service]\nEnvironment=O=B\n",
	etc + "drop.service.d/90-a.conf":      "[Service]\nEnvironment=O=a\n",
	etc + "service.d/50-a.conf":           "[Service]\nEnvironment=A=wide\n",
	etc + "service.d/20-wide.conf":        "[Service]\nEnvironment=WIDE=1\n",
	usr + "drop2.service":                 "[Service]\nExecStart=/bin/true\n",
	etc + "drop2.service.d":               "-> ../../other.d",
	usr + "drop3.service":                 "[Service]\nExecStart=/bin/true\n",
	etc + "drop3.service.d":               "-> /srv/drop3.service.d",
	"/srv/drop3.service.d/10-linked.conf": "[Service]\nEnvironment=LINKED=1\n",
	usr + "drop4.service":                 "[Service]\nExecStart=/bin/true\n",
	etc + "drop4.service.d":               "-> /srv/drop3.service.d",
	usr + "drop5.service":                 "[Service]\nExecStart=/bin/true\n",
	etc + "drop5.service.d":               "-> drop.service.d",
	"/etc/other.d/10-linked.conf":         "[Service]\nEnvironment=LINKED=1\n",

	usr + "dash-ed-pre@.service":              "[Service]\nExecStart=/bin/true %i %I %j %J %p %P\n",
	usr + "dash-.service.d/10-a.conf":         "[Service]\nEnvironment=A=dash-\n",
	usr + "dash-ed-.service.d/10-a.conf":      "[Service]\nEnvironment=A=dash-ed-\n",
	usr + "dash-ed-@.service.d/10-b.conf":     "[Service]\nEnvironment=B=dash-ed-@\n",
	usr + "dash-ed-@x.service.d/10-b.conf":    "[Service]\nEnvironment=B=dash-ed-@x\n",
	usr + "dash-@.service.d/10-c.conf":        "[Service]\nEnvironment=C=dash-@\n",
	usr + "dash-ed-@x.service.d/10-c.conf":    "[Service]\nEnvironment=C=dash-ed-@x\n",
	usr + "dash-@x.service.d/10-d.conf":       "[Service]\nEnvironment=D=dash-@x\n",
	usr + "dash-ed-pre@.service.d/10-d.conf":  "[Service]\nEnvironment=D=dash-ed-pre@\n",
	usr + "dash-ed-pre@x.service.d/10-e.conf": "[Service]\nEnvironment=E=1\n",
	usr + "dash-ed-.service.d/10-g.conf":      "[Service]\nEnvironment=G=dash-ed-\n",
	usr + "dash-ed-@x.service.d/10-g.conf":    "[Service]\nEnvironment=G=dash-ed-@x\n",
	usr + "dash-ed-plain.service":             "[Service]\nExecStart=/bin/true %j\n",
	usr + "dash-ed--.service":                 "[Service]\nExecStart=/bin/true %j\n",
	usr + "dash-ed--two.service":              "[Service]\nExecStart=/bin/true %j %J\n",
	usr + "dash-ed--.service.d/10-f.conf":     "[Service]\nEnvironment=F=1\n",

	usr + "plain@.service":                                 "[Service]\nExecStart=/bin/true %i\nEnvironment=A=template\n",
	usr + "plain@two.service":                              "[Service]\nExecStart=/bin/true two\n",
	usr + "plain@.service.d/10-a.conf":                     "[Service]\nEnvironment=A=all\n",
	etc + "plain@one.service.d/10-b.conf":                  "[Service]\nEnvironment=B=one\n",
	etc + "also@.service":                                  "-> " + usr + "plain@.service",
	etc + "also@.service.d/10-c.conf":                      "[Service]\nEnvironment=C=alias\n",
	etc + "plain@three.service":                            "-> /dev/null",
	usr + "real.service":                                   "[Service]\nExecStart=/bin/true\n",
	etc + "alias.service":                                  "-> " + usr + "real.service",
	etc + "alias2.service":                                 "-> alias.service",
	etc + "alias2.service.d/10-a.conf":                     "[Service]\nEnvironment=A=alias2\n",
	etc + "linked.service":                                 "-> /opt/other-name.service",
	"/opt/other-name.service":                              "[Service]\nExecStart=/bin/true linked\n",
	etc + "dangling.service":                               "-> /opt/none.service",
	etc + "loop-a.service":                                 "-> loop-b.service",
	etc + "loop-b.service":                                 "-> loop-a.service",
	etc + "null.service":                                   "-> /dev/null",
	etc + "empty.service":                                  "",
	etc + "toalias.service":                                "-> ../../../usr/lib/systemd/system/real.service",
	etc + "other-type.service":                             "-> " + usr + "multi-user.target",
	etc + "instance@x.service":                             "-> " + usr + "plain@.service",
	etc + "down.service":                                   "[Service]\nExecStart=/bin/true etc\n",
	usr + "down.service":                                   "[Service]\nExecStart=/bin/true usr\n",
	"/usr/lib/systemd/system.attached/x":                   "",
	"/run/systemd/transient/tr.service":                    "[Service]\nExecStart=/bin/true transient\n",
	"/etc/systemd/system.control/down.service.d/50-c.conf": "[Service]\nEnvironment=CONTROL=1\n",
	"/etc/systemd/system.attached/att.service":             "[Service]\nExecStart=/bin/true attached\n",
}

// placed is the credential that every unit gets.
const placed = "agree-token"

// writePolicies writes a policy for each unit, and the list of their names.
func writePolicies(t *testing.T, m *machine.Machine, tree *Tree, policies map[string]plan) {
	t.Helper()
	var names, paths strings.Builder
	for _, name := range slices.Sorted(maps.Keys(policies)) {
		fmt.Fprintln(&names, name)
		if systemd.EncryptedCredentials.In(tree.version) {
			fmt.Fprintln(&paths, objectPath(name))
		}
		text := "[[credential]]\nname = \"" + placed + "\"\n"
		if o := policies[name].option; o != "" {
			text += "option = \"" + o + "\"\n"
		}
		if err := m.Write("/root/policies/"+name+".toml", text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for file, text := range map[string]string{"/root/names": names.String(), "/root/paths": paths.String()} {
		if err := m.Write(file, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// plan is what the policy of a unit asks for, and what the arguments of its
// ExecStart= then are to be, as "systemctl show" prints them.
type plan struct {
	unit          *Unit
	option        string
	before, after string
}

// planFor picks an option that the unit's only command has once, or one that it has
// not, or none where the unit has several commands or none that can take it.
func planFor(u *Unit) plan {
	p := plan{unit: u}
	commands, err := u.executions(u.List("Service", "ExecStart"))
	if err != nil || len(commands) != 1 || commands[0].stuck != nil || strings.ContainsAny(commands[0].prefix, "@:") {
		return p
	}
	words := commands[0].words
	for i := max(1, commands[0].start); i+1 < len(words); i++ {
		option, value := words[i].value, words[i+1].value
		if regexp.MustCompile(`^--?[a-z]+$`).MatchString(option) && regexp.MustCompile(`^[a-z/.]+$`).MatchString(value) && len(u.places(commands, option)) == 1 {
			p.option = option
			p.before = " " + option + " " + value
			p.after = " " + option + " ${CREDENTIALS_DIRECTORY}/" + placed
			return p
		}
	}
	p.option = "--agree"
	p.after = " --agree ${CREDENTIALS_DIRECTORY}/" + placed
	return p
}

// shown reads what "systemctl show" prints of several units: for each unit the
// lines of each property.
func shown(text string) map[string]map[string][]string {
	all := map[string]map[string][]string{}
	for _, block := range strings.Split(text, "\n\n") {
		properties := map[string][]string{}
		for _, line := range strings.Split(block, "\n") {
			name, value, _ := strings.Cut(line, "=")
			properties[name] = append(properties[name], value)
		}
		if id := properties["Id"]; len(id) == 1 {
			all[id[0]] = properties
		}
	}
	return all
}

// changes holds what PID 1 shows with the policies against what it showed
// without, and returns how many settings were compared.
func changes(t *testing.T, tree *Tree, policies map[string]plan, out map[string]string) (count int) {
	t.Helper()
	known := strings.Split(out["verified before"], "\n")
	for _, line := range strings.Split(out["verified after"], "\n") {
		switch {
		case line == "" || slices.Contains(known, line):
		case regexp.MustCompile("Failed to create|ordering cycle").MatchString(line): // depends on the order in which units are looked at
		case strings.Contains(line, "combination of Type=simple, ExecStartPost=, and credentials"):
		default:
			t.Errorf("systemd-analyze verify: %s", line)
		}
	}
	credentials := strings.Split(strings.TrimSpace(out["credentials"]), "\n")
	before, after := shown(out["shown before"]), shown(out["shown after"])
	if len(before) != len(policies) || len(after) != len(policies) {
		t.Errorf("%d policies, but PID 1 shows %d units before and %d after", len(policies), len(before), len(after))
	}
	blocked := 0
	for i, name := range slices.Sorted(maps.Keys(policies)) {
		was, is := before[name], after[name]
		if was["LoadState"][0] != "loaded" {
			continue
		}
		if strings.Contains(strings.Join(is["ExecStartPre"], ""), "bootseal refuse") {
			blocked++
			if !policies[name].refused(tree.version) {
				t.Errorf("%s is blocked: %s", name, is["ExecStartPre"])
			}
			continue
		}
		want := maps.Clone(was)
		policies[name].expect(want, name, tree.version)
		for property := range is {
			count++
			if volatile.MatchString(property) {
				continue
			}
			wanted, got := sorted(want[property]), sorted(is[property])
			if property == "DeviceAllow" && systemd.AllowsTPM.In(tree.version) {
				// systemd itself adds the TPM, where it opens it for the unit.
				got = sorted([]string{regexp.MustCompile(`(/dev/tpmrm0|char-tpm) rw`).ReplaceAllString(strings.Join(is[property], " "), "")})
			}
			if property == "After" && tree.version == 254 {
				// It orders most units after the mount of their credentials.
				wanted, got = credentialMount.ReplaceAllString(wanted, ""), credentialMount.ReplaceAllString(got, "")
			}
			if wanted != got {
				t.Errorf("%s: %s is\n%s, with a policy it is\n%s; want\n%s", name, property, was[property], is[property], want[property])
			}
		}
		if !policies[name].hooked(tree.version) {
			count++
			if want := fmt.Sprintf(`"%s","/etc/credstore.encrypted/%s"`, placed, placed); strings.Count(credentials[i], want) != 1 {
				t.Errorf("%s: LoadCredentialEncrypted is %s; want %s", name, credentials[i], want)
			}
		}
	}
	t.Logf("measured: systemd %d: %d units with a policy, of which %d cannot have one", tree.version, len(policies), blocked)
	return count
}

// volatile are properties that tell what runs or has run, not what is set: some units
// of a boot end between the two looks.
var volatile = regexp.MustCompile(`^(CPUUsageNSec|(Memory|Tasks|IP|IO).*|.*Timestamp.*|NeedDaemonReload|CanLiveMount|NFileDescriptorStore|Status.*|ExecMain.*|ControlPID|MainPID|(Active|Sub)State|FreezerState|Job|InvocationID|FileDescriptorStore.*|Effective.*|.*Result|ControlGroup|ControlGroupId|UID|GID|NRestarts|RestartUSecNext|Refs|.*OOMKills|.*QuotaUsage)$`)

var credentialMount = regexp.MustCompile(`"?run-credentials-[^ ]*\.mount"? ?`)

var running = regexp.MustCompile(` ; start_time=.*`)

// sorted makes a text of a property in which the order of what PID 1 keeps in
// sets does not show.
func sorted(lines []string) string {
	if text := strings.Join(lines, " "); !strings.HasPrefix(text, "{") {
		words := strings.Fields(text)
		slices.Sort(words)
		return strings.Join(words, " ")
	}
	var all []string
	for _, line := range lines {
		if line != "" {
			all = append(all, running.ReplaceAllString(line, ""))
		}
	}
	return strings.Join(all, "\n")
}

// refused tells whether no policy can hold for the unit on that systemd.
func (p plan) refused(version int) bool {
	u := p.unit
	if len(u.List("Service", "ExecStart")) == 0 {
		return true
	}
	// Debian's endlessh: it would not see its credential.
	if slices.ContainsFunc(u.List("Service", "InaccessiblePaths"), func(s Setting) bool { return slices.Contains(strings.Fields(s.Value), "/run") }) {
		return true
	}
	return !systemd.EncryptedCredentials.In(version) && (len(u.List("Service", "LoadCredential"))+len(u.List("Service", "SetCredential")) > 0 ||
		u.Last("Service", "RootDirectory")+u.Last("Service", "RootImage") != "" || u.TakesForSuccess(contract.HookStatus) != "")
}

// hooked tells whether the unit has its credential from the hook: where systemd opens
// none, or would take the failure to for an ExecCondition= that is not met.
func (p plan) hooked(version int) bool {
	return version < 250 || version >= 258 && len(p.unit.List("Service", "ExecCondition")) > 0
}

// readsLate tells whether a command after ExecStart= may read a credential, so that the
// unit has it in a place where such commands see it.
func (p plan) readsLate(version int) bool {
	if version < 252 || p.unit.Last("Service", "RootDirectory")+p.unit.Last("Service", "RootImage") != "" {
		return false
	}
	for _, name := range []string{"ExecStartPost", "ExecReload", "ExecStop", "ExecStopPost"} {
		for _, s := range p.unit.List("Service", name) {
			for _, program := range Programs(s.Value) {
				if !slices.Contains([]string{"kill", "systemctl", "rm", "mkdir", "true", "sleep", "systemd-tmpfiles", "touch", "pkill", "podman", "test", "chmod", "chown", "install"}, program.Name) {
					return true
				}
			}
		}
	}
	return false
}

// expect makes of what PID 1 shows without a policy what it is to show with it.
func (p plan) expect(properties map[string][]string, name string, version int) {
	u := p.unit
	command := func(property, argv, flags string) {
		ignore := "no"
		if strings.Contains(flags, "ignore-failure") {
			ignore = "yes"
		}
		ours := func(last string) string {
			return "{ path=/usr/bin/bootseal ; argv[]=/usr/bin/bootseal " + argv + " ; " + last
		}
		if property == "ExecStartPre" {
			properties[property] = append([]string{ours("ignore_errors=" + ignore)}, properties[property]...)
			properties[property+"Ex"] = append([]string{ours("flags=" + flags)}, properties[property+"Ex"]...)
			return
		}
		properties[property] = append(slices.Clone(properties[property]), ours("ignore_errors="+ignore))
		properties[property+"Ex"] = append(slices.Clone(properties[property+"Ex"]), ours("flags="+flags))
	}
	add := func(property, word string) {
		properties[property] = []string{strings.TrimSpace(strings.Join(properties[property], " ") + " " + word)}
	}
	quoted := func(word string) string {
		if strings.Contains(word, `\`) {
			return `"` + strings.ReplaceAll(word, `\`, `\\`) + `"`
		}
		return word
	}
	source := "/etc/credstore.encrypted/" + placed
	add("DropInPaths", quoted("/run/systemd/generator/"+name+".d/"+contract.DropInName))
	add("RequiresMountsFor", source)
	if after := strings.Fields(strings.Join(properties["After"], " ")); !slices.Contains(after, "-.mount") {
		add("After", "-.mount")
	}
	properties["PrivateMounts"] = []string{"yes"}
	if access := properties["NotifyAccess"][0]; access != "all" && access != "exec" {
		properties["NotifyAccess"] = []string{"exec"}
		if access == "none" {
			// What has no socket gets none.
			add("UnsetEnvironment", "NOTIFY_SOCKET")
		}
	}
	if p.hooked(version) {
		folder := "/run/bootseal/" + name
		user := ""
		if u.Last("Service", "User") != "" { // PID 1 also shows the name that DynamicUser= makes up
			user = "--user=" + strings.Join(properties["User"], "") + " "
		}
		command("ExecStartPre", "unseal --unit="+name+" "+user+placed+":"+source, "privileged")
		// 247 does not come to rest where a command of such a unit is missing.
		if u.Last("Service", "Type") != "exec" || len(u.List("Service", "ExecStopPost")) > 0 {
			command("ExecStopPost", "cleanup --unit="+name, "privileged")
		}
		for _, property := range []string{"Wants", "After", "BoundBy"} {
			add(property, quoted("bootseal-cleanup@"+name+".service"))
		}
		add("TemporaryFileSystem", "/run/bootseal:ro,mode=0755")
		add("BindReadOnlyPaths", "-"+folder+":"+folder+":rbind")
		add("Environment", quoted("CREDENTIALS_DIRECTORY="+folder))
	} else {
		if p.readsLate(version) {
			add("TemporaryFileSystem", "/run/bootseal:ro,mode=0755")
			add("BindReadOnlyPaths", "-/run/credentials/"+name+":/run/bootseal/"+name+":rbind")
			add("Environment", quoted("CREDENTIALS_DIRECTORY=/run/bootseal/"+name))
		}
		if strings.Contains(strings.Join(properties["ExecStart"], ""), "ignore_errors=yes") {
			verify := "verify --unit=" + name + " " + placed + ":" + source
			properties["ExecStartPre"] = append(slices.Clone(properties["ExecStartPre"]), "{ path=/usr/bin/bootseal ; argv[]=/usr/bin/bootseal "+verify+" ; ignore_errors=no")
			properties["ExecStartPreEx"] = append(slices.Clone(properties["ExecStartPreEx"]), "{ path=/usr/bin/bootseal ; argv[]=/usr/bin/bootseal "+verify+" ; flags=privileged")
		}
		// "+" is shown as privileged; systemd itself starts services with
		// credentials as Type=exec where they do not say.
		command("ExecStopPost", "explain --unit="+name+" "+placed+":"+source, "ignore-failure privileged")
		if systemd.WaitsForExec.In(version) && u.Last("Service", "Type") == "" && u.Last("Service", "BusName") == "" {
			properties["Type"] = []string{"exec"}
		}
		// So do we where it would load them for two processes at a time.
		if version >= 252 && len(u.List("Service", "ExecStartPost")) > 0 && properties["Type"][0] == "simple" {
			properties["Type"] = []string{"exec"}
		}
	}
	if u.RestrictsDevices() && (p.hooked(version) || !systemd.AllowsTPM.In(version)) {
		add("DeviceAllow", "char-tpm rw")
		if !strings.Contains(strings.Join(properties["Wants"], " "), "modprobe@tpm.service") {
			add("Wants", "modprobe@tpm.service")
			add("After", "modprobe@tpm.service")
		}
	}
	if p.option == "" {
		return
	}
	for _, property := range []string{"ExecStart", "ExecStartEx"} {
		line := properties[property][0]
		if p.before != "" {
			line = strings.Replace(line, p.before, p.after, 1)
		} else {
			line = strings.Replace(line, " ; ", p.after+" ; ", 2)
			line = strings.Replace(line, p.after+" ; ", " ; ", 1)
		}
		properties[property] = []string{line}
	}
}
