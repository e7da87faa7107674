package story

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/bootseal/bootseal/test/machine"
)

// Session is a shell on a machine that is switched on: [Session.Run] has it do one
// thing after the other.
type Session struct {
	m           *machine.Machine
	ask, answer *os.File
	answers     chan int
	off         chan struct{} // closed once the machine is off
	err         error         // of the boot, then
}

// Container and host see the same pipes, as both see them in the machine's root.
const pipes = "/bootseal-test/session/"

const shell = `
cd /root
exec 8<>` + pipes + `ask 9<>` + pipes + `answer
echo 0 >&9
while IFS= read -r -d '' line <&8 && [ "$line" ]; do
	eval "$line" </dev/null >` + pipes + `stdout 2>` + pipes + `stderr 8<&- 9<&-
	echo $? >&9
done
`

// Start switches the machine on, and returns once multi-user.target is reached. The
// helpers are functions for the shell.
func Start(m *machine.Machine, helpers string) (*Session, error) {
	s := &Session{m: m, answers: make(chan int), off: make(chan struct{})}
	var err error
	if err = os.RemoveAll(m.Path(pipes)); err == nil {
		err = os.MkdirAll(m.Path(pipes), 0o700)
	}
	if err == nil {
		s.ask, err = pipe(m.Path(pipes + "ask"))
	}
	if err == nil {
		s.answer, err = pipe(m.Path(pipes + "answer"))
	}
	if err != nil {
		return nil, fmt.Errorf("opening a session: %w", err)
	}
	go func() {
		_, s.err = m.Boot(helpers + shell)
		_ = s.ask.Close()
		_ = s.answer.Close()
		close(s.off)
	}()
	go s.read()
	if _, err := s.wait(); err != nil {
		return nil, err
	}
	return s, nil
}

// pipe makes a named pipe and opens it without waiting for who opens its other end.
func pipe(path string) (*os.File, error) {
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_RDWR|syscall.O_NONBLOCK, 0)
}

// read hands on the exit statuses that the shell answers with, until the machine is off.
func (s *Session) read() {
	for {
		var status int
		if _, err := fmt.Fscanln(s.answer, &status); err != nil {
			return
		}
		select {
		case s.answers <- status:
		case <-s.off:
			return
		}
	}
}

func (s *Session) wait() (status int, err error) {
	select {
	case status := <-s.answers:
		return status, nil
	case <-s.off:
		return 0, errors.Join(errors.New("the machine went off"), s.err)
	}
}

// Run has the shell evaluate a line, or several.
func (s *Session) Run(line string) (stdout, stderr string, status int, err error) {
	if _, err := s.ask.WriteString(line + "\x00"); err != nil {
		return "", "", 0, fmt.Errorf("%s: %w", line, err)
	}
	if status, err = s.wait(); err != nil {
		return "", "", 0, fmt.Errorf("%s: %w", line, err)
	}
	out, err := os.ReadFile(s.m.Path(pipes + "stdout"))
	if err != nil {
		return "", "", 0, err
	}
	errors, err := os.ReadFile(s.m.Path(pipes + "stderr"))
	return string(out), string(errors), status, err
}

// Stop switches the machine off.
func (s *Session) Stop() error {
	_, _ = s.ask.WriteString("\x00")
	<-s.off
	return s.err
}
