package e2e

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/bootseal/bootseal/test/story"
)

// commandLines are arguments for systemd-creds, as a shell reads them. "o" does not
// exist before each. Left out is what bootseal does otherwise on purpose: the texts
// of help and version; names that systemd could not read back from --pretty; PCRs
// that nothing was measured into; a public key that is not there; empty secrets to
// encode, on which systemd-creds 262 fails an assertion.
const commandLines = `

list
list --no-legend
list --json=short
list --json=pretty
list --json=help
list --json=bogus
list --system
list extra
list --uid=root
-qH list
-pz list
--no-pager list
--no-leg list
--tpm2-pub=x list
--js=short list
--with-key=help
--transcode=help
--json=help
--timestamp=bogus list
--tpm2-pcrs=foo list
--quiet=x list
--user=x list
cat
cat aa zz
cat aa missing zz
cat garbage aa
cat aa garbage zz
cat renamed aa
cat old aa
cat --refuse-null null aa
cat link
cat ../aa zz
cat ''
cat aa --newline=yes
cat aa --newline=bogus
cat zz sealed --newline=yes
cat aa --transcode=hex
cat large --transcode=base64
cat aa --transcode=unhex
cat aa --transcode=unbase64
cat base64 --transcode=unbase64
cat hex --transcode=unhex
cat aa --transcode=yes
cat json --json=short
cat json --json=pretty
cat json --json=short --transcode=hex
cat sealed
cat scoped
cat sealed --uid=root
cat aa -- --newline=yes
decrypt
decrypt aa.cred
decrypt aa.cred o && cat o
decrypt - <aa.cred
decrypt --name=bb - <aa.cred
decrypt named
decrypt --name=other named
decrypt anonymous
decrypt expired
decrypt --timestamp=2000-06-01 expired
decrypt --refuse-null null.cred
decrypt --allow-null --refuse-null null.cred
decrypt --refuse-null --allow-null null.cred
decrypt --allow-null=yes null.cred
decrypt tpm2.cred
decrypt --tpm2-device=auto tpm2.cred
decrypt missing
decrypt empty
decrypt --uid=root aa.cred
decrypt --name=scoped credentials/encrypted/scoped
decrypt --uid=self credentials/encrypted/scoped
decrypt --uid=nobody credentials/encrypted/scoped
decrypt --newline=yes aa.cred
decrypt --nam=aa.cred aa.cred
decrypt aa.cred /missing/o
decrypt aa.cred /dev/null
decrypt --bogus aa.cred
dec aa.cred
encrypt plain
encrypt plain o x
encrypt over o
encrypt max o && decrypted o | wc -c
encrypt empty o && decrypted o
encrypt plain o && decrypted o && type o
encrypt plain - | widths
encrypt --name=x - - <plain | widths
encrypt -p plain - | widths
encrypt -p --name=x plain - | widths
encrypt -p --name= plain - | widths
encrypt -p --name=x plain o && widths <o
encrypt -H --pretty=1 plain o
encrypt -H plain 'o:x'
encrypt -H plain --name=q o && type o
encrypt -T -H plain o && type o
encrypt --with-key=null plain o && type o
encrypt --with-key=auto plain o && type o
encrypt --with-key=auto-initrd plain o && type o
encrypt -H -T plain o && type o
encrypt --with-key=tpm2 plain o && type o && decrypted o
encrypt --with-key=host+tpm2 plain o && type o && decrypted o
encrypt --with-key=tpm2-with-public-key plain o
encrypt --with-key=bogus plain o
encrypt -T --tpm2-pcrs=7 plain o && type o && decrypted o
encrypt -T --tpm2-pcrs= plain o && type o
encrypt -T --tpm2-pcrs=7+7 plain o
encrypt -T --tpm2-pcrs=7:sha256 plain o
encrypt -T --tpm2-device=swtpm:path=/missing plain o
encrypt -H --tpm2-pcrs=7 plain o && type o
encrypt -H --timestamp=2020-01-01 plain o && type o
encrypt -H --not-after= plain o
encrypt -H --not-after=infinity plain o
encrypt -H --timestamp=2001-01-01 --not-after=2001-01-01 plain o
encrypt -H --timestamp=2001-01-01 --not-after='2001-01-01 00:00:01' plain o && decrypted o
encrypt -H --not-after='Thu 2030-01-03 12:00:00 UTC' plain o && type o
encrypt -H --not-after='Fri 2030-01-03 12:00:00 UTC' plain o
encrypt -H --not-after='2030-01-03 12:00:00+02:00' plain o && type o
encrypt -H --not-after=+1w2d plain o && type o
encrypt --user plain o && type o
encrypt --user -T plain o
encrypt --user --with-key=host+tpm2 plain o && type o
encrypt --uid=root --with-key=null plain o
encrypt --uid=12345 -H plain o
encrypt --uid=nobody -H plain o && type o
encrypt --uid=root --uid= -H plain o && type o
encrypt -H --compat=262 plain o
setup
has-tpm2
has-tpm2 -q
unseal
`

