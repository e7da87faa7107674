// Package table prints rows as systemctl(1) does: columns under a heading, one
// block for each row, or JSON.
package table

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"
)

// A Format is how tables are printed: the options --json= and --no-legend.
type Format struct {
	JSON     string // "off", "short" (one line) or "pretty"
	NoLegend bool   // without heading
	Color    bool
}

// Formats are the words that --json= may be.
var Formats = []string{"off", "short", "pretty"}

// Colored tells whether what is written to f may be in colours: f is a terminal
// that has them, and $NO_COLOR (no-color.org) is not set.
func Colored(f *os.File) bool {
	return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd()))
}

// A Color of a cell.
type Color string

const (
	Plain  Color = ""
	Green  Color = "\x1b[0;32m"
	Yellow Color = "\x1b[0;33m"
	Red    Color = "\x1b[0;1;31m"
	heads  Color = "\x1b[0;4m"
	reset        = "\x1b[0m"
)

// A Cell has a value for JSON, and a text for everything else, by default the
// value's. A nil value is null, and "-".
type Cell struct {
	Value any
	Text  string
	Color Color
}

// Text is a cell of just that.
func Text(s string) Cell {
	if s == "" {
		return Cell{}
	}
	return Cell{Value: s}
}

func (c Cell) String() string {
	text := c.Text
	switch {
	case text != "":
	case c.Value == nil:
		text = "-"
	default:
		text = fmt.Sprint(c.Value)
	}
	// What comes out of a file may hold what a terminal would obey.
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
}

// A Table has as many cells in each row as it has columns.
type Table struct {
	Columns  []string // headings; in lower case, and with "_" for blanks, the keys of JSON
	Vertical bool     // each row is a block of "Heading: cell" lines
	Rows     [][]Cell
}

// Add adds a row.
func (t *Table) Add(cells ...Cell) { t.Rows = append(t.Rows, cells) }

// Print writes the table.
func (t *Table) Print(w io.Writer, f Format) error {
	var text []byte
	var err error
	switch {
	case f.JSON == "short" || f.JSON == "pretty":
		text, err = t.json(f.JSON == "pretty")
	case t.Vertical:
		text = t.blocks(f)
	default:
		text = t.columns(f)
	}
	if err == nil {
		_, err = w.Write(text)
	}
	return err
}

func (t *Table) columns(f Format) []byte {
	width := make([]int, len(t.Columns))
	measure := func(i int, text string) { width[i] = max(width[i], utf8.RuneCountInString(text)) }
	for i, head := range t.Columns {
		if !f.NoLegend {
			measure(i, head)
		}
		for _, row := range t.Rows {
			measure(i, row[i].String())
		}
	}
	var out bytes.Buffer
	line := func(cell func(i int) (string, Color)) {
		for i := range t.Columns {
			text, color := cell(i)
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(text))
			if i == len(t.Columns)-1 {
				pad = "\n"
			} else {
				pad += " "
			}
			if f.Color && color != Plain {
				text = string(color) + text + reset
			}
			out.WriteString(text + pad)
		}
	}
	if !f.NoLegend && len(t.Rows) > 0 {
		line(func(i int) (string, Color) { return t.Columns[i], heads })
	}
	for _, row := range t.Rows {
		line(func(i int) (string, Color) { return row[i].String(), row[i].Color })
	}
	return out.Bytes()
}

func (t *Table) blocks(f Format) []byte {
	width := 0
	for _, head := range t.Columns {
		width = max(width, len(head))
	}
	var out bytes.Buffer
	for i, row := range t.Rows {
		if i > 0 {
			out.WriteByte('\n')
		}
		for j, c := range row {
			if c.Value == nil {
				continue
			}
			text := c.String()
			if f.Color && c.Color != Plain {
				text = string(c.Color) + text + reset
			}
			fmt.Fprintf(&out, "%*s: %s\n", width, t.Columns[j], text)
		}
	}
	return out.Bytes()
}

// json writes an array with an object for each row, whose keys are in the order
// of the columns.
func (t *Table) json(pretty bool) ([]byte, error) {
	var out bytes.Buffer
	out.WriteByte('[')
	for i, row := range t.Rows {
		if i > 0 {
			out.WriteByte(',')
		}
		out.WriteByte('{')
		for j, c := range row {
			if j > 0 {
				out.WriteByte(',')
			}
			fmt.Fprintf(&out, "%q:", strings.ReplaceAll(strings.ToLower(t.Columns[j]), " ", "_"))
			value, err := json.Marshal(c.Value)
			if err != nil {
				return nil, err
			}
			out.Write(value)
		}
		out.WriteByte('}')
	}
	out.WriteByte(']')
	if pretty {
		var indented bytes.Buffer
		if err := json.Indent(&indented, out.Bytes(), "", "\t"); err != nil {
			return nil, err
		}
		out = indented
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}
