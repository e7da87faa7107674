package delivery

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/bootseal/bootseal/internal/contract"
	"github.com/bootseal/bootseal/internal/systemd"
	"github.com/bootseal/bootseal/policy"
	"github.com/bootseal/bootseal/units"
)

// shown refuses a unit whose own settings hide the place of its credentials from it, as
// the unit would start without them, or could not start for a reason that is hard to
// find. What is mounted there hides nothing, as systemd puts the credentials on top; of two
// things bound to one place it takes the first.
func (pl *Planner) shown(o *order, delivery policy.Delivery) error {
	store, systemds := path.Join(contract.Store, o.whole.Name), natively(o.whole.Name)
	folders, bound := []string{systemds}, "" // what the drop-in itself binds there
	switch {
	case delivery == policy.Prestart && systemd.BindsBelowRunCredentials.In(o.version):
		bound = systemds
	case delivery == policy.Prestart:
		folders, bound = []string{store}, store
	case o.readsLate():
		folders, bound = []string{systemds, store}, store
	}
	for _, s := range o.whole.List("Service", "InaccessiblePaths", "InaccessibleDirectories") {
		for _, word := range units.Words(s.Value) {
			place := strings.TrimPrefix(word, "-")
			if inRoot, ok := strings.CutPrefix(place, "+"); ok {
				place = inRoot
			} else if o.rooted() {
				continue // a path of the host, which the unit does not see anyway
			}
			if file := o.covered(pl.resolve(o.whole.Expand(place)), folders); file != "" {
				return fmt.Errorf("%s:%d: %s=%s hides %s, where the unit's credentials are; remove it there, or name the folders that are meant", s.File, s.Line, s.Name, word, file)
			}
		}
	}
	for _, s := range o.whole.List("Service", "TemporaryFileSystem", "BindPaths", "BindReadOnlyPaths") {
		for _, word := range units.Words(s.Value) {
			field := strings.Split(strings.TrimPrefix(word, "-"), ":")
			place := field[0]
			if s.Name != "TemporaryFileSystem" && len(field) > 1 {
				place = field[1]
			}
			place = path.Clean(o.whole.Expand(place))
			real := pl.resolve(place)
			if real == bound && s.Name != "TemporaryFileSystem" {
				return fmt.Errorf("%s:%d: %s=%s takes the place of %s, where the unit's credentials are; expected another one", s.File, s.Line, s.Name, word, bound)
			}
			if file := o.covered(real, folders); file != "" && real != place {
				return fmt.Errorf("%s:%d: %s=%s hides %s, where the unit's credentials are, by way of a link; expected %s", s.File, s.Line, s.Name, word, file, real)
			}
		}
	}
	return nil
}

// covered returns the folder, or the credential in it, that is not seen when place is
// hidden; "" if all are.
func (o *order) covered(place string, folders []string) string {
	for _, folder := range folders {
		if place == "/" || folder == place || strings.HasPrefix(folder, place+"/") {
			return folder
		}
		if slices.ContainsFunc(o.policy.Credentials, func(c policy.Credential) bool { return place == path.Join(folder, c.Name) }) {
			return place
		}
	}
	return ""
}

// maxLinks is how many links are followed at most, path_resolution(7).
const maxLinks = 40

// resolve follows the links in an absolute path, as far as there are files.
func (pl *Planner) resolve(name string) string {
	links := 0
	parts, done := strings.Split(path.Clean(name), "/"), "/"
	for len(parts) > 0 {
		part := parts[0]
		parts = parts[1:]
		if part == "" || part == "." {
			continue
		}
		if part == ".." {
			done = path.Dir(done)
			continue
		}
		target := ""
		if links < maxLinks && !pl.automount(path.Join(done, part)) {
			target, _ = pl.dir.Readlink(done, part)
		}
		if target == "" {
			done = path.Join(done, part)
			continue
		}
		links++
		if path.IsAbs(target) {
			done = "/"
		}
		parts = append(strings.Split(target, "/"), parts...)
	}
	return done
}
