// Package timestamp reads points in time as systemd.time(7) writes them.
package timestamp

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// ErrSyntax says that a text is no time.
var ErrSyntax = errors.New("expected a time such as @1767225600, 2026-01-31, \"2026-01-31 12:30:00\", now, today, tomorrow, +1d, \"+2weeks 3h\" or \"5min ago\"")

const (
	day  = 24 * time.Hour
	year = 31557600 * time.Second // 365.25 days
)

// timeUnits are the units of time spans (systemd.time(7)).
var timeUnits = map[string]time.Duration{
	"us": time.Microsecond, "usec": time.Microsecond, "µs": time.Microsecond, "μs": time.Microsecond,
	"ms": time.Millisecond, "msec": time.Millisecond,
	"": time.Second, "s": time.Second, "sec": time.Second, "second": time.Second, "seconds": time.Second,
	"m": time.Minute, "min": time.Minute, "minute": time.Minute, "minutes": time.Minute,
	"h": time.Hour, "hr": time.Hour, "hour": time.Hour, "hours": time.Hour,
	"d": day, "day": day, "days": day,
	"w": 7 * day, "week": 7 * day, "weeks": 7 * day,
	"M": year / 12, "month": year / 12, "months": year / 12,
	"y": year, "year": year, "years": year,
}

// Parse reads a time as systemd.time(7) has it, in local time unless it
// ends in a time zone.
func Parse(text string, now time.Time) (time.Time, error) {
	t, err := parseTime(text, now)
	if err != nil {
		return t, err
	}
	// Credentials count microseconds from 1970 on.
	if t.Unix() < 0 || t.Year() > 9999 {
		return t, errors.New("expected a time between 1970 and 9999")
	}
	return t, nil
}

func parseTime(text string, now time.Time) (time.Time, error) {
	if seconds, ok := strings.CutPrefix(text, "@"); ok {
		n, fraction, err := parseNumber(seconds)
		if err != nil || n > math.MaxInt64/int64(time.Second) {
			return now, ErrSyntax
		}
		return time.Unix(n, int64(fraction*1e9)), nil
	}
	if span, ok := strings.CutPrefix(text, "+"); ok {
		return move(now, span, 1)
	}
	if span, ok := strings.CutPrefix(text, "-"); ok {
		return move(now, span, -1)
	}
	if span, ok := strings.CutSuffix(text, " ago"); ok {
		return move(now, span, -1)
	}
	if span, ok := strings.CutSuffix(text, " left"); ok {
		return move(now, span, 1)
	}
	text, weekday := cutWeekday(text)
	text, zone := cutZone(text, now)
	t, err := parseDay(text, now.In(zone))
	if err == nil && weekday != "" && weekday != t.Weekday().String() {
		return now, fmt.Errorf("that day is a %v", t.Weekday())
	}
	return t, err
}

// cutWeekday takes the day of the week off the beginning, long or short.
func cutWeekday(text string) (rest, weekday string) {
	word, rest, _ := strings.Cut(text, " ")
	for day := time.Sunday; day <= time.Saturday; day++ {
		if name := day.String(); strings.EqualFold(word, name) || strings.EqualFold(word, name[:3]) {
			return strings.TrimLeft(rest, " "), name
		}
	}
	return text, ""
}

// cutZone takes the time zone off the end: Z, UTC, one that local time has over
// the year, such as CET and CEST, or a name such as Europe/Berlin.
func cutZone(text string, now time.Time) (rest string, zone *time.Location) {
	if rest, ok := strings.CutSuffix(text, "Z"); ok {
		return rest, time.UTC
	}
	at := strings.LastIndexByte(text, ' ')
	if at < 0 || at == len(text)-1 || text[at+1] < 'A' || text[at+1] > 'Z' {
		return text, time.Local
	}
	rest, word := text[:at], text[at+1:]
	for _, month := range []time.Month{time.January, time.July} {
		if name, offset := time.Date(now.Year(), month, 1, 0, 0, 0, 0, time.Local).Zone(); name == word {
			return rest, time.FixedZone(name, offset)
		}
	}
	if zone, err := time.LoadLocation(word); err == nil && word != "Local" {
		return rest, zone
	}
	return text, time.Local
}

// parseDay reads words for days and absolute times in the zone of now.
func parseDay(text string, now time.Time) (time.Time, error) {
	y, m, d := now.Date()
	switch text {
	case "now":
		return now, nil
	case "yesterday":
		return time.Date(y, m, d-1, 0, 0, 0, 0, now.Location()), nil
	case "today":
		return time.Date(y, m, d, 0, 0, 0, 0, now.Location()), nil
	case "tomorrow":
		return time.Date(y, m, d+1, 0, 0, 0, 0, now.Location()), nil
	}
	if len(text) > 2 && strings.Contains(text[:3], ":") {
		text = now.Format("2006-01-02 ") + text
	}
	for _, date := range []string{"2006-1-2", "06-1-2"} {
		for _, clock := range []string{"", " 15:4:5", " 15:4", "T15:4:5", "T15:4"} {
			for _, offset := range []string{"", "-07:00", " -07:00", " -07"} {
				if t, err := time.ParseInLocation(date+clock+offset, text, now.Location()); err == nil {
					return t, nil
				}
			}
		}
	}
	return now, ErrSyntax
}

func move(now time.Time, span string, sign time.Duration) (time.Time, error) {
	d, err := parseSpan(span)
	if err != nil {
		return now, err
	}
	return now.Add(sign * d), nil
}

// parseSpan reads a time span such as "2 weeks 1.5h"; a number alone is seconds.
func parseSpan(text string) (time.Duration, error) {
	var total time.Duration
	text = strings.TrimSpace(text)
	if text == "" {
		return 0, ErrSyntax
	}
	for text != "" {
		end := strings.IndexFunc(text, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
		if end < 0 {
			end = len(text)
		}
		n, fraction, err := parseNumber(text[:end])
		if err != nil {
			return 0, ErrSyntax
		}
		text = strings.TrimLeft(text[end:], " \t")
		end = strings.IndexAny(text, "0123456789. \t")
		if end < 0 {
			end = len(text)
		}
		unit, ok := timeUnits[text[:end]]
		if !ok {
			return 0, ErrSyntax
		}
		if n > int64((math.MaxInt64-total)/unit)-1 {
			return 0, errors.New("the time span is too long")
		}
		total += time.Duration(n)*unit + time.Duration(fraction*float64(unit))
		text = strings.TrimLeft(text[end:], " \t")
	}
	return total, nil
}

// parseNumber reads digits with an optional fraction.
func parseNumber(text string) (whole int64, fraction float64, err error) {
	digits, rest, found := strings.Cut(text, ".")
	if whole, err = strconv.ParseInt(digits, 10, 64); err != nil || digits[0] == '+' || digits[0] == '-' {
		return 0, 0, ErrSyntax
	}
	if !found {
		return whole, 0, nil
	}
	if rest == "" || strings.Trim(rest, "0123456789") != "" {
		return 0, 0, ErrSyntax
	}
	fraction, err = strconv.ParseFloat("0."+rest, 64)
	return whole, fraction, err
}
