package units

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

// wrappers are the programs that start another one whose command line ends theirs, and
// how they read what goes before it; shells are among them, for the script that they
// run. A letter or name is an option. After it stands
//
//	:   where it takes a value
//	?   where it may have a value, joined to it
//	@   where its value is the folder that the command starts in
//	%   where its value has words of the command
//	!   where its value, or what follows, is a text that a shell runs
//	^   where the command gets another root directory
//
// Options that only do something else than to start the command are left out, as
// unknown ones make it uncertain where the command begins. <word> goes before the
// command, and (word) is one of
//
//	(=)       assignments of variables may go before the command
//	(--)      only what stands after "--" is left to the command
//	(any)     other options have no value, or one that is joined to them
//	(number)  an option may be a number
//	(exec)    options name the program of the command
//	(sh)      the command is the arguments of a shell
//	(home)    the command may start in another folder
//	(script)  the command is a shell script
var wrappers = map[string]string{
	"bash": shell, "sh": shell, "dash": shell, "ash": shell, "ksh": shell, "ksh93": shell, "mksh": shell,
	"rbash": shell, "yash": shell, "zsh": shell, "fish": shell, "csh": shell, "tcsh": shell,
	"busybox": "", "toybox": "",

	"env":               "(=) - i ignore-environment u: unset: C@ chdir@ S% split-string% v debug a: argv0: block-signal default-signal ignore-signal list-signal-handling",
	"nice":              "(number) n: adjustment:",
	"ionice":            "c: class: n: classdata: t ignore",
	"chrt":              "<priority> a all-tasks b batch d deadline e ext f fifo i idle o other r rr R reset-on-fork T: sched-runtime: P: sched-period: D: sched-deadline: v verbose",
	"taskset":           "<mask> a all-tasks c cpu-list",
	"setpriv":           "nnp no-new-privs ambient-caps: inh-caps: bounding-set: ruid: euid: reuid: rgid: egid: regid: clear-groups keep-groups init-groups groups: securebits: pdeathsig: ptracer: selinux-label: apparmor-profile: landlock-access: landlock-rule: seccomp-filter: reset-env",
	"runuser":           su + " u: user:",
	"su":                su,
	"sudo":              "(=) A askpass b background B bell E preserve-env H set-home n non-interactive P preserve-groups S stdin N no-update u: user: g: group: p: prompt: C: close-from: r: role: t: type: T: command-timeout: D@ chdir@ R^ chroot^ i! login! s! shell!",
	"doas":              "n u: C: a: s!",
	"unshare":           "m? mount u? uts i? ipc n? net p? pid U? user C? cgroup T? time f fork map-user: map-group: r map-root-user c map-current-user map-auto map-users: map-groups: kill-child mount-proc propagation: setgroups: keep-caps S: setuid: G: setgid: monotonic: boottime: w@ wd@ R^ root^",
	"nsenter":           "n? net i? ipc u? uts C? cgroup T? time t: target: S: setuid: G: setgid: preserve-credentials F no-fork w@ wd@ m^ mount^ a^ all^ r^ root^ W^ wdns^",
	"setsid":            "c ctty f fork w wait",
	"timeout":           "<duration> f foreground p preserve-status k: kill-after: s: signal: v verbose",
	"stdbuf":            "i: input: o: output: e: error:",
	"flock":             "<file> s shared x e exclusive n nb nonblock w: wait: timeout: E: conflict-exit-code: o close F no-fork fcntl verbose c! command!",
	"prlimit":           "c? core d? data e? nice f? fsize i? sigpending l? memlock m? rss n? nofile q? msgqueue r? rtprio s? stack t? cpu u? nproc v? as x? locks y? rttime verbose",
	"nohup":             "",
	"numactl":           "a all b balancing i: interleave: w: weighted-interleave: N: cpunodebind: m: membind: C: physcpubind: l localalloc p: preferred: P: preferred-many:",
	"capsh":             "(--) (any) (sh) chroot^",
	"strace":            "e: trace: o: output: s: string-limit: u: user: E: env: P: trace-path: I: interruptible: a: columns: X: O: S: U: b: f follow-forks F i k n q r t T v x y Y z Z c C w d D A",
	"valgrind":          "(any)",
	"gosu":              "<user>",
	"su-exec":           "<user>",
	"tini":              "e: g h l p: s v w",
	"dumb-init":         "c single-child r: rewrite: v verbose",
	"catatonit":         "g",
	"chpst":             "u: U: b: e: n: l: L: m: d: o: p: f: c: r: t: v P 0 1 2 C@ /^",
	"softlimit":         "a: c: d: f: l: m: o: p: r: s: t:",
	"daemon":            "(--) (any) (home)",
	"setuidgid":         "<user>",
	"envuidgid":         "<user>",
	"envdir":            "<folder>",
	"s6-envdir":         "<folder> i f n",
	"s6-softlimit":      "H h a: c: d: f: l: m: o: p: r: s: t:",
	"s6-setuidgid":      "<user>",
	"systemd-inhibit":   "what: who: why: mode: no-pager no-legend no-ask-password",
	"systemd-cat":       "t: identifier: p: priority: stderr-priority: level-prefix: namespace:",
	"start-stop-daemon": "(--) (exec) S start x: exec: a: startas: p: pidfile: n: name: u: user: pid: ppid: g: group: c: chuid: d@ chdir@ r^ chroot^ N: nicelevel: P: procsched: I: iosched: k: umask: b background notify-await notify-timeout: C no-close O: output: m make-pidfile remove-pidfile o oknodo q quiet v verbose",
}

