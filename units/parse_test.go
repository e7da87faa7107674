package units

import (
	"fmt"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"blanks":                     {"[Service]\n  ExecStart = /bin/a  b \t\n", "Service.ExecStart=/bin/a  b:2"},
		"continuation":               {"[S]\nA=1 \\\n  2\\\n3\nB=4\n", "S.A=1    2 3:2 S.B=4:5"},
		"comment inside":             {"[S]\nA=1 \\\n# no \\\n; no\n 2\n", "S.A=1   2:2"},
		"comment ends in backslash":  {"[S]\n# no \\\nA=1\n", "S.A=1:3"},
		"escaped backslash":          {"[S]\nA=1\\\\\nB=2\n", `S.A=1\\:2 S.B=2:3`},
		"three backslashes":          {"[S]\nA=1\\\\\\\nB=2\n", `S.A=1\\ B=2:2`},
		"continuation at the end":    {"[S]\nA=1\\", "S.A=1:2"},
		"empty":                      {"[S]\nA=\n", "S.A=:2"},
		"value with equals":          {"[S]\nA=b=c\n", "S.A=b=c:2"},
		"no equals, no key":          {"[S]\nnothing\n=1\nA=1\n", "S.A=1:4"},
		"outside of a section":       {"A=1\n[S]\nB=2\n", "S.B=2:3"},
		"carriage returns":           {"[S]\r\nA=1 \\\r\n 2\r\nB=3\rC=4\n", "S.A=1   2:2 S.B=3:4 S.C=4:5"},
		"blanks of continued lines":  {"[S]\nA='1\\\n\t2'\n", "S.A='1 \t2':2"},
		"late byte order mark":       {"# x\n\xef\xbb\xbf[S]\nA=1\n", "S.A=1:3"},
		"byte order mark":            {"\xef\xbb\xbf[S]\nA=1\n", "S.A=1:2"},
		"no newline at the end":      {"[S]\nA=1", "S.A=1:2"},
		"section with blanks around": {"  [S]  \nA=1", "S.A=1:2"},
	} {
		settings, ok := Parse([]byte(c.text), "f")
		var got []string
		for _, s := range settings {
			got = append(got, fmt.Sprintf("%s.%s=%s:%d", s.Section, s.Name, s.Value, s.Line))
		}
		if g := strings.Join(got, " "); g != c.want || !ok {
			t.Errorf("%s: %q, %v; want %q", name, g, ok, c.want)
		}
	}
}

func TestParseGivesUp(t *testing.T) {
	for name, text := range map[string]string{
		"UTF-8":   "[S]\nA=1\nB=\xff\nC=1\n",
		"section": "[S]\nA=1\n[S\nB=2\n",
		"line":    "[S]\nA=1\nC=" + strings.Repeat("x", maxLine) + "\nB=2\n",
	} {
		settings, ok := Parse([]byte(text), "f")
		if ok || len(settings) != 1 || settings[0].Name != "A" {
			t.Errorf("%s: %v with %d settings; want a failure after A", name, ok, len(settings))
		}
	}
}

// What is read is what a text of the same settings in plain form reads as.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"[S]\nA=1\\\n2\n", "\xef\xbb\xbf[S]\r\n#x\\\nA=\x00B=2", "[S]\nA=\\\\\\\n", "[S\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		settings, _ := Parse(text, "f")
		for _, s := range settings {
			again, ok := Parse([]byte("["+s.Section+"]\n"+s.Name+"="+s.Value+"\n"), "f")
			if !strings.HasSuffix(s.Value, `\`) && (!ok || len(again) != 1 || again[0].Value != s.Value || again[0].Name != s.Name) && !strings.ContainsAny(s.Name[:1]+s.Section, "#;[\n\r\x00") {
				t.Errorf("%+v is read again as %+v", s, again)
			}
		}
	})
}

func BenchmarkParse(b *testing.B) {
	text := []byte(strings.Repeat("[Service]\n# a comment\nExecStart=/usr/bin/step-ca config/ca.json --password-file password.txt\nPrivateTmp=true\n", 20))
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		Parse(text, "f")
	}
}
