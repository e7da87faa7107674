package vm

import (
	"regexp"
	"testing"

	"github.com/bootseal/bootseal/test/story"
)

// orderABRMD has the TCG's resource manager, which opens /dev/tpm0 and keeps it,
// start before or after step-ca.
func orderABRMD(order string) string {
	return `
mkdir -p /etc/systemd/system/tpm2-abrmd.service.d
printf '[Unit]\n` + order + `=step-ca.service\n' >/etc/systemd/system/tpm2-abrmd.service.d/order.conf
systemctl enable --quiet tpm2-abrmd.service || exit
`
}

// abrmd prints which of the two came first, what tpm2-abrmd has open, and whether
// it answers.
const abrmd = `
abrmd() {
	readlink /proc/"$(property MainPID tpm2-abrmd.service)"/fd/* | grep '^/dev/tpm'
	tpm2_getrandom --tcti=tabrmd --hex 8 >/dev/null && echo ok
}
section abrmd
if [ "$(property ActiveEnterTimestampMonotonic tpm2-abrmd.service)" -lt "$(property ActiveEnterTimestampMonotonic)" ]; then echo first; else echo last; fi
abrmd
`

// company restarts step-ca next to everything else that may use the TPM.
const company = abrmd + `
# The unit may be started three times in thirty seconds: fast machines do that here.
# How often systemd had to try belongs to each restart.
restart() { systemctl reset-failed step-ca.service; systemctl restart "$@" step-ca.service; }
tries() { health; property NRestarts; }
# others TCTI... are programs that make keys in the TPM all the time, until alone.
others() {
	local tcti
	for tcti; do
		while :; do tpm2_createprimary --quiet --tcti="$tcti" --key-algorithm=rsa || echo "$tcti failed"; done &
	done
}
alone() { kill $(jobs -p); wait; } 2>/dev/null
section busy
tpm2_createprimary --quiet --tcti=tabrmd --key-algorithm=hmac --attributes='sign|fixedtpm|fixedparent|sensitivedataorigin|userwithauth' --key-context=/root/hmac.ctx || exit
sleep 1000 | tpm2_hmac --tcti=tabrmd --key-context=/root/hmac.ctx >/dev/null &
others tabrmd device:/dev/tpmrm0 device:/dev/tpmrm0
restart; tries
abrmd
alone
section abrmd started later
systemctl stop tpm2-abrmd.service; restart; tries
pid=$(property MainPID)
systemctl start tpm2-abrmd.service; abrmd
health; [ "$(property MainPID)" = "$pid" ] || echo restarted
section open
systemctl stop tpm2-abrmd.service
exec 3<>/dev/tpm0
tpm2_getrandom --tcti=device:/dev/tpm0 --hex 8 >/dev/null 2>&1 || echo busy
restart; tries
exec 3>&-
section full
while tpm2_createprimary --quiet --tcti=device:/dev/tpm0; do :; done 2>/dev/null
restart --no-block
for _ in $(seq 300); do
	[ "$(property ActiveState)" != activating ] || break
	sleep 0.1
done
tpm2_flushcontext --tcti=device:/dev/tpm0 --transient-object || exit
tries
`

func inCompany(t *testing.T, version int, out map[string]string) {
	t.Helper()
	tries := "ok\n0"
	if version >= 250 { // systemd itself does not wait
		again := regexp.MustCompile(`ok\n\d+`)
		for _, section := range []string{"busy", "full"} {
			out[section] = again.ReplaceAllString(out[section], tries)
		}
	}
	story.Want(t, "tpm2-abrmd first", out["abrmd"], "first\n/dev/tpm0\nok")
	story.Want(t, "with a busy TPM", out["busy"], tries+"\n/dev/tpm0\nok")
	story.Want(t, "tpm2-abrmd started later", out["abrmd started later"], tries+"\n/dev/tpm0\nok\nok")
	story.Want(t, "with /dev/tpm0 open", out["open"], "busy\n"+tries)
	story.Want(t, "with a full TPM", out["full"], tries)
}