// su takes what comes after the user for arguments of a shell. So does runuser, but
// for -u.
const su = "(--) (sh) (home) <user> - c! command! session-command! l login f fast s: shell: g: group: G: supp-group: w: whitelist-environment: m p preserve-environment P pty T no-pty"

// shell lacks -s, with which the script is read from the standard input.
const shell = "(script) - a b e f h i k l m n p r t u v x B C D E H P T o: O: norc noprofile noediting posix login restricted verbose rcfile: init-file: c! command!"

// never are the programs that start another one, but with which an option at the end
// of the line is not that one's, or of no use to it.
var never = map[string]error{
	"script": errText, "watch": errText, "sg": errText,
	"xargs": errInput, "parallel": errInput,
	"chroot": errRoot, "systemd-run": errRoot, "systemd-nspawn": errRoot, "machinectl": errRoot, "docker": errRoot,
	"podman": errRoot, "nerdctl": errRoot, "runc": errRoot, "crun": errRoot, "lxc-execute": errRoot, "bwrap": errRoot,
	"firejail": errRoot, "flatpak": errRoot, "snap": errRoot, "ssh": errRoot,
}

const maxWrappers = 16 // in one command

var (
	errText  = errors.New("a shell runs what follows as a text")
	errInput = errors.New("its command goes on with what it reads")
	errRoot  = errors.New("its command gets other files than the unit's")
)

// reading is how the programs of a command read it.
type reading struct {
	args  []string // the program that the wrappers start in the end, and its arguments
	made  int      // how many of args are no words of the command
	start int      // index of the first word that is not of a wrapper before it
	moved bool     // whether it may start in another folder than the unit's
	stuck error    // why it is not certain that the end of the line is that program's
}

// read finds the program that c comes to.
func (u *Unit) read(c command) (r reading) {
	for _, w := range c.words {
		r.args = append(r.args, u.Expand(w.value))
	}
	if strings.Contains(c.prefix, "@") && len(r.args) > 1 {
		// The second word is what the program takes for its own name.
		if name := path.Base(r.args[0]); name == "busybox" || name == "toybox" {
			r.args, r.start = r.args[1:], 1
		} else {
			r.args, r.start, r.made = append(r.args[:1:1], r.args[2:]...), 2, 1
		}
	}
	if strings.Contains(c.prefix, "|") {
		r.stuck = errText
		return r
	}
	variables := !strings.Contains(c.prefix, ":")
	for range maxWrappers {
		in, err := unwrap(r.args, variables)
		if err != nil {
			r.stuck = fmt.Errorf("%s: %w", path.Base(r.args[0]), err)
			return r
		}
		r.moved = r.moved || in.moved
		if in.at > 0 {
			r.start += max(0, in.at-r.made)
			r.made = max(0, r.made-in.at) + len(in.made)
			r.args = append(in.made, r.args[in.at:]...)
		}
		if in.at == 0 || in.script {
			r.stuck = ends(r.args, variables)
			return r
		}
	}
	r.stuck = errors.New("it has more wrappers than bootseal follows")
	return r
}

