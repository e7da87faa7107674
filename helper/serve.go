package main

import (
	"bytes"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	sdjournal "github.com/coreos/go-systemd/v22/journal"
	"golang.org/x/sys/unix"

	"github.com/bootseal/bootseal/internal/credential"
	"github.com/bootseal/bootseal/internal/machine"
	"github.com/bootseal/bootseal/internal/root"
	"github.com/bootseal/bootseal/internal/tpm"
	"github.com/bootseal/bootseal/policy"
	"github.com/bootseal/bootseal/units"
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
	// patience is how long a peer may take to read its credential.
	patience = 10 * time.Second
	// refusal is more than systemd takes as a credential, in bytes. It makes PID
	// 1 fail the unit also where it takes an empty answer for an empty secret.
	refusal = 1<<20 + 1
)

// request is a connection from PID 1, and what it is to be answered with.
type request struct {
	conn   *net.UnixConn
	unit   string
	name   string
	sealed *sealed
	policy *policy.Policy
	plain  bool // systemd cannot open an answer that is sealed
}

// serve answers the LoadCredential= connections that bootseal.socket accepts.
// One server answers one after the other: the TPM can do only one thing at a
// time, and requests that come together share the primary key.
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
	for {
		requests, err := receive(listener)
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("waiting for connections: %w", err)
		}
		answer(requests)
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

// answer sends each request its credential, or a refusal.
func answer(requests []*request) {
	var good []*request
	for _, r := range requests {
		if err := r.identify(); err != nil {
			r.refuse(err)
			continue
		}
		good = append(good, r)
	}
	for len(good) > 0 {
		all := make([]*sealed, len(good))
		for i, r := range good {
			all[i] = r.sealed
		}
		// Null credentials are here only where the policy asks for them.
		opened, err := opening{booting: true, allowNull: true, anyScope: true, now: time.Now()}.open(all)
		if err != nil {
			good = without(good, err)
			continue
		}
		for i, r := range good {
			r.send(opened[i].Payload)
		}
		wipe(opened)
		return
	}
}

// ofTPM are the causes that keep every secret in the TPM.
var ofTPM = []error{machine.ErrNoTPM, machine.ErrTPMBusy, machine.ErrTPMResponse, tpm.ErrBusy, tpm.ErrTransport, tpm.ErrBadReply, tpm.ErrLockout, tpm.ErrOwnerAuth}

// without refuses the request that err is about, or all that need the TPM if it
// is about that, and returns the others.
func without(requests []*request, err error) (others []*request) {
	var at *sealedError
	one := errors.As(err, &at) && !slices.ContainsFunc(ofTPM, func(cause error) bool { return errors.Is(err, cause) })
	for _, r := range requests {
		if one && r.sealed == at.sealed || !one && r.sealed.blob.Type.NeedsTPM2() {
			r.refuse(err)
			continue
		}
		others = append(others, r)
	}
	if len(others) == len(requests) {
		for _, r := range requests {
			r.refuse(err)
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
	cred, err := peerCredentials(r.conn)
	if err != nil {
		return err
	}
	if cred.Uid != 0 {
		return fmt.Errorf("the peer runs as user %d; expected root", cred.Uid)
	}
	if err := inUnit(root.Dir("/"), int(cred.Pid), r.unit); err != nil {
		return err
	}
	if r.policy, err = policy.ForUnit("/", r.unit); err != nil {
		return err
	}
	r.plain = takesPlain(root.Dir("/"), r.unit)
	for _, c := range r.policy.Credentials {
		if c.Name != r.name {
			continue
		}
		blob, err := units.ReadBlob("/", r.policy, c)
		r.sealed = &sealed{file: c.Source, name: c.Name, blob: blob}
		return err
	}
	return fmt.Errorf("%s has no credential of that name", r.policy.Path)
}

// takesPlain tells whether the unit's drop-in asks for an answer that is not
// sealed: before systemd 250 there is no other. The server may not look at PID
// 1's executable to find out itself.
func takesPlain(dir root.Dir, unit string) bool {
	const most = 64 << 10
	for _, name := range []string{unit, policy.Template(unit)} {
		text, err := dir.ReadFile(path.Join(generated, name+".d", units.DropInName), most)
		if err == nil {
			return !bytes.Contains(text, []byte("\nLoadCredentialEncrypted="))
		}
	}
	return false
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

func peerCredentials(conn *net.UnixConn) (cred *unix.Ucred, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	if controlErr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); controlErr != nil {
		return nil, controlErr
	}
	return cred, err
}

// inUnit makes sure that a process belongs to the unit's control group.
func inUnit(dir root.Dir, pid int, unit string) error {
	const most = 64 << 10
	text, err := dir.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid), most)
	if err != nil {
		return fmt.Errorf("finding the peer's control group: %w", err)
	}
	for _, line := range strings.Split(strings.TrimSuffix(string(text), "\n"), "\n") {
		// HIERARCHY:CONTROLLERS:PATH, cgroups(7); systemd's own hierarchy is
		// the unified one or has its name.
		field := strings.SplitN(line, ":", 3)
		if len(field) != 3 || !(field[0] == "0" && field[1] == "" || field[1] == "name=systemd") {
			continue
		}
		for group := field[2]; group != "/" && group != "."; group = path.Dir(group) {
			// systemd puts "_" before names that the kernel has uses for.
			if strings.TrimPrefix(path.Base(group), "_") == unit {
				return nil
			}
		}
	}
	return fmt.Errorf("the peer, process %d, is not in the control group of %s; expected PID 1 to ask on its behalf", pid, unit)
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
	data, err := blob.Seal(credential.Keys{Host: key}, &credential.Plaintext{
		Name: name, Timestamp: uint64(time.Now().UnixMicro()), NotAfter: credential.Infinity, Payload: payload,
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
		_, _ = r.conn.Write(make([]byte, refusal))
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
