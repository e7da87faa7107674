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
	"slices"
	"sync"
	"sync/atomic"
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
	// patience is how long a peer may take to read its credential: a unit that gets
	// little of the processor reads slowly. Of one unit perUnit requests are worked on
	// at the same time, so that it has the server hold that many secrets at most.
	// systemd asks for one after the other.
	patience = 10 * time.Second
	perUnit  = 4
	// respite is how long the server waits where it is out of descriptors.
	respite = 100 * time.Millisecond
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
	plain  bool         // systemd cannot open an answer that is sealed
	opened chan outcome // of the credential, or why it could not be
}

type outcome struct {
	payload *encryption.Plaintext
	err     error
}

// server works on all requests at the same time, as any of them may have to wait: for
// its unit's drop-in, for the disk that its blob is on, for its peer to read. Only the
// TPM can do no more than one thing at a time: what needs it is opened by one
// goroutine, with the same primary key what comes together.
type server struct {
	requests sync.WaitGroup
	count    atomic.Int64  // of the requests that are being worked on
	ready    chan *request // for the TPM
	booting  bool          // the TPM has not been waited for

	identify func(*request) error
	open     func(booting bool, all []*sealing.File) ([]*encryption.Plaintext, error)

	mutex sync.Mutex
	units map[string]chan struct{} // a place for each request of a unit
}

func newServer() *server {
	return &server{
		ready: make(chan *request), booting: true, units: map[string]chan struct{}{},
		identify: (*request).identify, open: open,
	}
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
	return newServer().serve(listener)
}

// serve answers until there has been nothing to do for a while, or the listener is
// closed.
func (s *server) serve(listener *net.UnixListener) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for requests := s.gather(); requests != nil; requests = s.gather() {
			s.openAll(requests)
		}
	}()
	defer func() {
		s.requests.Wait()
		close(s.ready)
		<-done
	}()
	for {
		if err := listener.SetDeadline(time.Now().Add(idle)); err != nil {
			return err
		}
		conn, err := listener.AcceptUnix()
		switch {
		case err == nil:
			s.requests.Add(1)
			s.count.Add(1)
			go func() {
				defer s.requests.Done()
				defer s.count.Add(-1)
				s.answer(&request{conn: conn, opened: make(chan outcome, 1)})
			}()
		case errors.Is(err, os.ErrDeadlineExceeded) && s.count.Load() > 0:
			// Whoever comes meanwhile need not wait for the end.
		case errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed):
			return nil
		case errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ECONNABORTED):
			time.Sleep(respite) // until some have been answered
		default:
			return fmt.Errorf("waiting for connections: %w", err)
		}
	}
}

// answer sends a request its credential, or a refusal.
func (s *server) answer(r *request) {
	defer r.conn.Close()
	if err := s.identify(r); err != nil {
		r.refuse(err)
		return
	}
	places := s.places(r.unit)
	places <- struct{}{}
	defer func() { <-places }()
	if r.sealed.Blob.Type.NeedsTPM2() {
		s.ready <- r
	} else {
		s.openAll([]*request{r})
	}
	o := <-r.opened
	if o.err != nil {
		r.refuse(o.err)
		return
	}
	defer o.payload.Wipe()
	r.send(o.payload.Payload)
}

// places are as many as there may be requests of the unit.
func (s *server) places(unit string) chan struct{} {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.units[unit] == nil {
		s.units[unit] = make(chan struct{}, perUnit)
	}
	return s.units[unit]
}

// gather waits for a request that needs the TPM and takes those that come with it. It
// returns nothing at the end.
func (s *server) gather() []*request {
	first, ok := <-s.ready
	if !ok {
		return nil
	}
	all := []*request{first}
	for len(all) < batch {
		select {
		case r, ok := <-s.ready:
			if !ok {
				return all
			}
			all = append(all, r)
		case <-time.After(gather):
			return all
		}
	}
	return all
}

// openAll opens the credentials of the requests, each of which either needs the TPM or
// is alone.
func (s *server) openAll(requests []*request) {
	for len(requests) > 0 {
		all := make([]*sealing.File, len(requests))
		for i, r := range requests {
			all[i] = r.sealed
		}
		needsTPM2 := all[0].Blob.Type.NeedsTPM2()
		opened, err := s.open(needsTPM2 && s.booting, all)
		if needsTPM2 {
			s.booting = false
		}
		if err != nil {
			requests = without(requests, err)
			continue
		}
		for i, r := range requests {
			r.opened <- outcome{payload: opened[i]}
		}
		return
	}
}

func open(booting bool, all []*sealing.File) ([]*encryption.Plaintext, error) {
	// Null credentials are here only where the policy asks for them.
	how := sealing.ForUnit(sealing.NullAccepted)
	if booting {
		how = sealing.ForBootingUnit(sealing.NullAccepted)
	}
	return how.Open(all)
}

// without refuses the request that err is about, or all if it is about the TPM, and
// returns the others.
func without(requests []*request, err error) (others []*request) {
	var at *sealing.FileError
	one := errors.As(err, &at) && !failure.OfTPM(err)
	for _, r := range requests {
		if one && r.sealed != at.File {
			others = append(others, r)
		}
	}
	if len(others) == len(requests) {
		others = nil // it is about none of them
	}
	for _, r := range requests {
		if !slices.Contains(others, r) {
			r.opened <- outcome{err: err}
		}
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