// ends tells why it is not certain that the end of a program's command line is its own.
func ends(args []string, variables bool) error {
	name := path.Base(args[0])
	for i, arg := range args[1:] {
		if arg == "--" {
			return fmt.Errorf(`%s: what stands after "--" may be of another program, or no option`, name)
		}
		// Whatever that program is, it may start this one.
		if spec := wrappers[path.Base(arg)]; strings.Contains(spec, "!") {
			if _, err := unwrap(args[1+i:], variables); errors.Is(err, errText) {
				return fmt.Errorf("%s: %w", path.Base(arg), err)
			}
		}
	}
	return nil
}

// inner is the command that a wrapper starts: made, and then its arguments from at on.
// Where at is 0 there is none, the program being no wrapper.
type inner struct {
	made          []string
	at            int
	moved, script bool
}

// unwrap finds the command among the arguments of a wrapper.
func unwrap(args []string, variables bool) (in inner, err error) {
	name := path.Base(args[0])
	spec, known := wrappers[name]
	if !known {
		return in, never[name]
	}
	l := layer{args: args, variables: variables, spec: strings.Fields(spec), values: map[string]string{}}
	return l.read()
}

// layer is a wrapper that is being read.
type layer struct {
	args      []string
	variables bool     // whether systemd replaces them
	spec      []string // of wrappers
	values    map[string]string
	next      int // index of the next argument
	in        inner
}

func (l *layer) has(word string) bool { return slices.Contains(l.spec, word) }

// kind is what the table says of an option: ' ' for one without a value.
func (l *layer) kind(option string) (kind byte, err error) {
	for _, word := range l.spec {
		if rest, ok := strings.CutPrefix(word, option); ok && len(rest) < 2 && strings.Trim(rest, ":?@%!^") == "" {
			return (rest + " ")[0], nil
		}
	}
	if l.has("(any)") {
		return '?', nil
	}
	dashes := "--"
	if len(option) == 1 {
		dashes = "-"
	}
	return 0, fmt.Errorf("with %s%s it is not known what it starts", dashes, option)
}

// word takes the next argument, which has to be one word, of whatever text.
func (l *layer) word() (string, error) {
	if l.next == len(l.args) {
		return "", errors.New("its arguments end early")
	}
	word := l.args[l.next]
	if l.variables && strings.HasPrefix(word, "$") && !strings.HasPrefix(word, "$$") && !strings.HasPrefix(word, "${") {
		return "", fmt.Errorf("how many words %s is, is known only when the unit starts", word)
	}
	l.next++
	return word, nil
}

// variable tells whether the next argument is one that only systemd knows.
func (l *layer) variable() bool {
	word := l.args[l.next]
	return l.variables && strings.HasPrefix(word, "$") && !strings.HasPrefix(word, "$$")
}

