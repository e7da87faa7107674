package e2e

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/bootseal/bootseal/test/machine"
	"github.com/bootseal/bootseal/test/story"
)

const (
	hostKey  = "/var/lib/systemd/credential.secret"
	exchange = "/root/exchange"
	kernel   = "a kernel image" // what PCR 11 is measured from
)

// A kind is a type of credential, as the command line asks for it.
type kind struct {
	name  string
	args  string
	since int // first systemd with the type
	flags string
}

const (
	isTPM2, isSigned, isScoped, isNull = "T", "K", "U", "N"

	signedArgs = " --tpm2-public-key=public.pem --tpm2-pcrs="
)

// kinds are the fifteen types, less the pinned forms: systemd 262 makes those for
// the same command line, and bootseal too if it is for systemd 262.
var kinds = []kind{
	{"host", "--with-key=host", 250, ""},
	{"host-scoped", "--with-key=host --uid=root", 256, isScoped},
	{"tpm2", "--with-key=tpm2 --tpm2-pcrs=7", 250, isTPM2},
	{"tpm2-public-key", "--with-key=tpm2-with-public-key" + signedArgs, 252, isTPM2 + isSigned},
	{"host+tpm2", "--with-key=host+tpm2 --tpm2-pcrs=7", 250, isTPM2},
	{"host+tpm2-scoped", "--with-key=host+tpm2 --tpm2-pcrs=7 --uid=root", 256, isTPM2 + isScoped},
	{"host+tpm2-public-key", "--with-key=host+tpm2-with-public-key" + signedArgs + "7", 252, isTPM2 + isSigned},
	{"host+tpm2-public-key-scoped", "--with-key=host+tpm2-with-public-key" + signedArgs + "7 --uid=root", 256, isTPM2 + isSigned + isScoped},
	// The name of later versions, null, is not known to 252.
	{"null", "--with-key=tpm2-absent", 251, isNull},
}

func (k kind) is(flag string) bool { return strings.Contains(k.flags, flag) }

// A made credential.
type made struct {
	kind    kind
	payload string
	since   int // first systemd-creds that can decrypt it
}

// open is the command that decrypts a credential.
func (m made) open(tool string, version int) string {
	args := ""
	if m.kind.is(isSigned) {
		args += " --tpm2-signature=signature.json"
	}
	if m.kind.is(isScoped) && (tool == "bootseal" || version >= 256) {
		args += " --uid=root"
	}
	if m.kind.is(isNull) && (tool == "bootseal" || version >= 256) {
		args += " --allow-null"
	}
	return tool + " decrypt --name=x" + args
}

var payloads = []struct {
	name string
	size int
}{{"empty", 0}, {"byte", 1}, {"mebibyte", 1 << 20}}

// TestMatrix has bootseal and each version's systemd-creds make every type of
// credential that they can, and open what the others made, with one TPM and one
// host key.
func TestMatrix(t *testing.T) {
	t.Parallel()
	var machines []*machine.Machine
	for _, version := range machine.Containers(t) {
		machines = append(machines, fresh(t, version, "bootseal"))
	}
	first := machines[0]
	first.TPM.Firmware[11] = kernel
	id, err := os.ReadFile(first.Path("/etc/machine-id"))
	if err != nil {
		t.Fatal(err)
	}
	public, signature := signPCRs(t, kernel)
	all := map[string]made{} // by file name
	text := map[string][]byte{}
	for _, m := range machines {
		m.TPM = first.TPM
		story.Write(t, m, "/etc/machine-id", string(id), 0o444)
		story.Write(t, m, exchange+"/public.pem", public, 0o600)
		story.Write(t, m, exchange+"/signature.json", signature, 0o600)
		for _, p := range payloads {
			story.Write(t, m, exchange+"/"+p.name, strings.Repeat("x", p.size), 0o600)
		}
		story.Write(t, m, exchange+"/toolarge", strings.Repeat("x", 1<<20+1), 0o600)
		if m != first {
			key, err := os.ReadFile(first.Path(hostKey))
			if err != nil {
				t.Fatal(err)
			}
			story.Write(t, m, hostKey, string(key), 0o400)
		}
		for file, credential := range makeAll(t, m) {
			all[file] = credential
			if text[file], err = os.ReadFile(m.Path(filepath.Join(exchange, file))); err != nil {
				t.Fatal(err)
			}
		}
	}
	opened, refused := 0, 0
	for _, p := range payloads {
		for _, m := range machines {
			o, r := openAll(t, m, p.name, all, text)
			opened += o
			refused += r
		}
	}
	t.Logf("measured: %d credentials made, %d times opened, %d times rightly refused", len(all), opened, refused)
}