// TestSystemdCreds has systemd-creds 262, and bootseal by that name, do the same:
// what they print, and the exit status.
func TestSystemdCreds(t *testing.T) {
	t.Parallel()
	m := story.New(t, 262)
	if out, err := exec.Command("go", "build", "-o", m.Path("/root/ours/systemd-creds"), "../../helper").CombinedOutput(); err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	story.Boot(t, m, `
cd /root
mkdir -p credentials/plain/dir credentials/encrypted
echo secret >plain; printf 'no newline' >line; : >empty
head -c 1048576 /dev/zero >max; head -c 1048577 /dev/zero >over
seal() { systemd-creds encrypt "$@" 2>/dev/null || exit; }
(
	cd credentials/plain
	cp ../../plain zz; cp ../../line aa; head -c 3000 /dev/zero >large
	printf '{"b": 1, "a":[1.5,"x"]}' >json; printf 'aGVs\nbG8=' >base64; printf '68 65\n6C' >hex
	chmod 400 *; cp zz loose; chmod 444 loose; ln -s zz link; echo x >'not:a name'
)
(
	cd credentials/encrypted
	seal -H ../../plain sealed; cp sealed renamed; cp ../../plain garbage
	seal -H --uid=root ../../plain scoped; seal --with-key=null ../../line null
	seal -H --timestamp=2000-01-01 --not-after=2001-01-01 ../../line old
)
seal -H line aa.cred; seal -H --name=other line named; seal -H --name= line anonymous
seal -H --timestamp=2000-01-01 --not-after=2001-01-01 line expired
seal --with-key=null line null.cred; seal -T line tpm2.cred
`)
	lines := strings.Split(strings.TrimSuffix(strings.TrimPrefix(commandLines, "\n"), "\n"), "\n")
	// A boot may take no longer than a minute and a half, on a busy machine too.
	for some := range slices.Chunk(lines, 40) {
		story.Write(t, m, "/root/lines", strings.Join(some, "\n")+"\n", 0o600)
		out := story.Boot(t, m, `
cd /root
export CREDENTIALS_DIRECTORY=$PWD/credentials/plain ENCRYPTED_CREDENTIALS_DIRECTORY=$PWD/credentials/encrypted
exec 2>/dev/null
widths() { awk '{ print length }'; }
type() { base64 -d "$1" | head -c 16 | od -An -v -tx1; }
decrypted() { /usr/bin/systemd-creds --name= --allow-null --timestamp=2001-01-01 decrypt "$1"; }
set -o pipefail
outcome() { # what the systemd-creds in the folder $1 does with the line $2
	[ ! -e o ] || rm o
	PATH=$1:$PATH
	eval "systemd-creds $2" </dev/null
	echo "status $?"
}
n=0
while IFS= read -r line <&3; do
	(outcome /usr/bin "$line" >theirs)
	(outcome /root/ours "$line" >others)
	n=$((n + 1))
	cmp -s theirs others || { section "systemd-creds $line"; cat theirs; echo "but bootseal:"; cat others; }
done 3<lines
section compared; echo "$n"
`)
		story.Want(t, "number of command lines compared", out["compared"], fmt.Sprint(len(some)))
		delete(out, "compared")
		for command, outcomes := range out {
			if command != "" {
				t.Errorf("%s:\n%s", command, outcomes)
			}
		}
	}
	t.Logf("measured: %d command lines of systemd-creds 262 compared", len(lines))
}
