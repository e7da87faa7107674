package vm

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/bootseal/bootseal/test/machine"
	"github.com/bootseal/bootseal/test/story"
)

// unsealable prints what an administrator sees of a step-ca that did not start.
const unsealable = refused + `
section status; systemctl status --lines=0 --full step-ca
section check; bootseal check step-ca
`

// again seals the password again, and keeps the blob from before.
const again = `
cd /etc/credstore.encrypted
cp -a step-ca /root/kept
echo '` + password + `' | bootseal encrypt --unit=step-ca step-ca || exit
systemctl reset-failed step-ca; systemctl restart step-ca || exit
section sealed again; health
`

// media makes a host key on the root file system, which is not encrypted, and
// then one on an encrypted one; systemd is asked about both, too.
const media = `
section plain; bootseal setup 2>&1
section plain, systemd; systemd-creds setup 2>&1
truncate -s 24M /root/luks
cryptsetup() { echo secret | command cryptsetup --batch-mode --key-file=- "$@"; }
cryptsetup luksFormat --pbkdf=pbkdf2 --pbkdf-force-iterations=1000 --luks2-keyslots-size=256k /root/luks || exit
cryptsetup open /root/luks luks && mke2fs -q /dev/mapper/luks && mount /dev/mapper/luks /var/lib/systemd || exit
section encrypted; bootseal setup 2>&1
section encrypted, systemd; systemd-creds setup 2>&1
mkdir -p /etc/bootseal
echo '[[credential]]
name = "x"
[seal]
key = "host"' >/etc/bootseal/x.service.toml
section encrypted, check; bootseal check x
rm /etc/bootseal/x.service.toml
umount /var/lib/systemd && cryptsetup close luks
`

// TestMeasured starts a machine with Secure Boot, switches that off, and enrolls a
// key of its owner (MOK).
func TestMeasured(t *testing.T) {
	t.Parallel()
	vm, err := machine.NewUEFI()
	prepare(t, vm, err)
	out := boot(t, vm, `
dpkg -i /root/bootseal.deb >/dev/null || exit
section has-tpm2; bootseal has-tpm2
section has-tpm2, systemd; systemd-analyze has-tpm2
`+media+strings.Replace(seal, "pcrs = [7]", "pcrs = [7, 14]", 1)+report+`
section check; bootseal check step-ca && echo ok
`)
	story.Want(t, "has-tpm2", out["has-tpm2"], `yes
+firmware
+driver
+system
+subsystem
+libraries
  +libtss2-esys.so.0
  +libtss2-rc.so.0
  +libtss2-mu.so.0`)
	story.Want(t, "has-tpm2 of systemd", out["has-tpm2, systemd"], out["has-tpm2"])
	const warning = "Credential secret file '/var/lib/systemd/credential.secret' is not located on encrypted media, using anyway."
	story.WantContains(t, "setup of systemd on a plain disk", out["plain, systemd"], warning)
	story.WantContains(t, "setup on a plain disk", out["plain"], warning)
	const made = "4096 byte credentials host key set up."
	story.Want(t, "setup of systemd on an encrypted disk", out["encrypted, systemd"], made)
	story.Want(t, "setup on an encrypted disk", out["encrypted"], made)
	wantRow(t, out["encrypted, check"], "host key medium", "ok", "located on encrypted media")
	wantRow(t, out["check"], "host key medium", "note", "not located on encrypted media")
	wantRow(t, out["check"], "secure boot", "ok", "on")
	healthy(t, "sealed", out)

	if machine.All() {
		healthy(t, "reboot", boot(t, vm, report))
	} else {
		t.Log("skipped: a boot with nothing changed: test/run --all")
	}

	if err := vm.SecureBoot(false); err != nil {
		t.Fatal(err)
	}
	out = boot(t, vm, unsealable+again+"mv /root/kept step-ca\n")
	moved(t, "without Secure Boot", out, "PCR 7")
	wantRow(t, out["check"], "secure boot", "note", "off")
	story.Want(t, "sealed again without Secure Boot", out["sealed again"], "ok")

	if err := errors.Join(vm.SecureBoot(true), vm.EnrollMOK(certificate(t, "An owner of machines"))); err != nil {
		t.Fatal(err)
	}
	out = boot(t, vm, "section mok; grep -ao 'An owner of machines' /sys/firmware/efi/efivars/MokListRT-*\n"+unsealable+again)
	story.WantContains(t, "keys that shim passes on", out["mok"], "An owner of machines")
	moved(t, "with a MOK", out, "PCR 14")
	wantRow(t, out["check"], "secure boot", "ok", "on")
	story.Want(t, "sealed again with a MOK", out["sealed again"], "ok")
}

// moved holds what unsealable has printed against a unit that did not start
// because of a PCR.
func moved(t *testing.T, when string, out map[string]string, pcr string) {
	t.Helper()
	wantRefused(t, when, out)
	words := "bound to PCRs 7, 14 of the sha256 bank, and since it was sealed another value is in " + pcr
	story.WantContains(t, when+", systemctl status", out["status"], "/etc/credstore.encrypted/step-ca", words+";")
	wantRow(t, out["check"], "opens", "bad", words+" ")
}

// wantRow looks for a row of "bootseal check".
func wantRow(t *testing.T, table, check, verdict, found string) {
	t.Helper()
	for _, line := range strings.Split(table, "\n") {
		_, rest, _ := strings.Cut(line, " "+check+" ")
		if rest, ok := strings.CutPrefix(strings.TrimSpace(rest), verdict+" "); ok && strings.Contains(rest, found) {
			return
		}
	}
	t.Errorf("no row %q, %q, %q in:\n%s", check, verdict, found, table)
}

// certificate makes a certificate in DER.
func certificate(t *testing.T, name string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now(), NotAfter: time.Now().AddDate(10, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}
