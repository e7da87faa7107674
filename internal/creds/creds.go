// Package creds has the verbs of systemd-creds(1): they read and write the same files,
// take the same options, and do the same. Under our own name each takes only the
// options that mean something to it, and sealing for the unit of a policy comes on top.
package creds

import (
	"github.com/bootseal/bootseal/internal/cli"
	"github.com/bootseal/bootseal/internal/options"
)

// Verbs makes the verbs for a dialect, in the order of systemd-creds(1).
func Verbs(d options.Dialect) []*cli.Verb {
	return []*cli.Verb{encrypt(d), decrypt(d), list(d), cat(d), setup(d), hasTPM2(d)}
}
