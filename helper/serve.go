package main

import (
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	sdjournal "github.com/coreos/go-systemd/v22/journal"
	"golang.org/x/sys/unix"

	"github.com/bootseal/bootseal/internal/contract"
	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/internal/encryption"
	"github.com/bootseal/bootseal/internal/root"
	"github.com/bootseal/bootseal/internal/tpm"
	"github.com/bootseal/bootseal/internal/tpmdevice"
	"github.com/bootseal/bootseal/policy"
)

const (
	// idle is how long the server waits for a further connection before it
	// ends, so that no process with the right to unseal stays around.
	idle = 10 * time.Second
	// gather is how long it waits for more connections, and batch how many it
	// takes at most, to answer with the same primary key. Units that start
	// together connect together.
	gather = 20 * time.Millisecond
	batch  = 10
	// patience is how long a peer may take to read its credential, and readers
	// how many may do so at the same time: a unit that gets little of the
	// processor reads slowly, and is not to keep the others waiting.
	patience = 10 * time.Second
	readers  = 64
	// reloadTime is how long it waits for the drop-ins when systemd reloads.
	reloadTime = 2 * time.Second
)

// refusal is more than systemd takes as a credential. It makes PID 1 fail the
// unit also where it takes an empty answer for an empty secret.
var refusal [1<<20 + 1]byte

// request is a connection from PID 1, and what it is to be answered with.
type request struct {
	conn   *net.UnixConn
	unit   string
	name   string
	sealed *sealed
	policy *policy.Policy
	plain  bool // systemd cannot open an answer that is sealed
}

// server opens the credentials one after the other: the TPM can do only one thing
// at a time, and requests that come together share the primary key.
type server struct {
	answers sync.WaitGroup
	slots   chan struct{} // for readers
	booting bool          // the TPM has not been waited for
}

func newServer() *server {
	return &server{slots: make(chan struct{}, readers), booting: true}
}

// serve answers the LoadCredential= connections that bootseal.socket accepts.
func serve(args []string) error {
	if err := parseFlags(flagSet("serve"), args); err != nil {
		return err
	}
	listeners, err := activation.Listeners()
	if err != nil {
		return fmt.Errorf("taking over the socket: %w", err)
	}
	if len(listeners) != 1 {
		return usagef("serve: expected one socket from systemd, found %d; it is run by bootseal.socket", len(listeners))
	}
	listener, ok := listeners[0].(*net.UnixListener)
	if !ok {
		return usagef("serve: expected an AF_UNIX stream socket from systemd")
	}
	log.SetFlags(0)
	// What has been accepted is answered before the end.
	end := make(chan os.Signal, 1)
	signal.Notify(end, unix.SIGTERM)
	go func() {
		<-end
		listener.Close()
	}()
	s := newServer()
	defer s.answers.Wait()
	for {
		requests, err := receive(listener)
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("waiting for connections: %w", err)
		}
		s.answer(requests)
	}
}

// receive waits for a connection and takes those that come with it.
func receive(listener *net.UnixListener) ([]*request, error) {
	var all []*request
	wait := idle
	for {
		if err := listener.SetDeadline(time.Now().Add(wait)); err != nil {
			return all, err
		}
		conn, err := listener.AcceptUnix()
		switch {
		case err == nil:
			wait = gather
			if all = append(all, &request{conn: conn}); len(all) == batch {
				return all, nil
			}
		case len(all) > 0:
			return all, nil
		default:
			return all, err
		}
	}
}

// answer has each request sent its credential, or a refusal.
func (s *server) answer(requests []*request) {
	var good []*request
	for _, r := range requests {
		if err := r.identify(); err != nil {
			s.send(func() { r.refuse(err) })
			continue
		}
		good = append(good, r)
	}
	for len(good) > 0 {
		all := make([]*sealed, len(good))
		useTPM2 := false
		for i, r := range good {
			all[i] = r.sealed
			useTPM2 = useTPM2 || r.sealed.blob.Type.NeedsTPM2()
		}
		// Null credentials are here only where the policy asks for them.
		opened, err := opening{booting: s.booting, allowNull: true, anyScope: true, now: time.Now()}.open(all)
		s.booting = s.booting && !useTPM2
		if err != nil {
			good = s.without(good, err)
			continue
		}
		for i, r := range good {
			s.send(func() {
				defer opened[i].Wipe()
				r.send(opened[i].Payload)
			})
		}
		return
	}
}

// send has an answer written, without waiting until the peer has read it.
func (s *server) send(write func()) {
	s.slots <- struct{}{}
	s.answers.Add(1)
	go func() {
		defer func() {
			<-s.slots
			s.answers.Done()
		}()
		write()
	}()
}

