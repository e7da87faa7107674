package server

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bootseal/bootseal/internal/atomicfile"
	"github.com/bootseal/bootseal/internal/contract"
	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/internal/encryption"
	"github.com/bootseal/bootseal/internal/root"
	"github.com/bootseal/bootseal/internal/sealing"
	"github.com/bootseal/bootseal/policy"
)

func TestParsePeer(t *testing.T) {
	unit, name, err := parsePeer("@a1b2c3d4/unit/step-ca@one.service/tls.key")
	if unit != "step-ca@one.service" || name != "tls.key" || err != nil {
		t.Errorf("%q, %q, %v", unit, name, err)
	}
	for _, address := range []string{
		"", "@", "/run/x", "a/unit/a.service/b", "@a/unit/a.service", "@a/unit/a.service/b/c", "@a/user/a.service/b",
		"@a/unit/../b", "@a/unit//b", "@a/unit/a.service/", "@a/unit/a.service/..", "@a/unit/a.socket/b", "@a/unit/a.service/b:c", "@a/unit/a b.service/c",
	} {
		if unit, name, err := parsePeer(address); err == nil {
			t.Errorf("%q is taken for %q of %q", name, unit, address)
		}
	}
}

func FuzzParsePeer(f *testing.F) {
	for _, seed := range []string{"@a1b2c3d4/unit/step-ca.service/step-ca", "@/unit/a@.service/b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, address string) {
		unit, name, err := parsePeer(address)
		if err != nil {
			return
		}
		if policy.CheckUnit(unit) != nil || strings.ContainsAny(unit+name, "/\x00\n") || !strings.HasSuffix(address, "/unit/"+unit+"/"+name) {
			t.Errorf("%q is taken for %q of %q", address, name, unit)
		}
	})
}

