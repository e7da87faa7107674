package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/bootseal/bootseal/internal/cli"
	"github.com/bootseal/bootseal/internal/failure"
	"github.com/spf13/pflag"
)

// TestManual holds the manual pages against the code: each option, verb, policy
// key and exit status stands in its page, and the pages have no others.
func TestManual(t *testing.T) {
	same(t, "options in bootseal(1)", documentedOptions(t, "bootseal.1"), optionsOf(false, "help", "version"))
	same(t, "options in bootseal-unseal(8)", documentedOptions(t, "bootseal-unseal.8"), optionsOf(true))
	same(t, "keys in bootseal.policy(5)", keysOf(t), policyKeys(t))

	documented := map[string]bool{}
	for page, pattern := range map[string]string{"bootseal.1": `(?m)^\*([a-z0-9-]+)\*(?: |$)`, "bootseal-unseal.8": `(?m)^\*([a-z]+)\*$`} {
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(manual(t, page), -1) {
			if !strings.HasPrefix(m[1], "-") && m[1] != "bootseal" {
				documented[m[1]] = true
			}
		}
	}
	defined := map[string]bool{}
	for _, v := range verbs() {
		defined[v.Name] = true
	}
	defined["help"] = true
	// Paragraphs may begin with a verb, too; they are verbs all the same.
	same(t, "verbs", documented, defined)

	documented = map[string]bool{}
	_, checks, _ := strings.Cut(manual(t, "bootseal.1"), "\n# CHECKS\n")
	checks, _, _ = strings.Cut(checks, "\n# ")
	for _, m := range regexp.MustCompile(`(?m)^\|  (.+)$`).FindAllStringSubmatch(checks, -1) {
		documented[m[1]] = true
	}
	same(t, "checks in bootseal(1)", documented, checkNames(t))

	table := manual(t, "bootseal.1")
	for _, k := range failure.Kinds() {
		if row := "|  " + strconv.Itoa(k.Status) + "\n:  " + k.Meaning + "\n"; !strings.Contains(table, row) {
			t.Errorf("bootseal(1) lacks the exit status\n%s", row)
		}
	}
	_, table, _ = strings.Cut(table, "\n# EXIT STATUS\n")
	if got, want := strings.Count(table, "\n|  "), len(failure.Kinds())+1; got != want { // and success
		t.Errorf("bootseal(1) has %d exit statuses, the code %d", got, want)
	}
}

// optionsOf are those of the verbs that unit files run, or of the others.
func optionsOf(inUnits bool, more ...string) map[string]bool {
	all := map[string]bool{}
	for _, name := range more {
		all[name] = true
	}
	// One letter is enough where there is a word, too.
	letters := map[string]string{"help": "h"}
	for _, v := range verbs() {
		v.Flags.VisitAll(func(flag *pflag.Flag) {
			if v.InUnits == inUnits && !flag.Hidden {
				all[flag.Name] = true
				if flag.Shorthand != "" {
					letters[flag.Name] = flag.Shorthand
				}
			}
		})
	}
	for name := range all {
		if letters[name] != "" {
			all[letters[name]] = true
		}
	}
	return all
}

// TestHelp: all verbs fit on one screen, and each has its own.
func TestHelp(t *testing.T) {
	var out strings.Builder
	if err := help(&out); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines) > 24 {
		t.Errorf("%d lines; want at most 24:\n%s", len(lines), out.String())
	}
	for _, line := range lines {
		if utf8.RuneCountInString(line) > 80 {
			t.Errorf("longer than 80 characters: %s", line)
		}
	}
	for _, v := range verbs() {
		out.Reset()
		if err := cli.WriteHelp(&out, "bootseal", v); err != nil {
			t.Fatal(err)
		}
		v.Flags.VisitAll(func(flag *pflag.Flag) {
			if !flag.Hidden && (flag.Usage == "" || !strings.Contains(out.String(), "-"+flag.Name)) {
				t.Errorf("the help of %s does not tell what -%s does:\n%s", v.Name, flag.Name, out.String())
			}
		})
	}
}

