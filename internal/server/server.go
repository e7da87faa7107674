// Package server answers PID 1, which asks for the credentials of units over
// bootseal.socket where it cannot open them itself. It refuses whoever is not PID 1 on
// behalf of the unit whose credential is asked for, and all that the unit's policy
// does not name.
package server

import (
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	sdjournal "github.com/coreos/go-systemd/v22/journal"
	"golang.org/x/sys/unix"

	"github.com/bootseal/bootseal/internal/cli"
	"github.com/bootseal/bootseal/internal/contract"
	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/internal/encryption"
	"github.com/bootseal/bootseal/internal/failure"
	"github.com/bootseal/bootseal/internal/report"
	"github.com/bootseal/bootseal/internal/root"
	"github.com/bootseal/bootseal/internal/sealing"
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
	sealed *sealing.File
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

// Verb is what bootseal.service runs.
func Verb() *cli.Verb {
	return &cli.Verb{
		Name: "serve", Forms: cli.Takes("", "Answer the connections of bootseal.socket"), InUnits: true,
		Details: "Ends when there are none for ten seconds.",
		Flags:   cli.NewFlags("serve"),
		Run:     func([]string) error { return serve() },
	}
}

func serve() error {
	listeners, err := activation.Listeners()
	if err != nil {
		return fmt.Errorf("taking over the socket: %w", err)
	}
	if len(listeners) != 1 {
		return report.Usagef("serve: expected one socket from systemd, found %d; it is run by bootseal.socket", len(listeners))
	}
	listener, ok := listeners[0].(*net.UnixListener)
	if !ok {
		return report.Usagef("serve: expected an AF_UNIX stream socket from systemd")
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
		all := make([]*sealing.File, len(good))
		useTPM2 := false
		for i, r := range good {
			all[i] = r.sealed
			useTPM2 = useTPM2 || r.sealed.Blob.Type.NeedsTPM2()
		}
		// Null credentials are here only where the policy asks for them.
		how := sealing.ForUnit(sealing.NullAccepted)
		if s.booting {
			how = sealing.ForBootingUnit(sealing.NullAccepted)
		}
		opened, err := how.Open(all)
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

// without refuses the request that err is about, or all that need the TPM if it
// is about that, and returns the others.
func (s *server) without(requests []*request, err error) (others []*request) {
	var at *sealing.FileError
	one := errors.As(err, &at) && !failure.OfTPM(err)
	for _, r := range requests {
		if one && r.sealed == at.File || !one && r.sealed.Blob.Type.NeedsTPM2() {
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
		r.sealed = &sealing.File{Path: c.Source, Name: c.Name, Blob: blob}
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
	key, _, err := sealing.EnsureHostKey()
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