func TestInUnit(t *testing.T) {
	dir := t.TempDir()
	put := func(pid int, text string) {
		t.Helper()
		if err := os.MkdirAll(fmt.Sprintf("%s/proc/%d", dir, pid), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(fmt.Sprintf("%s/proc/%d/cgroup", dir, pid), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const legacy = "12:pids:/init.scope\n1:name=systemd:/init.scope\n0::/\n"
	for _, c := range []struct {
		manager, peer string
		want          bool
	}{
		{"0::/init.scope\n", "0::/system.slice/a.service\n", true},
		{"0::/init.scope\n", "0::/system.slice/a.service/.control\n", true},
		{"0::/init.scope\n", "0::/system.slice/system-x.slice/_a.service\n", true},
		{"0::/init.scope\n", "0::/a.service\n", true},
		{legacy, "12:pids:/a.service\n1:name=systemd:/system.slice/a.service\n0::/\n", true},
		// A container that sees the groups of its host.
		{"0::/machine.slice/m.scope/init.scope\n", "0::/machine.slice/m.scope/system.slice/a.service\n", true},
		{"0::/machine.slice/m.scope/init.scope\n", "0::/system.slice/a.service\n", false},
		{"0::/init.scope\n", "0::/system.slice/b.service\n", false},
		// Groups that others than systemd have made.
		{"0::/init.scope\n", "0::/system.slice/b.service/a.service\n", false},
		{"0::/init.scope\n", "0::/machine.slice/m.scope/system.slice/a.service\n", false},
		{"0::/init.scope\n", "0::/user.slice/user-0.slice/user@0.service/app.slice/a.service\n", false},
		{legacy, "12:pids:/system.slice/a.service\n1:name=systemd:/b.service\n0::/\n", false},
		{"0::/init.scope\n", "0::/\n", false},
		{"0::/init.scope\n", "", false},
		{"0::/init.scope\n", "garbage\n0:\n", false},
		{"0::/init.scope\n", "0::/system.slice/xa.service", false},
	} {
		put(1, c.manager)
		put(7, c.peer)
		if err := inUnit(root.Dir(dir), 7, "a.service"); (err == nil) != c.want {
			t.Errorf("%q, PID 1 in %q: %v; want %v", c.peer, c.manager, err, c.want)
		}
	}
	if err := inUnit(root.Dir(dir), 8, "a.service"); err == nil {
		t.Error("a process that is gone counts as one of the unit")
	}
}

// While systemd reloads, drop-ins are not there, or block their units for a moment.
func TestTakesPlain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	folder := filepath.Join(dir, contract.Generated, "a@.service.d")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{
		"[Service]\nLoadCredential=b:/run/bootseal/unseal.sock\n":          true,
		"[Service]\nLoadCredentialEncrypted=b:/run/bootseal/unseal.sock\n": false,
	} {
		result := make(chan error)
		if err := atomicfile.Write(folder+"/zz-bootseal.conf", []byte("[Service]\nExecStartPre=+/usr/bin/bootseal refuse\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		go func() {
			plain, err := takesPlain(root.Dir(dir), "a@x.service")
			if err == nil && plain != want {
				err = fmt.Errorf("%v; want %v", plain, want)
			}
			result <- err
		}()
		if err := os.Remove(folder + "/zz-bootseal.conf"); err != nil {
			t.Fatal(err)
		}
		if err := atomicfile.Write(folder+"/zz-bootseal.conf", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := <-result; err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
	if plain, err := takesPlain(root.Dir(dir), "b.service"); err == nil {
		t.Errorf("without any drop-in: %v", plain)
	}
}

// dialAs connects from an abstract address of that name.
func dialAs(t *testing.T, l *net.UnixListener, name string) *net.UnixConn {
	t.Helper()
	conn, err := net.DialUnix("unix", &net.UnixAddr{Name: fmt.Sprintf("@bootseal-test-%d-%s", os.Getpid(), name), Net: "unix"}, l.Addr().(*net.UnixAddr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func listen(t *testing.T) *net.UnixListener {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// served is a server at work, with made-up units and credentials.
func served(t *testing.T, s *server) *net.UnixListener {
	t.Helper()
	log.SetOutput(io.Discard)
	l, end := listen(t), make(chan error)
	go func() { end <- s.serve(l) }()
	t.Cleanup(func() {
		l.Close()
		if err := <-end; err != nil {
			t.Error(err)
		}
		log.SetOutput(os.Stderr)
	})
	return l
}

// wants has a request named by its peer: for TYPE-UNIT-NUMBER one of that unit.
func wants(r *request) error {
	field := strings.Split(r.conn.RemoteAddr().String(), "-")
	kind := map[string]credential.Type{"tpm": credential.TypeTPM2, "host": credential.TypeHost}[field[len(field)-3]]
	r.unit, r.name, r.plain = field[len(field)-2], field[len(field)-1], true
	r.sealed = &sealing.File{Name: r.name, Blob: &credential.Blob{Type: kind}}
	return nil
}

// opens makes of each credential as much as the test wants.
func opens(size int) func(bool, []*sealing.File) ([]*encryption.Plaintext, error) {
	return func(_ bool, all []*sealing.File) (opened []*encryption.Plaintext, err error) {
		for range all {
			opened = append(opened, &encryption.Plaintext{Payload: make([]byte, size)})
		}
		return opened, nil
	}
}

func read(t *testing.T, peer *net.UnixConn, want int) {
	t.Helper()
	if all, err := io.ReadAll(peer); err != nil || len(all) != want {
		t.Errorf("%d bytes, %v; want %d", len(all), err, want)
	}
}

// Peers that do not read keep no other from its answer, as many as they may be: neither
// those that are refused, nor those of a unit that has its secrets wait.
func TestSlowPeers(t *testing.T) {
	s := newServer()
	s.open = opens(1 << 20)
	s.identify = func(r *request) error {
		if strings.Contains(r.conn.RemoteAddr().String(), "stranger") {
			return errors.New("none of ours")
		}
		return wants(r)
	}
	l := served(t, s)
	var peers, strangers []*net.UnixConn
	for i := range 100 {
		strangers = append(strangers, dialAs(t, l, fmt.Sprintf("stranger-%d", i)))
		peers = append(peers, dialAs(t, l, fmt.Sprintf("tpm-slow-%d", i)), dialAs(t, l, fmt.Sprintf("host-slow-%d", i)))
	}
	for i := range 3 {
		read(t, dialAs(t, l, fmt.Sprintf("tpm-a-%d", i)), 1<<20)
		read(t, dialAs(t, l, fmt.Sprintf("host-b-%d", i)), 1<<20)
	}
	// Nobody has waited for these, so that they have not been given up.
	read(t, strangers[len(strangers)-1], len(refusal))
	for _, peer := range slices.Concat(peers, strangers) {
		peer.Close()
	}
}

// A unit whose drop-in, policy or blob is waited for keeps no other from its answer.
func TestWaitingPeers(t *testing.T) {
	s, end := newServer(), make(chan struct{})
	s.open = opens(10)
	s.identify = func(r *request) error {
		if strings.Contains(r.conn.RemoteAddr().String(), "away") {
			<-end
		}
		return wants(r)
	}
	l := served(t, s)
	var away []*net.UnixConn
	for i := range 100 {
		away = append(away, dialAs(t, l, fmt.Sprintf("tpm-away%d-1", i)))
	}
	read(t, dialAs(t, l, "tpm-a-1"), 10)
	read(t, dialAs(t, l, "host-b-1"), 10)
	close(end)
	for _, peer := range away {
		read(t, peer, 10)
	}
}

// What the TPM is not needed for does not wait for it.
func TestBusyTPM(t *testing.T) {
	s, end := newServer(), make(chan struct{})
	s.identify = wants
	s.open = func(booting bool, all []*sealing.File) ([]*encryption.Plaintext, error) {
		if all[0].Blob.Type.NeedsTPM2() {
			<-end
		}
		return opens(10)(booting, all)
	}
	l := served(t, s)
	peer := dialAs(t, l, "tpm-a-1")
	read(t, dialAs(t, l, "host-b-1"), 10)
	close(end)
	read(t, peer, 10)
}

// What comes together is opened together, one batch after the other; a credential that
// cannot be opened takes only its own unit with it, and the TPM is waited for once.
func TestBatches(t *testing.T) {
	s := newServer()
	var (
		busy          atomic.Int32
		sizes, waited []int
		all           sync.WaitGroup
		gathered      = make(chan struct{})
	)
	const count = 2*batch + 3
	s.open = func(booting bool, all []*sealing.File) ([]*encryption.Plaintext, error) {
		<-gathered
		if busy.Add(1) > 1 {
			t.Error("the TPM is used by two at a time")
		}
		defer busy.Add(-1)
		sizes = append(sizes, len(all))
		if booting {
			waited = append(waited, len(sizes))
		}
		for _, f := range all {
			if f.Name == "bad" {
				return nil, &sealing.FileError{File: f, Err: errors.New("damaged")}
			}
		}
		return opens(10)(booting, all)
	}
	s.identify = wants
	l := served(t, s)
	for i := range count {
		name, want := "good", 10
		if i == count-1 {
			name, want = "bad", len(refusal)
		}
		peer := dialAs(t, l, fmt.Sprintf("tpm-u%d-%s", i, name))
		all.Add(1)
		go func() {
			defer all.Done()
			read(t, peer, want)
		}()
	}
	for s.count.Load() < count { // all are at hand
		runtime.Gosched()
	}
	close(gathered)
	all.Wait()
	// One more, since one of them had the others try again.
	if len(sizes) > 5 || slices.Max(sizes) > batch || !slices.Equal(waited, []int{1}) {
		t.Errorf("opened together: %v, waiting for the TPM in %v; want few, %d at most", sizes, waited, batch)
	}
}

// A process that has ended may have left its connection, and its number, to others.
func TestEndedPeer(t *testing.T) {
	l := listen(t)
	cmd := exec.Command("perl", "-e", `use Socket;
socket(my $s, AF_UNIX, SOCK_STREAM, 0) or die;
connect($s, pack_sockaddr_un($ARGV[0])) or die;
exit if fork;
sysread(STDIN, my $end, 1);`, l.Addr().String())
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close() // ends the child
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	conn, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := checkPeer(conn, "a.service"); err == nil || strings.Contains(err.Error(), "control group of a.service") {
		t.Errorf("%v; want that the peer is gone", err)
	}
}

// The Go runtime interrupts its own threads at any time.
func TestEndedInterrupted(t *testing.T) {
	pidfd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	thread := unix.Gettid()
	var done atomic.Bool
	var stopped sync.WaitGroup
	stopped.Add(1)
	go func() {
		defer stopped.Done()
		for !done.Load() {
			_ = unix.Tgkill(os.Getpid(), thread, unix.SIGURG)
		}
	}()
	for range 20000 {
		if gone, err := ended(pidfd); gone || err != nil {
			t.Errorf("got %v, %v; this process has not ended", gone, err)
			break
		}
	}
	done.Store(true)
	stopped.Wait()
}
