package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Levels of syslog(3).
const (
	levelError  = 3
	levelNotice = 5
)

const facilityDaemon = 3 << 3

// maxRecord is the most that the kernel log takes in one write, in bytes.
const maxRecord = 1000

// logger writes to the kernel log when systemd runs the generator, whose
// standard error is /dev/null then, or to the journal in a container, which has
// no kernel log; and otherwise to standard error.
type logger struct {
	file     *os.File // nil for the journal
	kernel   bool
	patience time.Duration // that is left to wait for a busy journal
}

// journalPatience is how long all records together may wait for a journal that is
// busy: PID 1 waits for the generator.
const journalPatience = 2 * time.Second

func newLog() *logger {
	null := unix.Mkdev(1, 3)
	var st unix.Stat_t
	if unix.Fstat(int(os.Stderr.Fd()), &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != null {
		return &logger{file: os.Stderr}
	}
	f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return &logger{patience: journalPatience}
	}
	return &logger{file: f, kernel: true}
}

// print writes one record. What does not fit into it is cut off.
func (l *logger) print(level int, text string) {
	record := "bootseal-generator: " + text
	if l.kernel {
		record = fmt.Sprintf("<%d>bootseal-generator[%d]: %s", facilityDaemon|level, os.Getpid(), text)
	}
	record = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, record)
	if len(record) > maxRecord {
		record = strings.ToValidUTF8(record[:maxRecord], "") + " …"
	}
	// Where even the log cannot be written there is nobody left to tell.
	if l.file == nil {
		begun := time.Now()
		_ = sendJournal(journalSocket, level, strings.TrimPrefix(record, "bootseal-generator: "), max(l.patience, 0))
		l.patience -= time.Since(begun)
		return
	}
	_, _ = l.file.WriteString(record + "\n")
}

// journalSocket is where systemd-journald takes entries.
const journalSocket = "/run/systemd/journal/socket"

// sendJournal sends an entry of one line to the journal: a datagram with a
// NAME=VALUE on each line (systemd.journal-fields(7), the journal's native protocol).
// It waits so long at most for a journal that is busy.
func sendJournal(socket string, level int, text string, wait time.Duration) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("connecting to the journal: %w", err)
	}
	defer unix.Close(fd)
	flags := unix.MSG_DONTWAIT
	if wait >= time.Microsecond { // no time would be for ever
		timeout := unix.NsecToTimeval(wait.Nanoseconds())
		if unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &timeout) == nil {
			flags = 0
		}
	}
	entry := fmt.Sprintf("PRIORITY=%d\nSYSLOG_IDENTIFIER=bootseal-generator\nMESSAGE=%s\n", level, text)
	if err := unix.Sendto(fd, []byte(entry), flags, &unix.SockaddrUnix{Name: socket}); err != nil {
		return fmt.Errorf("writing to the journal: %w", err)
	}
	return nil
}
