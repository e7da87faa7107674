package machine

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// What test/run passes to the tests is read here only: "fast", "all", or nothing for
// what it runs without an option.
var mode = os.Getenv("BOOTSEAL_TEST_MODE")

// Fast tells whether the tests are to be run in minutes, with a sample of everything:
// test/run --fast.
func Fast() bool { return mode == "fast" }

// All tells whether nothing is to be left out, however long it takes: test/run --all.
func All() bool { return mode == "all" }

// NotFast skips a test that test/run --fast leaves out.
func NotFast(t testing.TB) {
	t.Helper()
	if Fast() {
		t.Skip("not with --fast")
	}
}

// OnlyAll skips a test that only test/run --all runs, since others stand for it.
func OnlyAll(t testing.TB) {
	t.Helper()
	if !All() {
		t.Skip("test/run --all")
	}
}

// Sample returns few of all cases, or all of them with test/run --all. The end of
// test/run says which are left out.
func Sample[T comparable](t testing.TB, all []T, few ...T) []T {
	t.Helper()
	if All() {
		return all
	}
	var out []string
	for _, one := range all {
		if !slices.Contains(few, one) {
			out = append(out, fmt.Sprint(one))
		}
	}
	if out != nil {
		t.Logf("skipped: %s: test/run --all", strings.Join(out, ", "))
	}
	return few
}

// Containers returns the versions of systemd that a test makes containers of: those
// given, [Versions] with test/run --all or where none are given, and with --fast 247
// and 257 at most, the oldest and that of today's Debian.
func Containers(t testing.TB, few ...int) []int {
	t.Helper()
	if len(few) == 0 {
		few = Versions
	}
	if Fast() {
		few = slices.DeleteFunc(slices.Clone(few), func(version int) bool { return version != 247 && version != 257 })
	}
	return Sample(t, Versions, few...)
}
