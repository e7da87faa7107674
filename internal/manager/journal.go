package manager

import (
	"bytes"
	"context"
	"encoding/json"
	"os/exec"
	"strings"
)

// Record is one of the journal.
type Record struct{ Identifier, Message string }

func (r Record) String() string { return r.Identifier + ": " + r.Message }

// Journal reads what the unit and systemd wrote in a start of it, or without its
// invocation ID of late. Without a journal there is nothing.
func Journal(ctx context.Context, unit, invocation string) []Record {
	args := []string{"--no-pager", "--quiet", "--output=json", "--boot", "--lines=30"}
	if invocation == "" {
		args = append(args, "--unit="+unit)
	} else {
		args = append(args, "_SYSTEMD_INVOCATION_ID="+invocation, "+", "INVOCATION_ID="+invocation)
	}
	out, err := exec.CommandContext(ctx, "journalctl", args...).Output()
	if err != nil {
		return nil
	}
	return parseJournal(out)
}

// parseJournal reads the JSON of journalctl(1), a line for each Record.
func parseJournal(out []byte) []Record {
	var all []Record
	for _, line := range bytes.Split(out, []byte("\n")) {
		var fields map[string]any
		if json.Unmarshal(line, &fields) != nil {
			continue
		}
		message, ok := fields["MESSAGE"].(string)
		if bad, is := fields["MESSAGE"].([]any); is { // bytes that are not UTF-8
			var raw []byte
			for _, b := range bad {
				if n, ok := b.(float64); ok {
					raw = append(raw, byte(n))
				}
			}
			message, ok = strings.ToValidUTF8(string(raw), "?"), true
		}
		if ok {
			all = append(all, Record{Text(fields["SYSLOG_IDENTIFIER"]), message})
		}
	}
	return all
}