// ofTPM are the causes that keep every secret in the TPM.
var ofTPM = []error{tpmdevice.ErrNoTPM, tpmdevice.ErrBusy, tpmdevice.ErrResponse, tpm.ErrBusy, tpm.ErrTransport, tpm.ErrBadReply, tpm.ErrLockout, tpm.ErrOwnerAuth}

// without refuses the request that err is about, or all that need the TPM if it
// is about that, and returns the others.
func (s *server) without(requests []*request, err error) (others []*request) {
	var at *sealedError
	one := errors.As(err, &at) && !slices.ContainsFunc(ofTPM, func(cause error) bool { return errors.Is(err, cause) })
	for _, r := range requests {
		if one && r.sealed == at.sealed || !one && r.sealed.blob.Type.NeedsTPM2() {
			s.send(func() { r.refuse(err) })
			continue
		}
		others = append(others, r)
	}
	if len(others) == len(requests) {
		for _, r := range requests {
			s.send(func() { r.refuse(err) })
		}
		return nil
	}
	return others
}

// identify finds out which credential of which unit is wanted. PID 1 connects
// from an abstract address that names both, systemd.exec(5), with the process
// in the unit's control group and as root. An address alone could be made up by
// any process. Only root can reach the socket, and could open the credential
// itself; the control group keeps a service that runs as root, but without the
// right to move between groups, from asking for another's.
func (r *request) identify() error {
	peer, ok := r.conn.RemoteAddr().(*net.UnixAddr)
	if !ok || peer == nil {
		return errors.New("the peer has no address; expected PID 1 to connect from one that names a unit")
	}
	var err error
	if r.unit, r.name, err = parsePeer(peer.Name); err != nil {
		return err
	}
	if err := checkPeer(r.conn, r.unit); err != nil {
		return err
	}
	if r.policy, err = policy.ForUnit("/", r.unit); err != nil {
		return err
	}
	for _, c := range r.policy.Credentials {
		if c.Name != r.name {
			continue
		}
		blob, err := policy.ReadBlob("/", r.policy, c)
		if err != nil {
			return err
		}
		r.sealed = &sealed{file: c.Source, name: c.Name, blob: blob}
		r.plain, err = takesPlain(root.Dir("/"), r.unit)
		return err
	}
	return fmt.Errorf("%s has no credential of that name", r.policy.Path)
}

// takesPlain tells whether the unit's drop-in asks for an answer that is not
// sealed: before systemd 250 there is no other. The server may not look at PID
// 1's executable to find out itself. While systemd reloads, the drop-in is away,
// or one that blocks the unit is in its place; a guess could make systemd take a
// sealed answer for the secret.
func takesPlain(dir root.Dir, unit string) (plain bool, err error) {
	for end := time.Now().Add(reloadTime); ; time.Sleep(50 * time.Millisecond) {
		for _, name := range []string{unit, policy.Template(unit)} {
			d, err := contract.ReadDropIn(dir, name, contract.DropInName)
			if answer := d.Answer(); err == nil && answer != contract.NoAnswer {
				return answer == contract.PlainAnswer, nil
			}
		}
		if time.Now().After(end) {
			return false, fmt.Errorf("there is no drop-in of bootseal-generator that loads a credential; run \"systemctl daemon-reload\"")
		}
	}
}

// parsePeer splits the address "@RANDOM/unit/UNIT/NAME", systemd.exec(5).
func parsePeer(address string) (unit, name string, err error) {
	part := strings.Split(address, "/")
	if !strings.HasPrefix(address, "@") || len(part) != 4 || part[1] != "unit" {
		return "", "", fmt.Errorf("the peer's address is %q; expected @…/unit/UNIT/NAME, which PID 1 has", address)
	}
	if err := policy.CheckUnit(part[2]); err != nil {
		return "", "", fmt.Errorf("the peer's address: %w", err)
	}
	if !credential.ValidName(part[3]) {
		return "", "", fmt.Errorf("the peer's address names %q, which is no credential name", part[3])
	}
	return part[2], part[3], nil
}

// checkPeer makes sure that root, and a process of the unit, has connected.
func checkPeer(conn *net.UnixConn, unit string) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	pidfd := -1
	controlErr := raw.Control(func(fd uintptr) {
		if cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pidfd, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEERPIDFD)
		}
	})
	switch {
	case controlErr != nil:
		return controlErr
	case errors.Is(err, unix.ENOPROTOOPT): // before Linux 6.5
		pidfd = -1
	case err != nil:
		return fmt.Errorf("finding the peer: %w", err)
	}
	if pidfd >= 0 {
		defer unix.Close(pidfd)
	}
	if cred.Uid != 0 {
		return fmt.Errorf("the peer runs as user %d; expected root", cred.Uid)
	}
	if err := inUnit(root.Dir("/"), int(cred.Pid), unit); err != nil {
		return err
	}
	// If it lives, what has been looked at is it and not one that came after it
	// with the same number.
	gone, err := ended(pidfd)
	if err == nil && gone {
		err = fmt.Errorf("the peer, process %d, has ended", cred.Pid)
	}
	return err
}

