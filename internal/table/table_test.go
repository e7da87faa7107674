package table

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
)

func example(vertical bool) *Table {
	t := &Table{Columns: []string{"UNIT", "POLICY DIGEST"}, Vertical: vertical}
	t.Add(Text("größe.service"), Cell{Value: []int{7, 14}, Text: "7+14", Color: Red})
	t.Add(Text("a.service"), Cell{})
	return t
}

func printed(t *testing.T, table *Table, f Format) string {
	t.Helper()
	var out strings.Builder
	if err := table.Print(&out, f); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestPrint(t *testing.T) {
	for name, test := range map[string]struct {
		vertical bool
		format   Format
		want     string
	}{
		"columns":  {false, Format{JSON: "off"}, "UNIT          POLICY DIGEST\ngröße.service 7+14\na.service     -\n"},
		"bare":     {false, Format{JSON: "off", NoLegend: true}, "größe.service 7+14\na.service     -\n"},
		"coloured": {false, Format{JSON: "off", NoLegend: true, Color: true}, "größe.service \x1b[0;1;31m7+14\x1b[0m\na.service     -\n"},
		"blocks":   {true, Format{JSON: "off"}, "         UNIT: größe.service\nPOLICY DIGEST: 7+14\n\n         UNIT: a.service\n"},
		"short":    {true, Format{JSON: "short"}, `[{"unit":"größe.service","policy_digest":[7,14]},{"unit":"a.service","policy_digest":null}]` + "\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := printed(t, example(test.vertical), test.format); got != test.want {
				t.Errorf("got\n%q, want\n%q", got, test.want)
			}
		})
	}
	var rows []map[string]any
	pretty := printed(t, example(false), Format{JSON: "pretty"})
	if err := json.Unmarshal([]byte(pretty), &rows); err != nil || len(rows) != 2 || strings.Count(pretty, "\n") < 8 {
		t.Errorf("%v, %d rows:\n%s", err, len(rows), pretty)
	}
	if got := printed(t, &Table{Columns: []string{"UNIT"}}, Format{JSON: "short"}); got != "[]\n" {
		t.Errorf("no rows: %q", got)
	}
}

// What a hostile file holds must not reach the terminal.
func TestControlCharacters(t *testing.T) {
	table := &Table{Columns: []string{"FILE"}}
	table.Add(Text("a\x1b[2Jb\nc\u202ed"))
	if got := printed(t, table, Format{NoLegend: true}); got != "a?[2Jb?c?d\n" {
		t.Errorf("%q", got)
	}
}

func TestColored(t *testing.T) {
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if Colored(file) {
		t.Error("colours in a file")
	}
}
