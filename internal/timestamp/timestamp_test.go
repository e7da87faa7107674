package timestamp

import (
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// analyze asks the real systemd-analyze(1) what a time means, in microseconds
// since the epoch.
func analyze(t *testing.T, text string) (uint64, bool) {
	t.Helper()
	out, err := exec.Command("systemd-analyze", "timestamp", "--", text).Output()
	if err != nil {
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) {
			t.Fatalf("%v (Debian: apt-get install systemd)", err)
		}
		return 0, false
	}
	_, rest, ok := strings.Cut(string(out), "UNIX seconds: @")
	if !ok {
		t.Fatalf("systemd-analyze printed:\n%s", out)
	}
	seconds, micros, _ := strings.Cut(strings.Fields(rest)[0], ".")
	var usec uint64
	if _, err := fmt.Sscan(seconds+(micros + "000000")[:6], &usec); err != nil {
		t.Fatal(err)
	}
	return usec, true
}

func TestParse(t *testing.T) {
	t.Setenv("TZ", "Europe/Berlin")
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	defer func(local *time.Location) { time.Local = local }(time.Local)
	time.Local = berlin

	// Those that do not move with the clock agree to the microsecond.
	for _, text := range []string{
		"@0", "@17", "@1767225600", "@1767225600.5", "@1767225600.000001",
		"2026-01-31", "2026-1-2", "2026-07-31 12:30", "2026-01-31 12:30:59", "2026-01-31 12:30:00.25",
		"2026-01-31 UTC", "2026-07-31 12:30 UTC", "1970-01-02", "2024-02-29", "2026-03-29 03:30",
		"today", "tomorrow", "yesterday", "00:00", "12:30", "23:59:59",
		"Thu 2030-01-03 12:00:00 UTC", "thursday 2030-01-03", "THU 2030-01-03  12:00", "2030-07-03 12:00 CEST", "30-01-03 12:30", "70-01-03",
	} {
		// Not if midnight is between the two.
		now := time.Now()
		got, err := Parse(text, now)
		want, ok := analyze(t, text)
		if now.In(berlin).Day() != time.Now().In(berlin).Day() {
			t.Fatal("midnight: run it again")
		}
		if !ok || err != nil || uint64(got.UnixMicro()) != want {
			t.Errorf("%q: %d, %v; systemd-analyze says %d, %v", text, got.UnixMicro(), err, want, ok)
		}
	}
	// The others lie between those of before and after.
	for _, text := range []string{
		"now", "+1d", "+2weeks", "+2 weeks 3h", "+1.5h", "+5", "+1 h 2", "-1h", "5min ago", "1h 30min ago", "2 weeks left",
		"+1M", "+1y", "+1month 1year", "+1us", "+3ms", "+2hr 3minutes 4sec", "+1w1d", "+ 1d",
	} {
		before, err := Parse(text, time.Now())
		want, ok := analyze(t, text)
		after, err2 := Parse(text, time.Now())
		if !ok || err != nil || err2 != nil || want < uint64(before.UnixMicro()) || want > uint64(after.UnixMicro()) {
			t.Errorf("%q: %d to %d, %v, %v; systemd-analyze says %d, %v", text, before.UnixMicro(), after.UnixMicro(), err, err2, want, ok)
		}
	}
	// Those that systemd takes only in later versions, or with tzdata: from 262.
	for text, want := range map[string]int64{
		"2030-01-03 12:00:00 Europe/Berlin": 1893668400, "THU 2030-01-03 12:00 Asia/Kolkata": 1893652200, "2030-07-03 12:00 CET": 1909306800,
		"2030-01-03T12:00Z": 1893672000, "2030-01-03 12:00:00.5Z": 1893672000, "2030-01-03T12:00:00+02:00": 1893664800,
		"2030-01-03 12:00 +02": 1893664800, "2030-01-03+02:00": 1893621600,
	} {
		if got, err := Parse(text, time.Now()); err != nil || got.Unix() != want {
			t.Errorf("%q: %d, %v; want %d", text, got.Unix(), err, want)
		}
	}
	// What systemd refuses, so do we.
	for _, text := range []string{
		"", " ", "@", "@x", "@-1", "@1e3", "+", "-", "ago", " ago", "2 weeks", "+2 fortnights", "+d", "+1d-1h", "--1h", "+1..5h",
		"2026", "2026-13-01", "2026-01-31 24:00", "2026-01-31T", "noon", "now UTC now", "99999999999999999999", "@99999999999999999999", "+99999999999999999999y",
		"1969-12-30", "69-01-03", "Fri 2030-01-03", "Thu, 2030-01-03", "2030-01-03 12:00:00 Local", "2030-01-03 12:00 Nowhere/Land", "2030-01-03 12:00-0330", "Thu",
	} {
		if got, err := Parse(text, time.Now()); err == nil {
			t.Errorf("%q: %v, want an error", text, got)
		}
		if want, ok := analyze(t, text); ok {
			t.Errorf("%q: systemd-analyze takes it: %d", text, want)
		}
	}
	// Stricter: a day that the month does not have.
	if got, err := Parse("2026-02-30", time.Now()); err == nil {
		t.Errorf("2026-02-30: %v, want an error", got)
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range []string{"@1.5", "2026-01-31 12:30:00 UTC", "+2weeks 1.5h", "5min ago", "12:30", "today"} {
		f.Add(text)
	}
	now := time.Unix(1767225600, 0)
	f.Fuzz(func(t *testing.T, text string) {
		got, err := Parse(text, now)
		if err == nil && (got.UnixMicro() < 0 || got.Year() > 9999) {
			t.Errorf("%q became %v", text, got)
		}
	})
}
