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
