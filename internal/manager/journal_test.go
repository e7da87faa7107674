package manager

import "testing"

func FuzzParseJournal(f *testing.F) {
	f.Add([]byte(`{"MESSAGE":"hello","SYSLOG_IDENTIFIER":"systemd"}` + "\n" + `{"MESSAGE":[255,104,105]}` + "\n"))
	f.Fuzz(func(t *testing.T, out []byte) {
		for _, r := range parseJournal(out) {
			_ = r.String()
		}
	})
}
