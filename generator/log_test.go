package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// The kernel takes one write as one record, of less than 1,024 bytes.
func TestKernelRecords(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	l := &logger{file: w, kernel: true}
	for text, want := range map[string]string{
		"/etc/bootseal/a.service.toml: bad": "/etc/bootseal/a.service.toml: bad\n",
		"two\nlines\x1b[1m":                 "two lines [1m\n",
		strings.Repeat("ä", 1000):           " …\n",
	} {
		l.print(levelError, text)
		buffer := make([]byte, 4096)
		n, err := r.Read(buffer)
		got := string(buffer[:n])
		prefix := fmt.Sprintf("<27>bootseal-generator[%d]: ", os.Getpid())
		if err != nil || !strings.HasPrefix(got, prefix) || !strings.HasSuffix(got, want) || n >= 1024 || strings.Count(got, "\n") != 1 || !utf8.ValidString(got) {
			t.Errorf("%d bytes: %q, %v", n, got, err)
		}
	}
}

// The journal gets one datagram for each record, with one field on a line.
func TestJournalEntries(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "socket")
	if err := sendJournal(socket, levelError, "text", 0); err == nil {
		t.Error("sent to nobody")
	}
	journal, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer journal.Close()
	if err := sendJournal(socket, levelNotice, "/etc/bootseal/a.service.toml: bad=\u00e4", 0); err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 4096)
	n, err := journal.Read(buffer)
	const want = "PRIORITY=5\nSYSLOG_IDENTIFIER=bootseal-generator\nMESSAGE=/etc/bootseal/a.service.toml: bad=\u00e4\n"
	if got := string(buffer[:n]); err != nil || got != want {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
}

// A journal that is busy gets its records later; one that hangs is given up.
func TestBusyJournal(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "socket")
	journal, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer journal.Close()
	sent := 0
	for ; err == nil && sent < 100000; sent++ {
		err = sendJournal(socket, levelError, "text", 0)
	}
	if err == nil {
		t.Fatal("the journal takes everything: nothing is tried")
	}
	if err := sendJournal(socket, levelError, "text", time.Millisecond); err == nil {
		t.Error("sent to a journal that hangs")
	}
	done := make(chan error)
	go func() { done <- sendJournal(socket, levelError, "the last", time.Hour) }()
	buffer := make([]byte, 4096)
	for {
		n, err := journal.Read(buffer)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(buffer[:n]), "the last") {
			break
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