// TestCompletion holds the completions against the manual: all options of
// bootseal(1), and all verbs for a prompt.
func TestCompletion(t *testing.T) {
	options := documentedOptions(t, "bootseal.1")
	for file, patterns := range map[string]struct{ long, short, verb string }{
		"bootseal.bash": {`--([a-z0-9-]+)[=\s']`, `\s-([A-Z])`, `local verbs='|\s([a-z0-9-]+)`},
		"bootseal.fish": {`-l ([a-z0-9-]+)`, `-s ([A-Z])`, `-a ([a-z0-9-]+) -d`},
		"_bootseal":     {`--([a-z0-9-]+)[=\[}]`, `'-([A-Z])\[`, `'([a-z0-9-]+):`},
	} {
		text, err := os.ReadFile("../completion/" + file)
		if err != nil {
			t.Fatal(err)
		}
		listed := regexp.MustCompile(`(?s)local options='.*?'|\ncomplete .*|\n_arguments .*`).FindString(string(text))
		found := map[string]bool{}
		for _, pattern := range []string{patterns.long, patterns.short} {
			for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(listed, -1) {
				found[m[1]] = true
			}
		}
		// One letter is enough for those that have a word, too.
		for name := range options {
			if len(name) == 1 && name >= "a" {
				found[name] = true
			}
		}
		same(t, "options in "+file, found, options)
		words := map[string]bool{}
		for _, m := range regexp.MustCompile(patterns.verb).FindAllStringSubmatch(string(text), -1) {
			words[m[1]] = true
		}
		for _, v := range verbs() {
			if !v.InUnits && !words[v.Name] {
				t.Errorf("%s: the verb %s is not there", file, v.Name)
			}
		}
	}
}

func same(t *testing.T, what string, documented, defined map[string]bool) {
	t.Helper()
	if len(defined) == 0 {
		t.Errorf("%s: the code has none", what)
	}
	for _, name := range slices.Sorted(maps.Keys(defined)) {
		if !documented[name] {
			t.Errorf("%s: %s is not there", what, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(documented)) {
		if !defined[name] {
			t.Errorf("%s: %s is there, and not in the code", what, name)
		}
	}
}

func manual(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("../man/" + name + ".scd")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func documentedOptions(t *testing.T, page string) map[string]bool {
	all := map[string]bool{}
	for _, line := range strings.Split(manual(t, page), "\n") {
		if !strings.HasPrefix(line, "*-") {
			continue
		}
		for _, m := range regexp.MustCompile(`\*--?([A-Za-z0-9-]+)\*`).FindAllStringSubmatch(line, -1) {
			all[m[1]] = true
		}
	}
	return all
}

func calls(t *testing.T, files ...string) (all []*ast.CallExpr) {
	t.Helper()
	for _, file := range files {
		tree, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(tree, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				all = append(all, call)
			}
			return true
		})
	}
	return all
}

func literals(args []ast.Expr) (all []string) {
	for _, arg := range args {
		if lit, ok := arg.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			if s, err := strconv.Unquote(lit.Value); err == nil {
				all = append(all, s)
			}
		}
	}
	return all
}

// checkNames are the first arguments of add in the files of check.
func checkNames(t *testing.T) map[string]bool {
	all := map[string]bool{}
	for _, call := range calls(t, "../internal/check/machine.go", "../internal/check/unit.go") {
		if f, ok := call.Fun.(*ast.Ident); ok && f.Name == "add" {
			all[literals(call.Args[:1])[0]] = true
		}
	}
	return all
}

// policyKeys are the arguments of table.only.
func policyKeys(t *testing.T) map[string]bool {
	all := map[string]bool{}
	for _, call := range calls(t, "../policy/parse.go") {
		if selector, ok := call.Fun.(*ast.SelectorExpr); ok && selector.Sel.Name == "only" {
			for _, key := range literals(call.Args) {
				all[key] = true
			}
		}
	}
	return all
}

func keysOf(t *testing.T) map[string]bool {
	all := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\*([a-z-]+)\*$`).FindAllStringSubmatch(manual(t, "bootseal.policy.5"), -1) {
		all[m[1]] = true
	}
	return all
}
