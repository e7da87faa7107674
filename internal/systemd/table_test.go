package systemd

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
)

func TestTable(t *testing.T) {
	seen := map[string]bool{}
	last := 0
	tried := regexp.MustCompile(`\b2[3-9][0-9]\b|source`)
	for _, f := range table {
		if f.From < last {
			t.Errorf("%d comes after %d: %s", f.From, last, f.What)
		}
		last = f.From
		if f.From < 239 || f.Until != onward && f.Until < f.From {
			t.Errorf("from %d until %d: %s", f.From, f.Until, f.What)
		}
		if f.What == "" || seen[f.What] {
			t.Errorf("without a sentence, or twice: %q", f.What)
		}
		seen[f.What] = true
		if !tried.MatchString(f.Tried) {
			t.Errorf("%s: tried on %q", f.What, f.Tried)
		}
	}
	for _, c := range []struct {
		fact    Fact
		version int
		want    bool
	}{
		{CredentialsFailHooks, 246, false}, {CredentialsFailHooks, 247, true}, {CredentialsFailHooks, 248, false},
		{EncryptedCredentials, 249, false}, {EncryptedCredentials, 250, true}, {EncryptedCredentials, 1000, true},
	} {
		if got := c.fact.In(c.version); got != c.want {
			t.Errorf("%d: %v: %s", c.version, got, c.fact.What)
		}
	}
}

// TestManual: the manual has the table, row by row.
func TestManual(t *testing.T) {
	text, err := os.ReadFile("../../man/bootseal-generator.8.scd")
	if err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	want.WriteString("[[ *systemd*\n:[ *what it does*\n")
	for _, f := range table {
		versions := fmt.Sprintf("%d to %d", f.From, f.Until)
		switch f.Until {
		case onward:
			versions = fmt.Sprintf("%d and newer", f.From)
		case f.From:
			versions = fmt.Sprint(f.From)
		}
		// scdoc(5) would take these for marks.
		what := strings.NewReplacer("_", `\_`, "*", `\*`).Replace(f.What)
		fmt.Fprintf(&want, "|  %s\n:  %s\n", versions, what)
	}
	_, section, _ := strings.Cut(string(text), "\n# WHAT EACH SYSTEMD DOES\n")
	section, _, _ = strings.Cut(section, "\n# ")
	if !strings.Contains(section, want.String()) {
		t.Errorf("bootseal-generator(8) does not have the table; expected\n%s", want.String())
	}
}