// makeAll has a machine's tools encrypt each payload in all ways that they know.
func makeAll(t *testing.T, m *machine.Machine) map[string]made {
	script := "cd " + exchange + "\n[ -e " + hostKey + " ] || bootseal setup || exit\n"
	all := map[string]made{}
	add := func(tool string, k kind, payload string, since int, args string) {
		file := fmt.Sprintf("%s-%d-%s%s-%s", tool, m.Version, k.name, strings.ReplaceAll(args, " --compat=", "-for-"), payload)
		all[file] = made{k, payload, since}
		script += fmt.Sprintf("%s encrypt --name=x %s%s %s %s || exit\n", tool, k.args, args, payload, file)
		script += fmt.Sprintf("if %s encrypt --name=x %s%s toolarge toolarge.out 2>/dev/null || [ -e toolarge.out ]; then section %s; echo took too much; fi\n", tool, k.args, args, file)
	}
	for _, k := range kinds {
		for _, p := range payloads {
			since := k.since
			// 250 to 254 count the Base64 text.
			if p.size > 1179648*3/4 {
				since = max(since, 255)
			}
			pinned := since
			if k.is(isTPM2) {
				pinned = 262
			}
			switch {
			case m.Version < 250:
				// Only here has bootseal no systemd to look at.
				add("bootseal", k, p.name, since, fmt.Sprintf(" --compat=%d", since))
				add("bootseal", k, p.name, pinned, " --compat=262")
			case m.Version >= 262:
				add("bootseal", k, p.name, pinned, "")
				add("systemd-creds", k, p.name, pinned, "")
			case m.Version >= k.since:
				add("bootseal", k, p.name, since, "")
				add("systemd-creds", k, p.name, since, "")
			}
		}
	}
	for name, complaint := range story.Boot(t, m, script) {
		if name != "" {
			t.Errorf("%s: %s", name, complaint)
		}
	}
	return all
}

// openAll has a machine's tools decrypt the credentials with a payload.
func openAll(t *testing.T, m *machine.Machine, payload string, all map[string]made, text map[string][]byte) (opened, refused int) {
	script := "cd " + exchange + `
try() { # COMMAND... ; then what came out is compared
	if ! "$@" - plain 2>why; then echo refused; cat why; [ ! -e plain ] || echo "but wrote"; return; fi
	if cmp plain ` + payload + `; then echo opened; else echo garbage; fi
	rm plain
}
`
	type outcome struct{ name, want string }
	var wants []outcome
	for _, file := range slices.Sorted(maps.Keys(all)) {
		credential := all[file]
		if credential.payload != payload {
			continue
		}
		story.Write(t, m, filepath.Join(exchange, "in", file), string(text[file]), 0o600)
		for _, tool := range []string{"bootseal", "systemd-creds"} {
			// One bootseal is like the other; one of them reads all.
			if tool == "bootseal" && m.Version != 247 || tool == "systemd-creds" && m.Version < 250 {
				continue
			}
			want := "opened"
			if tool == "systemd-creds" && m.Version < credential.since {
				want = "refused"
			}
			wants = append(wants, outcome{tool + " " + file, want})
			script += fmt.Sprintf("section %s %s; try %s <in/%s\n", tool, file, credential.open(tool, m.Version), file)
		}
	}
	out := story.Boot(t, m, script+"rm -r in\n")
	for _, w := range wants {
		result, _, _ := strings.Cut(out[w.name], "\n")
		if result != w.want || strings.Contains(out[w.name], "but wrote") {
			t.Errorf("on systemd %d, %s: want it %s, got:\n%s", m.Version, w.name, w.want, out[w.name])
		}
		if w.want == "opened" {
			opened++
		} else {
			refused++
		}
	}
	return opened, refused
}

