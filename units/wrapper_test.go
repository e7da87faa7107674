package units

import "testing"

// The end of a line is for the program that the wrappers on it start, where that is
// certain.
func TestWrappers(t *testing.T) {
	for _, line := range []string{
		// no wrapper that is known
		`/bin/a b`, `/bin/a sh`, `/bin/a -c sh b`, `/bin/a --shell /bin/bash`, `/bin/a $ARGS`, `/bin/time /bin/a`, `/sbin/ip netns exec x /bin/a`,
		`/usr/bin/python3 /opt/a.py`, `/bin/a env`, `/bin/a -`,
		// scripts
		`/bin/sh /opt/start serve`, `/bin/bash /opt/x/start.sh serve`, `/bin/bash -e /opt/x`, `/bin/bash -eu -o pipefail /opt/x`, `/bin/bash -euo pipefail /opt/x`,
		`/bin/bash +e /opt/x`, `/bin/bash +o posix /opt/x`, `/bin/bash --norc --noprofile /opt/x`, `/bin/bash --rcfile /f -x /opt/x`, `/bin/sh -- /opt/x`, `/bin/sh - /opt/x`,
		`/bin/bash --login /opt/x -c`, `@/bin/sh -sh /opt/x`, `/bin/busybox sh /opt/x`, `/bin/busybox httpd -f`, `@/bin/busybox sh /opt/x`, `/bin/env sh /opt/x`,
		`/usr/bin/env FOO=1 sh /opt/x`, `/usr/bin/env -S sh /opt/x`, `/usr/bin/env "-S sh -e" /opt/x`, `/usr/bin/env -iS 'A=1 sh' /opt/x`, `/bin/dash /usr/bin/env`,
		`"-/usr/bin/bash" /opt/x`, `/bin/sh /opt/%i`,
		// wrappers
		`/usr/bin/env A=1 B=${C} a b`, `/usr/bin/env - -u X -C /w a`, `/usr/bin/env --unset X --chdir=/w -- A=1 a`, `/bin/nice a`, `/bin/nice -5 a`, `/bin/nice -n -5 -- a`,
		`/bin/nice --adjustment=5 a`, `/bin/nice -n ${N} a`, `/bin/ionice -c3 a`, `/bin/ionice -c 2 -n 7 -t a`, `/bin/chrt -f 10 a`, `/bin/chrt --rr -R 10 a`, `/bin/taskset 3 a`,
		`/bin/taskset -c 0-3 a`, `/bin/setpriv --reuid=x --init-groups --nnp a`, `/bin/setpriv --reuid x --clear-groups -- a`, `/sbin/runuser -u x -- a`,
		`/sbin/runuser -ux -g y -- a b`, `/sbin/runuser --user=x -- sh /opt/x`, `/bin/su x -- /opt/x`, `/bin/su - x -s /bin/sh -- /opt/x y`, `/bin/su -- - x /opt/x`, `/sbin/runuser x -- -e /opt/x`, `/bin/sudo -u x a`,
		`/bin/sudo -nEu x -- A=1 a`, `/bin/sudo --user x --preserve-env=A a`, `/bin/doas -u x a`, `/bin/unshare -n a`, `/bin/unshare --net=/n --mount -fp --propagation slave a`,
		`/bin/nsenter --net=/n a`, `/bin/setsid -w a`, `/bin/timeout -k 5 10 a`, `/bin/timeout --signal=KILL 10s a`, `/bin/stdbuf -oL -e 0 a`, `/bin/flock -n /f a -c`, `/bin/flock -w 5 /f a`,
		`/bin/prlimit --nofile=100 -n100:200 a`, `/bin/nohup a`, `/bin/numactl --interleave=all a`, `/bin/numactl -N 0 -m 0 -- a`, `/usr/bin/systemd-inhibit --what=sleep a`,
		`/usr/bin/systemd-cat -t x a`, `/sbin/start-stop-daemon --start --exec /bin/a --`, `/sbin/start-stop-daemon -S -x /bin/env -- A=1 b`, `/sbin/start-stop-daemon -Sqbx /bin/sh -- /opt/x`,
		`/sbin/capsh --drop=all --user=x -- /opt/x`, `/bin/gosu x a`, `/sbin/su-exec x:y a`, `/sbin/tini -- a`, `/sbin/tini -s -p 9 -- a`, `/bin/dumb-init -- sh /opt/x`, `/bin/catatonit -- a`,
		`/bin/chpst -u x -o 100 a`, `/bin/s6-setuidgid x a`, `/bin/softlimit -m 1000 a`, `/bin/strace -f -o /o a`, `/bin/valgrind --tool=x -q a`, `/bin/daemon -n x -- a`,
		`/bin/nice -n 5 ionice -c3 setsid env A=1 sh /opt/x`, `@/usr/bin/nice zero -n 5 a`,
	} {
		want := line + " --token ${CREDENTIALS_DIRECTORY}/t"
		if got, err := setOptions("ExecStart="+line, token); got != want || err != nil {
			t.Errorf("%s: %s, %v; want it at the end", line, got, err)
		}
	}
	for _, line := range []string{
		// scripts in the line, or none
		`/bin/sh -c a`, `"-/usr/bin/bash" -c a`, `/bin/sh -ec a`, `/bin/bash -lc a`, `/bin/sh -cx a`, `/bin/sh -e -c a`, `/bin/bash -o pipefail -c a`, `/bin/bash -eo pipefail -c a`,
		`/bin/bash -oe pipefail -c a`, `/bin/bash --norc -c a`, `/bin/bash --rcfile /f -c a`, `/bin/sh +e -c a`, `/bin/sh`, `/bin/sh -e`, `/bin/sh -s`, `/bin/sh -s a`, `/bin/sh -`, `/bin/sh --`, `/bin/sh -i`,
		`/bin/sh -- -c a`, `/bin/sh $ARGS`, `/bin/sh ${SCRIPT}`, `/bin/bash -O extglob -c a`, `/bin/bash --strange /opt/x`, `/bin/busybox sh -c a`, `@/bin/busybox sh -c a`, `/bin/busybox`,
		`@/bin/sh sh -c a`, `/usr/bin/env FOO=1 sh -c a`, `/usr/bin/env -S 'sh -c' a`, `/usr/bin/env A=1 bash -ec 'exec a'`, `/usr/sbin/runuser -u a -- /bin/sh -c b`, `|a; b`, `|/bin/a`, `-|/bin/sh /opt/x`,
		`/opt/wrap sh -c a`, `/opt/wrap bash --norc -c a`, `/opt/wrap su x -c a`, `/opt/wrap runuser x -c a`, `/bin/sh /opt/start sh -c a`,
		`/bin/fish -c a`, `/bin/tcsh -c a`,
		// another program's "--", or nobody's
		`/bin/a -v -- b`, `/opt/wrap -- a`, `/bin/a --`, `/bin/sh /opt/x -- b`, `/bin/nice -- a -- b`, `/usr/bin/env a -- b`, `/bin/timeout 5 -- a`, `/sbin/tini -- a -- b`,
		`/opt/wrap -- /bin/a --token x`, `/opt/wrap -- /bin/a --token=x`, `/usr/bin/env -S 'a --' b`,
		// wrappers that have the end of the line for themselves, or for a shell
		`/bin/su x -c a`, `/bin/su x --command=a`, `/bin/su -c a x`, `/bin/su - x`, `/bin/su x a`, `/bin/su x -- -c a`, `/bin/su x --`, `/sbin/runuser -u x a`, `/sbin/runuser x -c a`, `/sbin/runuser -l x -c a`,
		`/sbin/runuser -u x a -- b`, `/bin/sudo -i a`, `/bin/sudo -s a`, `/bin/sudo -u x`, `/bin/sudo -l`, `/bin/flock /f -c a`, `/bin/flock /f --command a`, `/bin/flock -n 9`, `/usr/bin/script -c a`, `/usr/bin/script -qc a /f`,
		`/usr/bin/sg x a`, `/sbin/start-stop-daemon --start --exec /bin/a`, `/sbin/start-stop-daemon -S -x /bin/a b`, `/sbin/start-stop-daemon -S -- b`, `/sbin/start-stop-daemon -S -x /bin/sh -- -c a`,
		`/sbin/capsh -- -c a`, `/sbin/capsh --print`, `/usr/bin/xargs -a /f b`, `/bin/daemon a`,
		// other files
		`/sbin/chroot /srv a`, `/bin/nsenter -t 1 -m a`, `/bin/nsenter -a -t 1 -- a`, `/bin/unshare --root /srv a`, `/bin/unshare -R/srv a`, `/bin/sudo -R /srv a`, `/bin/chpst -/ /srv a`, `/sbin/start-stop-daemon -S -r /srv -x /bin/a --`,
		`/usr/bin/systemd-run a`, `/usr/bin/systemd-run --scope -- a`, `/usr/bin/docker run x`, `/usr/bin/podman run x -- a`, `/bin/bwrap --bind / / a`, `/usr/bin/firejail a`, `/bin/ssh x a`, `/bin/nice podman run x`,
		// a command that is not known, or not there
		`/bin/nice $ARGS a`, `/bin/nice -n $N a`, `/bin/nice ${PROGRAM} b`, `/usr/bin/env $PROGRAM`, `/usr/bin/env A=1`, `/bin/nice`, `/bin/nice -n`, `/bin/nice --strange a`, `/bin/setpriv --strange x a`,
		`/bin/setpriv --dump`, `/bin/ionice -p 1`, `/bin/taskset -p 1`, `/bin/timeout 5`, `/usr/bin/env -S "a 'b c'"`, `/usr/bin/env -S a${B} c`, `/bin/unshare -m`, `/bin/nice -n 5 ;`,
	} {
		if got, err := setOptions("ExecStart="+line, token); err == nil {
			t.Errorf("%s: %s; want a refusal", line, got)
		}
	}
	// With the ":" prefix, systemd replaces no variables.
	if got, err := setOptions("ExecStart=:/bin/sh $x", token); got != ":/bin/sh $x --token %d/t" || err != nil {
		t.Errorf("%s, %v", got, err)
	}
}
