package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/bootseal/bootseal/test/machine"
	"github.com/bootseal/bootseal/test/story"
)

// TestExamples runs the real packages that policy/examples are for, with the
// configuration that their comments give.
func TestExamples(t *testing.T) {
	t.Parallel()
	for _, version := range []int{247, 257} {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			t.Parallel()
			m := story.New(t, version)
			unpack(t, m, filepath.Join(machine.Cache(), fmt.Sprintf("services-%d", version)))
			if err := m.InstallBootseal(); err != nil {
				t.Fatal(err)
			}
			for _, unit := range []string{"nginx", "haproxy", "postgresql@", "wg-quick@"} {
				text, err := os.ReadFile("../../policy/examples/" + unit + ".service.toml")
				if err != nil {
					t.Fatal(err)
				}
				story.Write(t, m, "/etc/bootseal/"+unit+".service.toml", string(text), 0o644)
			}
			story.Write(t, m, "/etc/bootseal/wg-quick@wg1.service.toml", "[[credential]]\nname = \"private.key\"\nsource = \"/etc/credstore.encrypted/wg1.key\"\n", 0o644)
			folder := "/run/credentials"
			if version < 250 {
				folder = "/run/bootseal"
			}
			story.Remove(t, m, "/etc/nginx/sites-enabled/default")
			story.Write(t, m, "/etc/nginx/sites-enabled/default", "server {\n\tlisten 127.0.0.1:8443 ssl;\n\tssl_certificate /etc/ssl/site.pem;\n\tssl_certificate_key "+folder+"/nginx.service/site.key;\n\tlocation / { return 200 'nginx'; }\n}\n", 0o644)
			story.Write(t, m, "/etc/haproxy/haproxy.cfg", "global\n\tuser haproxy\n\tgroup haproxy\n\tchroot /var/lib/haproxy\ndefaults\n\tmode http\n\ttimeout connect 5s\n\ttimeout client 5s\n\ttimeout server 5s\nfrontend site\n\tbind 127.0.0.1:9443 ssl crt \"${CREDENTIALS_DIRECTORY}/site.pem\"\n\thttp-request redirect location /haproxy\n", 0o644)
			story.Write(t, m, "/etc/systemd/system/postgresql@.service.d/user.conf", "[Service]\nUser=postgres\n", 0o644)
			for i := range 2 {
				story.Write(t, m, fmt.Sprintf("/etc/wireguard/wg%d.conf", i), "[Interface]\nPostUp = wg set %i private-key \"$CREDENTIALS_DIRECTORY\"/private.key\n", 0o600)
			}
			wireguard(t, m)
			// The software TPM has no resource manager: one after the other.
			for _, unit := range []string{"nginx", "haproxy", "postgresql"} {
				story.Remove(t, m, "/etc/systemd/system/multi-user.target.wants/"+unit+".service")
			}
			story.Boot(t, m, `set -e
cd /root
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key -out /etc/ssl/site.pem -subj /CN=localhost -days 30 2>/dev/null
bootseal encrypt --unit=nginx.service site.key <key
cat /etc/ssl/site.pem key | bootseal encrypt --unit=haproxy.service site.pem
cd /etc/postgresql/*/main
printf %s '`+story.Password+`' | bootseal encrypt --unit=postgresql@.service tls.passphrase
openssl pkcs8 -topk8 -in /root/key -out tls.key -passout 'pass:`+story.Password+`'
chown postgres: tls.key
chmod 600 tls.key
cat >conf.d/tls.conf <<END
ssl = on
ssl_cert_file = '/etc/ssl/site.pem'
ssl_passphrase_command = 'cat `+folder+`/postgresql@$(ls /etc/postgresql)-main.service/tls.passphrase'
END
echo "ssl_key_file = '$PWD/tls.key'" >>conf.d/tls.conf
wg genkey | tee /root/wg0 | bootseal encrypt --unit=wg-quick@.service private.key
wg genkey | tee /root/wg1 | bootseal encrypt --unit=wg-quick@wg1.service private.key
wg pubkey </root/wg0 >/root/wg0.pub
wg pubkey </root/wg1 >/root/wg1.pub
rm /root/key /root/wg0 /root/wg1
`)
			out := story.Boot(t, m, `
fetch() { printf 'GET / HTTP/1.0\r\n\r\n' | openssl s_client -quiet -connect 127.0.0.1:$1 2>/dev/null | grep -o -e nginx$ -e /haproxy; }
active() { local unit; for unit; do echo $(property ActiveState $unit) $(property Result $unit); done; }
unit=postgresql@$(ls /etc/postgresql)-main
for service in nginx haproxy $unit wg-quick@wg0 wg-quick@wg1; do systemctl start $service; done
section nginx; active nginx; fetch 8443; systemctl reload nginx || echo no reload; fetch 8443; systemctl restart nginx; fetch 8443
section haproxy; active haproxy; fetch 9443; systemctl reload haproxy || echo no reload; fetch 9443; systemctl restart haproxy; fetch 9443
section postgresql; active $unit; for i in $(seq 50); do setpriv --reuid=postgres --regid=postgres --clear-groups psql -h 127.0.0.1 -c '\conninfo' 'sslmode=require user=postgres password=x' 2>&1 | grep -o 'password authentication failed' && break; sleep 0.1; done | head -1; setpriv --reuid=postgres --regid=postgres --clear-groups psql -Atc 'show ssl'
section wireguard; active wg-quick@wg0 wg-quick@wg1; for i in 0 1; do [ "$(wg show wg$i public-key)" = "$(cat /root/wg$i.pub)" ] && echo right; done
section status; for service in nginx haproxy $unit wg-quick@wg0; do systemctl status --full --lines=20 $service; done 2>&1; journalctl --boot --unit=nginx --unit=haproxy; tail /var/log/postgresql/*
true
`)
			// Both read their key in ExecReload=, too, to which systemd itself
			// gives no credentials (https://github.com/systemd/systemd/issues/35227).
			reload := ""
			if version >= 250 {
				reload = "no reload\n"
			}
			story.Want(t, "nginx", out["nginx"], "active success\nnginx\n"+reload+"nginx\nnginx")
			story.Want(t, "haproxy", out["haproxy"], "active success\n/haproxy\n"+reload+"/haproxy\n/haproxy")
			story.Want(t, "postgresql", out["postgresql"], "active success\npassword authentication failed\non")
			story.Want(t, "wireguard", out["wireguard"], "active success\nactive success\nright\nright")
			if t.Failed() {
				t.Log(out["status"])
			}
		})
	}
}

