package creds

import (
	"bytes"
	"encoding/json"
	"github.com/bootseal/bootseal/internal/options"
	"reflect"
	"testing"
)

func TestTranscode(t *testing.T) {
	for _, test := range []struct {
		how, secret, want string
	}{
		{"off", "a\x00b", "a\x00b"},
		{"hex", "a\x00b\xff", "610062ff"},
		{"unhex", " 61\n00 62FF\t", "a\x00b\xff"},
		{"base64", "a\x00b\xff", "YQBi/w=="},
		{"unbase64", "YQ\nBi/w==\n", "a\x00b\xff"},
		{"base64", "", ""},
		{"unhex", "", ""},
	} {
		o := &options.Output{Transcode: test.how, JSON: options.JSONOff, Newline: "no"}
		got, err := present(o, []byte(test.secret), true)
		if err != nil || string(got) != test.want {
			t.Errorf("--transcode=%s of %q: %q, %v; want %q", test.how, test.secret, got, err, test.want)
		}
	}
	for how, secrets := range map[string][]string{
		"unhex":    {"6", "6g", "-1"},
		"unbase64": {"YQ", "YQ=", "YQ==YQ==", "YR==", "Y-__"},
	} {
		for _, secret := range secrets {
			o := &options.Output{Transcode: how, JSON: options.JSONOff}
			if got, err := present(o, []byte(secret), false); err == nil {
				t.Errorf("--transcode=%s of %q: %q, want an error", how, secret, got)
			}
		}
	}
}

// FuzzTranscode: what is encoded comes back when it is decoded.
func FuzzTranscode(f *testing.F) {
	f.Add([]byte("a\x00b\xff"))
	f.Add(bytes.Repeat([]byte("x"), 200))
	f.Fuzz(func(t *testing.T, secret []byte) {
		for _, pair := range [][2]string{{"hex", "unhex"}, {"base64", "unbase64"}} {
			to, from := pair[0], pair[1]
			there := &options.Output{Transcode: to, JSON: options.JSONOff, Newline: "yes"}
			encoded, err := present(there, secret, false)
			if err != nil {
				t.Fatal(err)
			}
			back := &options.Output{Transcode: from, JSON: options.JSONOff, Newline: "no"}
			if got, err := present(back, encoded, false); err != nil || !bytes.Equal(got, secret) {
				t.Errorf("%s, %s: %q, %v", to, from, got, err)
			}
			// What is no encoding is refused, not half decoded.
			if got, err := present(back, secret, false); err != nil && got != nil {
				t.Errorf("%s: %q with an error", from, got)
			}
		}
	})
}

// FuzzFormatJSON: the text means the same afterwards, and formatting it again
// changes nothing.
func FuzzFormatJSON(f *testing.F) {
	f.Add([]byte(` {"b":1, "a" : [1,2.50,1e3,-0,true,null,"x\u00e9\n\u001b/\/\ud83d\ude00", [], {}, 12345678901234567890] }`))
	f.Add([]byte(`"\ud83d"`))
	f.Add([]byte(`[1e400]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		short, err := formatJSON(text, false)
		pretty, err2 := formatJSON(text, true)
		if (err == nil) != (err2 == nil) {
			t.Fatalf("%v and %v", err, err2)
		}
		if err != nil {
			return
		}
		if !json.Valid(text) || !json.Valid(short) || !json.Valid(pretty) {
			t.Fatalf("%q became %q", text, short)
		}
		again, err := formatJSON(pretty, false)
		if err != nil || !bytes.Equal(again, short) {
			t.Fatalf("%q, %v: not %q", again, err, short)
		}
		var before, after any
		// Numbers without limits become null.
		if json.Unmarshal(text, &before) == nil && json.Unmarshal(short, &after) == nil && !reflect.DeepEqual(before, after) {
			t.Errorf("%q became %q", text, short)
		}
	})
}