// read finds the command after the options and other words of the wrapper.
func (l *layer) read() (inner, error) {
	taken, ended := 0, false
	for l.next = 1; l.next < len(l.args) && !ended; {
		if l.variable() {
			return l.in, fmt.Errorf("what %s is, is known only when the unit starts", l.args[l.next])
		}
		word := l.args[l.next]
		var err error
		switch {
		case word == "--":
			ended = true
			l.next++
		case word == "-" && l.has("-"):
			l.next++
		case strings.HasPrefix(word, "--"):
			err = l.long(word[2:])
		case len(word) > 1 && (word[0] == '-' || word[0] == '+' && l.has("(script)")):
			err = l.short(word[1:])
		case l.has("(--)"):
			taken++
			l.next++
		default:
			ended = true
		}
		if err != nil || l.in.made != nil {
			return l.in, err
		}
	}
	if l.values["u"]+l.values["user"] != "" {
		l.spec = slices.DeleteFunc(l.spec, func(word string) bool { return slices.Contains([]string{"(sh)", "(home)", "<user>"}, word) })
	}
	needed := 0
	for _, word := range l.spec {
		if strings.HasPrefix(word, "<") {
			needed++
		}
	}
	if l.has("(--)") && (!ended || taken > needed && !l.has("(any)")) {
		return l.in, errors.New(`without "--" before the command it takes options for its own`)
	}
	for taken < needed {
		word, err := l.word()
		if err != nil {
			return l.in, err
		}
		if word != "-" || !l.has("-") {
			taken++
		}
	}
	return l.command()
}

// command ends the reading of a layer where its command begins.
func (l *layer) command() (inner, error) {
	l.in.moved = l.in.moved || l.has("(home)")
	l.in.at = l.next
	if l.has("(sh)") {
		l.in.made = []string{"sh"}
		return l.in, nil
	}
	if l.has("(exec)") {
		for _, option := range []string{"startas", "a", "exec", "x"} {
			if program := l.values[option]; program != "" {
				l.in.made = []string{program}
				return l.in, nil
			}
		}
		return l.in, errors.New("it names no program")
	}
	for l.next < len(l.args) && !l.variable() && l.has("(=)") && strings.Contains(l.args[l.next], "=") {
		l.next++
	}
	l.in.at = l.next
	switch {
	case l.next == len(l.args) && l.has("(script)"):
		return l.in, errors.New("it has no script file")
	case l.next == len(l.args):
		return l.in, errors.New("it has no command")
	case l.variable():
		return l.in, fmt.Errorf("what %s is, is known only when the unit starts", l.args[l.next])
	}
	if option := strings.TrimLeft(l.args[l.next], "-"); option != l.args[l.next] {
		if kind, err := l.kind(option); err != nil || kind != '!' {
			return l.in, fmt.Errorf("it has %s where its command should be", l.args[l.next])
		}
		return l.in, errText
	}
	l.in.script = l.has("(script)")
	return l.in, nil
}

// long reads an option such as --name or --name=value.
func (l *layer) long(option string) error {
	option, value, joined := strings.Cut(option, "=")
	kind, err := l.kind(option)
	if err == nil && len(option) < 2 {
		err = fmt.Errorf("it has no option --%s", option)
	}
	if err != nil {
		return err
	}
	l.next++
	return l.option(option, kind, value, joined)
}

// short reads letters such as -x, -xy and -xVALUE.
func (l *layer) short(letters string) error {
	if _, err := strconv.Atoi(letters); err == nil && l.has("(number)") {
		l.next++
		return nil
	}
	l.next++
	for i := range len(letters) {
		kind, err := l.kind(letters[i : i+1])
		if err != nil {
			return err
		}
		rest := letters[i+1:]
		if l.has("(script)") && kind == ':' {
			rest = "" // A shell takes them for further options.
		}
		if err := l.option(letters[i:i+1], kind, rest, rest != ""); err != nil {
			return err
		}
		if kind != ' ' && !l.has("(script)") {
			return nil
		}
	}
	return nil
}

// option reads the value of an option, if it takes one.
func (l *layer) option(name string, kind byte, value string, joined bool) (err error) {
	switch kind {
	case '!':
		return errText
	case '^':
		return errRoot
	case ' ', '?':
		return nil
	}
	if !joined {
		if value, err = l.word(); err != nil {
			return err
		}
	}
	l.values[name] = value
	switch kind {
	case '@':
		l.in.moved = true
	case '%':
		if strings.ContainsAny(value, "\\\"'$#") {
			return fmt.Errorf("which words %s has is not certain", value)
		}
		// It reads on as if they had been its own.
		l.in.made = append([]string{l.args[0]}, strings.Fields(value)...)
		l.in.at = l.next
	}
	return nil
}