// wireguard has the machine make WireGuard interfaces without the kernel's help,
// which not every machine that tests has. Debian has the program since 12; on 11
// it runs with the libraries of another.
func wireguard(t *testing.T, m *machine.Machine) {
	t.Helper()
	story.Write(t, m, "/etc/tmpfiles.d/tun.conf", "d /dev/net\nc /dev/net/tun 0666 root root - 10:200\n", 0o644)
	if m.Version > 247 {
		return
	}
	for _, file := range []string{"services-257/usr/bin/wireguard-go", "257/lib64/ld-linux-x86-64.so.2", "257/usr/lib/x86_64-linux-gnu/libc.so.6"} {
		data, err := os.ReadFile(filepath.Join(machine.Cache(), file))
		if err != nil {
			t.Fatal(err)
		}
		story.Write(t, m, "/opt/wireguard/"+filepath.Base(file), string(data), 0o755)
	}
	story.Write(t, m, "/usr/bin/wireguard-go", `#!/bin/sh
cd /opt/wireguard
WG_PROCESS_FOREGROUND=1 ./ld-linux-x86-64.so.2 --library-path . ./wireguard-go "$@" &
until [ -S /run/wireguard/$1.sock ]; do sleep 0.1; done
`, 0o755)
}

// unpack adds the files of a folder to the machine's.
func unpack(t *testing.T, m *machine.Machine, folder string) {
	t.Helper()
	if _, err := os.Stat(folder); err != nil {
		t.Skip("run test/setup-packages as root first")
	}
	cmd := exec.Command("sh", "-c", `tar -C "$0" -c . | tar -C "$1" -x --keep-directory-symlink`, folder, m.Root)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// TestThreePasswords: step-ca with a password for each of its keys; and two
// instances of a template with blobs of their own, that same CA and a registration
// authority of it, which has the password of its issuer's key.
func TestThreePasswords(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../policy/examples/step-ca.service.toml")
	if err != nil {
		t.Fatal(err)
	}
	for _, version := range []int{247, 257} {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			t.Parallel()
			m := story.New(t, version)
			if err := m.InstallBootseal(); err != nil {
				t.Fatal(err)
			}
			if err := m.InstallStepCA(story.Password + "\n"); err != nil {
				t.Fatal(err)
			}
			story.Write(t, m, "/root/policy", string(text), 0o644)
			story.Write(t, m, "/root/issuer-policy", "[[credential]]\nname = \"issuer\"\noption = \"--issuer-password-file\"\n", 0o644)
			story.Boot(t, m, `set -e
install -D -m 644 /root/policy `+story.Policy+`
install -m 644 /root/policy /etc/bootseal/step-ca@ca.service.toml
install -m 644 /root/issuer-policy /etc/bootseal/step-ca@ra.service.toml
cd /etc/step-ca
sed 's,config/ca.json --password-file password.txt,config/%i.json,; s,config/ca.json,config/%i.json,; /password.txt/d' \
	/etc/systemd/system/step-ca.service >/etc/systemd/system/step-ca@.service
echo "another secret, issuer" >/root/issuer
export STEPPATH=/etc/step-ca
step ca provisioner add ra --type JWK --create --password-file=/root/issuer --ca-config=config/ca.json 2>/dev/null
cat >config/ra.json <<END
{"address": "127.0.0.1:9443", "dnsNames": ["127.0.0.1"], "authority": {
	"type": "stepcas", "certificateAuthority": "https://127.0.0.1:8443", "certificateAuthorityFingerprint": "$(step certificate fingerprint certs/root_ca.crt)",
	"certificateIssuer": {"type": "jwk", "provisioner": "ra"}, "provisioners": [{"type": "ACME", "name": "acme"}]}}
END
chown step: config/ca.json config/ra.json
bootseal encrypt --unit=step-ca@ra.service issuer </root/issuer
for key in host user; do
	echo "another secret, $key" >/root/$key
	step crypto change-pass secrets/ssh_${key}_ca_key --password-file=password.txt --new-password-file=/root/$key --force 2>/dev/null
	bootseal encrypt --unit=step-ca.service ssh-$key </root/$key
done
chown -R step: secrets
bootseal encrypt --unit=step-ca.service intermediate <password.txt
rm password.txt /root/host /root/user /root/issuer
`)
			out := story.Boot(t, m, `
section health; health
section command; tr '\0' '\n' </proc/$(property MainPID)/cmdline | grep -A1 password-file
systemctl stop step-ca
section instances; systemctl start step-ca@ca; health; systemctl start step-ca@ra
for i in $(seq 100); do STEPPATH=/root/.step step ca health --ca-url https://127.0.0.1:9443 --root /etc/step-ca/certs/root_ca.crt 2>/dev/null && break; sleep 0.1; done
section status; systemctl status --full step-ca step-ca@ca step-ca@ra
true
`)
			story.Want(t, "health", out["health"], "ok")
			story.Want(t, "health of both instances", out["instances"], "ok\nok")
			for option, name := range map[string]string{"--password-file": "intermediate", "--ssh-host-password-file": "ssh-host", "--ssh-user-password-file": "ssh-user"} {
				folder := "/run/credentials/step-ca.service/"
				if version < 250 {
					folder = "/run/bootseal/step-ca.service/"
				}
				story.WantContains(t, "command", out["command"], option+"\n"+folder+name)
			}
			if t.Failed() {
				t.Log(out["status"])
			}
		})
	}
}