// ended tells whether a process has ended, of which pidfd is a descriptor.
func ended(pidfd int) (bool, error) {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 0)
		// The Go runtime sends itself signals, which interrupt even a poll that
		// does not wait, and SA_RESTART does not help: signal(7).
		if err != unix.EINTR {
			return n != 0, err
		}
	}
}

// inUnit makes sure that a process belongs to the control group that systemd has
// made for the unit. Those below it are the unit's own, and may have any name.
func inUnit(dir root.Dir, pid int, unit string) error {
	peer, err := controlGroups(dir, pid)
	if err != nil {
		return fmt.Errorf("finding the peer's control group: %w", err)
	}
	manager, err := controlGroups(dir, 1)
	if err != nil {
		return fmt.Errorf("finding PID 1's control group: %w", err)
	}
	for hierarchy, group := range peer {
		top := strings.TrimSuffix(strings.TrimSuffix(manager[hierarchy], "/init.scope"), "/")
		below, ok := strings.CutPrefix(group, top+"/")
		if !ok {
			continue
		}
		for _, name := range strings.Split(below, "/") {
			if strings.HasSuffix(name, ".slice") {
				continue
			}
			// systemd puts "_" before names that the kernel has uses for.
			if strings.TrimPrefix(name, "_") == unit {
				return nil
			}
			break
		}
	}
	return fmt.Errorf("the peer, process %d, is not in the control group of %s; expected PID 1 to ask on its behalf", pid, unit)
}

// controlGroups returns a process's groups in the hierarchies that systemd uses
// for its units: the unified one, or the one that has its name.
func controlGroups(dir root.Dir, pid int) (map[string]string, error) {
	const most = 64 << 10
	text, err := dir.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid), most)
	if err != nil {
		return nil, err
	}
	groups := map[string]string{}
	for _, line := range strings.Split(strings.TrimSuffix(string(text), "\n"), "\n") {
		field := strings.SplitN(line, ":", 3) // HIERARCHY:CONTROLLERS:PATH, cgroups(7)
		if len(field) == 3 && (field[0] == "0" && field[1] == "" || field[1] == "name=systemd") {
			groups[field[1]] = field[2]
		}
	}
	return groups, nil
}

// send answers with the credential, sealed with the host key: an answer that was
// cut off does not open, whereas of a plain one PID 1 would take what came for
// the secret.
func (r *request) send(payload []byte) {
	defer r.conn.Close()
	answer := payload
	if !r.plain {
		text, err := sealAnswer(r.name, payload)
		if err != nil {
			r.refuse(err)
			return
		}
		answer = text
	}
	err := r.conn.SetDeadline(time.Now().Add(patience))
	if err == nil {
		_, err = r.conn.Write(answer)
	}
	if err != nil {
		r.say("sending", err)
	}
}

func sealAnswer(name string, payload []byte) ([]byte, error) {
	key, _, err := ensureHostKey()
	if err != nil {
		return nil, err
	}
	defer clear(key)
	blob := credential.Blob{Type: credential.TypeHost}
	data, err := encryption.Seal(&blob, encryption.Keys{Host: key}, &encryption.Plaintext{
		Name: name, Timestamp: uint64(time.Now().UnixMicro()), NotAfter: encryption.Infinity, Payload: payload,
	})
	if err != nil {
		return nil, err
	}
	return credential.EncodeText(data), nil
}

// refuse makes PID 1 fail the unit.
func (r *request) refuse(cause error) {
	defer r.conn.Close()
	if r.unit == "" {
		log.Printf("<4>refusing a connection: %v", cause)
	} else {
		r.say("refusing", cause)
	}
	if err := r.conn.SetDeadline(time.Now().Add(patience)); err == nil {
		_, _ = r.conn.Write(refusal[:])
	}
}

// say logs what became of a request, so that systemctl status of the unit shows
// it, too.
func (r *request) say(doing string, cause error) {
	text := fmt.Sprintf("%s: %s credential %s: %v", r.unit, doing, r.name, cause)
	if sdjournal.Send(text, sdjournal.PriErr, map[string]string{"OBJECT_SYSTEMD_UNIT": r.unit, "SYSLOG_IDENTIFIER": "bootseal"}) != nil {
		log.Print("<3>" + text)
	}
}