// signPCRs makes an RSA key and a tpm2-pcr-signature.json for a machine whose
// PCR 11 was extended by the event, as systemd-measure(1) would.
func signPCRs(t *testing.T, event string) (public, signature string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	measured := sha256.Sum256([]byte(event))
	pcr11 := sha256.Sum256(append(make([]byte, sha256.Size), measured[:]...))
	values := sha256.Sum256(pcr11[:])
	// TPM2_PolicyPCR on an empty policy: command code; one selection, SHA-256,
	// three bytes, PCR 11; the digest of the values.
	policy := make([]byte, sha256.Size)
	policy = append(policy, 0, 0, 1, 0x7F, 0, 0, 0, 1, 0, 0x0B, 3, 0, 8, 0)
	approved := sha256.Sum256(append(policy, values[:]...))
	digest := sha256.Sum256(approved[:])
	sig, err := rsa.SignPKCS1v15(nil, key, crypto.SHA256, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	fingerprint := sha256.Sum256(x509.MarshalPKCS1PublicKey(&key.PublicKey))
	file, err := json.Marshal(map[string]any{"sha256": []map[string]any{{
		"pcrs": []int{11}, "pkfp": hex.EncodeToString(fingerprint[:]), "pol": hex.EncodeToString(approved[:]), "sig": sig,
	}}})
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), string(file)
}

// TestPID1Scope has PID 1, and hook and server where that opens nothing, give a
// service what is for root, and what needs a signature for the kernel that runs.
func TestPID1Scope(t *testing.T) {
	t.Parallel()
	public, signature := signPCRs(t, kernel)
	for _, test := range []struct {
		version  int
		delivery string
	}{{247, "prestart"}, {257, "native"}, {257, "socket"}, {262, "native"}} {
		t.Run(fmt.Sprint(test.version, " ", test.delivery), func(t *testing.T) {
			t.Parallel()
			m := fresh(t, test.version, "bootseal")
			m.TPM.Firmware[11] = kernel
			story.Write(t, m, "/etc/systemd/tpm2-pcr-public-key.pem", public, 0o644)
			story.Write(t, m, "/usr/lib/systemd/tpm2-pcr-signature.json", signature, 0o644)
			service := "[Service]\nType=oneshot\nPrivateMounts=yes\nExecStart=/bin/sh -c 'cd $CREDENTIALS_DIRECTORY && cat root signed >/root/read'\n"
			switch test.delivery {
			case "prestart":
				service += `ExecStartPre=+/usr/bin/bootseal unseal --unit=%n root signed
ExecStopPost=+/usr/bin/bootseal cleanup --unit=%n
TemporaryFileSystem=/run/bootseal:ro,mode=0755
BindReadOnlyPaths=-/run/bootseal/%n:/run/bootseal/%n
Environment=CREDENTIALS_DIRECTORY=/run/bootseal/%n
NotifyAccess=exec
`
			case "socket":
				story.Write(t, m, "/etc/bootseal/reader.service.toml", "delivery = \"socket\"\n[[credential]]\nname = \"root\"\n[[credential]]\nname = \"signed\"\n", 0o644)
			default:
				service += "LoadCredentialEncrypted=root\nLoadCredentialEncrypted=signed\n"
			}
			story.Write(t, m, "/etc/systemd/system/reader.service", service, 0o644)
			out := story.Boot(t, m, `
seal() { echo "for $1" | bootseal encrypt "${@:2}" - /etc/credstore.encrypted/$1 || exit; }
mkdir -p -m 700 /etc/credstore.encrypted
seal root --uid=root --with-key=host+tpm2 --tpm2-pcrs=7
seal signed --with-key=tpm2-with-public-key
systemctl start bootseal.socket
systemctl daemon-reload
systemctl start reader
section result; property Result reader
section output; cat /root/read
`)
			story.Want(t, "result", out["result"], "success")
			story.Want(t, "output", out["output"], "for root\nfor signed")
		})
	}
}
