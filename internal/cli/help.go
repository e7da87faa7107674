package cli

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/spf13/pflag"
)

const (
	columns    = 80 // of a terminal
	textColumn = 30 // where explanations begin
)

// WriteHelp shows one verb: its forms, what it does, its options.
func WriteHelp(w io.Writer, program string, v *Verb) error {
	var out strings.Builder
	for _, form := range v.Forms {
		fmt.Fprintln(&out, strings.TrimSpace(strings.Join([]string{program, "[OPTIONS...]", v.Name, form.Arguments}, " ")))
		fmt.Fprintln(&out, "    "+form.Summary)
	}
	if v.Details != "" {
		fmt.Fprint(&out, "\n", Paragraph(v.Details))
	}
	fmt.Fprint(&out, "\nOptions:\n", Entry("  -h, --help", "Show this help"), Options(v.Flags))
	_, err := io.WriteString(w, out.String())
	return err
}

// Options lists what is not hidden of a set.
func Options(f *pflag.FlagSet) string {
	var out strings.Builder
	f.VisitAll(func(flag *pflag.Flag) {
		if !flag.Hidden {
			name, text := describe(flag)
			out.WriteString(Entry(name, text))
		}
	})
	return out.String()
}

// describe writes an option as its user does. What is in backquotes in its text
// names its argument.
func describe(flag *pflag.Flag) (name, text string) {
	argument, text := pflag.UnquoteUsage(flag)
	name = "      --" + flag.Name
	switch {
	case flag.Shorthand == flag.Name: // there is no long form
		name = "  -" + flag.Name
	case flag.Shorthand != "":
		name = "  -" + flag.Shorthand + ", --" + flag.Name
	}
	if flag.NoOptDefVal == "" {
		name += "=" + argument
	}
	return name, text
}

// Entry is a name with its explanation beside it, or below it if it is long.
func Entry(name, text string) string {
	var out strings.Builder
	for i, line := range wrap(text, columns-textColumn) {
		switch {
		case i > 0:
			name = ""
		case len(name) >= textColumn:
			fmt.Fprintln(&out, name)
			name = ""
		}
		fmt.Fprintf(&out, "%-*s%s\n", textColumn, name, line)
	}
	return out.String()
}

// Paragraph breaks words into lines that fit a terminal.
func Paragraph(text string) string { return strings.Join(wrap(text, columns), "\n") + "\n" }

// unbroken is a blank at which no line ends.
const unbroken = "\u00a0"

// Unbroken keeps a text on one line.
func Unbroken(text string) string { return strings.ReplaceAll(text, " ", unbroken) }

// wrap breaks a text at its single blanks.
func wrap(text string, width int) (lines []string) {
	line := ""
	for _, word := range strings.Split(text, " ") {
		if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
			lines = append(lines, line)
			line = word
			continue
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	lines = append(lines, line)
	for i := range lines {
		lines[i] = strings.ReplaceAll(lines[i], unbroken, " ")
	}
	return lines
}

// Line is a verb with what it does, on one line of a terminal.
func Line(verb, summary string) string { return fmt.Sprintf("  %-33s%s\n", verb, summary) }