// TestKinds gives a credential, by way of a variable too, to services that are
// started in other ways than step-ca is.
func TestKinds(t *testing.T) {
	t.Parallel()
	const read = `ExecStart=/bin/sh -c '[ "$SECRET_FILE" = "$CREDENTIALS_DIRECTORY/one" ] && cat "$SECRET_FILE"`
	units := map[string]string{
		"oneshot.service": "[Service]\nType=oneshot\nRemainAfterExit=yes\n" + read + "'\n" + read + "'\nStandardOutput=append:/bootseal-test/out/oneshot\n",
		"phases.service": "[Service]\nDynamicUser=yes\nExecCondition=/bin/true\nExecStartPre=/bin/sh -c 'cat $SECRET_FILE'\n" + read + "; sleep 1000'\n" +
			"ExecStartPost=-/bin/sh -c 'cat $SECRET_FILE 2>/dev/null'\nExecReload=/bin/kill -HUP $MAINPID\nStandardOutput=append:/bootseal-test/out/phases\n",
		"accept@.service": "[Service]\n" + read + "'\nStandardInput=socket\nStandardOutput=socket\n",
		"accept.socket":   "[Socket]\nListenStream=/run/accept.sock\nAccept=yes\n",
		"rooted.service":  "[Service]\nType=oneshot\nRemainAfterExit=yes\nRootDirectory=/srv/root\nBindReadOnlyPaths=/usr /bin /lib -/lib64\n" + read + "'\nStandardOutput=append:/bootseal-test/out/rooted\n",
		// Neither starts: one has no blob but a value of its own, the other's policy is broken.
		"fallback.service": "[Service]\nSetCredential=two:plain\nExecStart=/bin/sh -c 'cat $CREDENTIALS_DIRECTORY/two; sleep 1000'\nStandardOutput=append:/bootseal-test/out/refused\nStandardError=journal\n",
		"success.service":  "[Service]\nSuccessExitStatus=78\nExecStart=/bin/sh -c 'echo started; sleep 1000'\nStandardOutput=append:/bootseal-test/out/refused\nStandardError=journal\n",
	}
	for _, version := range machine.Versions {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			t.Parallel()
			m := story.New(t, version)
			if err := m.InstallBootseal(); err != nil {
				t.Fatal(err)
			}
			for name, text := range units {
				story.Write(t, m, "/etc/systemd/system/"+name, text, 0o644)
				story.Write(t, m, "/root/policies/"+name+".toml", "[[credential]]\nname = \"one\"\nenvironment = \"SECRET_FILE\"\n", 0o644)
			}
			story.Remove(t, m, "/root/policies/accept.socket.toml")
			story.Write(t, m, "/srv/root/etc/os-release", "", 0o644)
			if version < 250 { // where the hook cannot run in a root directory
				story.Write(t, m, "/root/policies/rooted.service.toml", "delivery = \"socket\"\n[[credential]]\nname = \"one\"\nenvironment = \"SECRET_FILE\"\n", 0o644)
			}
			story.Write(t, m, "/root/policies/fallback.service.toml", "[[credential]]\nname = \"two\"\n", 0o644)
			story.Write(t, m, "/root/policies/success.service.toml", "nonsense\n", 0o644)
			story.Write(t, m, "/usr/bin/client", "#!/usr/bin/perl\nuse Socket;\nsocket(my $s, AF_UNIX, SOCK_STREAM, 0) or die;\nconnect($s, pack_sockaddr_un('/run/accept.sock')) or die;\nprint <$s>;\n", 0o755)
			story.Boot(t, m, `printf 'secret.' | bootseal encrypt --with-key=tpm2 --name=one - /etc/credstore.encrypted/one && mkdir -p /etc/bootseal && mv /root/policies/* /etc/bootseal`)
			out := story.Boot(t, m, `
touch /bootseal-test/out/oneshot /bootseal-test/out/phases /bootseal-test/out/rooted
section oneshot; systemctl start oneshot; property Result oneshot; cat /bootseal-test/out/oneshot
section phases; systemctl start phases; sleep 1; property ActiveState phases; cat /bootseal-test/out/phases
section rooted; systemctl start rooted; property Result rooted; cat /bootseal-test/out/rooted
section accept; systemctl start accept.socket; client; client
section refused; touch /bootseal-test/out/refused; systemctl start fallback success 2>/dev/null; for unit in fallback success; do for i in $(seq 50); do [ $(property ActiveState $unit) = failed ] && break; sleep 0.1; done; property ActiveState $unit; done; cat /bootseal-test/out/refused
section status; systemctl status --full oneshot phases rooted fallback success 'accept@*' 2>&1; journalctl --boot --unit='accept@*'
true
`)
			story.Want(t, "oneshot", out["oneshot"], "success\nsecret.secret.")
			// 252 may set the credentials up again while ExecStartPost= runs,
			// which then is denied them.
			if phases := out["phases"]; version != 252 || phases != "active\nsecret.secret." {
				story.Want(t, "phases", phases, "active\nsecret.secret.secret.")
			}
			story.Want(t, "accept", out["accept"], "secret.secret.")
			story.Want(t, "rooted", out["rooted"], "success\nsecret.")
			story.Want(t, "refused", out["refused"], "failed\nfailed")
			if t.Failed() {
				t.Log(out["status"])
			}
		})
	}
}
