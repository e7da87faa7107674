package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestArguments(t *testing.T) {
	for args, want := range map[string]commandLine{
		"a":              {root: "/", normal: "a"},
		"a b c":          {root: "/", normal: "a"},
		"--root=/x a":    {root: "/x", normal: "a"},
		"a --root /x":    {root: "/x", normal: "a"},
		"-- --a":         {root: "/", normal: "--a"},
		"--version":      {root: "/", version: true},
		"--help":         {root: "/", help: true},
		"--root=/x -h a": {root: "/x", help: true},
	} {
		if got, err := parse(strings.Fields(args)); got != want || err != nil {
			t.Errorf("%s: %+v, %v; want %+v", args, got, err, want)
		}
	}
	for _, args := range []string{"", "a b", "--root", "--root=", "-x a", "--roots=/ a", "a b c d"} {
		if got, err := parse(strings.Fields(args)); err == nil {
			t.Errorf("%q: %+v", args, got)
		}
	}
}

// TestManual: usage and manual page have the same options, and parse takes them.
func TestManual(t *testing.T) {
	page, err := os.ReadFile("../man/bootseal-generator.8.scd")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "\n# OPTIONS\n")
	section, _, _ = strings.Cut(section, "\n# ")
	names := func(pattern, text string) (all []string) {
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
			all = append(all, m[1])
		}
		return all
	}
	documented, offered := names(`(?m)^\*(--[a-z-]+)\*`, section), names(`(?m)^ +(--[a-z-]+)`, usage)
	if !slices.Equal(documented, offered) || len(offered) == 0 {
		t.Errorf("the manual has %q, the usage %q", documented, offered)
	}
	for _, name := range offered {
		if _, err := parse([]string{name + "=/", "folder"}); err != nil {
			if _, err := parse([]string{name, "folder"}); err != nil {
				t.Errorf("%s is not taken: %v", name, err)
			}
		}
	}
}
