// Package operate has the verbs that change what units run with: adopt, apply, reseal
// and rotate, and preview, which shows what the generator would do. What they change is
// changed whole or not at all, and put back where a unit does not stay up with it.
package operate

import (
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/bootseal/bootseal/internal/cli"
	"github.com/bootseal/bootseal/internal/report"
	"github.com/bootseal/bootseal/internal/root"
	"github.com/bootseal/bootseal/policy"
)

// Verbs are those of this package.
func Verbs() []*cli.Verb {
	return []*cli.Verb{adoptVerb(), previewVerb(), applyVerb(), rotateVerb(), resealVerb()}
}

// covering is [policy.Covering] on this machine.
func covering(units []string) ([]policy.File, error) { return coveringIn("/", units) }

func coveringIn(dir root.Dir, units []string) ([]policy.File, error) {
	for _, name := range units {
		if err := policy.CheckUnit(policy.UnitName(name)); err != nil {
			return nil, report.Usage(err)
		}
	}
	files, beside, err := policy.Covering(dir, units)
	for _, err := range beside {
		report.Error(err)
	}
	return files, err
}

// uninterrupted keeps this process from ending half-way, also where nobody reads
// any more what it prints.
func uninterrupted() { signal.Ignore(unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGPIPE) }
