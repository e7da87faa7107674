package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
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
