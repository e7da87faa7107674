package machine

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// buildLimit bounds one build of a package, which takes about twenty seconds on an
// idle machine.
const buildLimit = 10 * time.Minute

// suites are the names by which a package's version tells what it is built for.
var suites = map[int]string{247: "~deb11u1", 252: "~deb12u1", 257: "~deb13u1", 262: "~deb14u1"}

// Dist makes the tarball of the source as it lies here, with "meson dist", below
// dir.
func Dist(dir string) (tarball string, err error) {
	source, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("finding the source folder: %w", err)
	}
	// "meson dist" takes what is committed.
	const script = `set -e
mkdir "$2/source"
cd "$1"
git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' file; do
	[ ! -e "$file" ] && [ ! -L "$file" ] || printf '%s\0' "$file"
done | tar --null -T - -c | tar -x -C "$2/source"
cd "$2/source"
git init -q
git add -A
git -c user.name=test -c user.email=test@example.com -c commit.gpgSign=false commit -q -m test
meson setup --prefix=/usr "$2/build"
meson dist --no-tests -C "$2/build"
`
	cmd := exec.Command("bash", "-c", script, "bash", strings.TrimSpace(string(source)), dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("meson dist: %w:\n%s", err, out)
	}
	return only(filepath.Join(dir, "build/meson-dist/*.tar.xz"))
}

// BuildDeb builds the Debian package of the suite with that version of systemd
// from a tarball, with the suite's own tools, this machine's Go and no network,
// and runs lintian. The files are left in folder. It returns [ErrNotSetUp] where
// test/setup has not made the tree to build in.
func BuildDeb(version int, tarball, folder string) (deb, report string, err error) {
	m, err := open(version, "build-"+strconv.Itoa(version))
	if err != nil {
		return "", "", err
	}
	defer m.Close()
	env, err := exec.Command("go", "env", "GOROOT", "GOCACHE").Output()
	if err != nil {
		return "", "", err
	}
	goroot, gocache, _ := strings.Cut(strings.TrimSpace(string(env)), "\n")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", "", err
	}
	err = m.nspawn(buildLimit, "--machine="+m.name(), "--bind-ro="+goroot+":/usr/local/go", "--bind="+gocache+":/var/cache/go-build", "--setenv=GOCACHE=/var/cache/go-build",
		"--bind-ro="+filepath.Dir(tarball)+":/mnt", "--bind="+folder+":/srv", "--setenv=LC_ALL=C.UTF-8",
		"sh", "-ec", `tar -xOf "$1" --wildcards '*/packaging/debian-build' >/tmp/build
bash /tmp/build "$1" /srv "$2"
cd /srv
lintian --allow-root --fail-on error,warning *.changes >lintian`, "sh", "/mnt/"+filepath.Base(tarball), suites[version])
	report = read(folder, "lintian")
	if err != nil {
		return "", report, fmt.Errorf("building the Debian package for systemd %d: %w:\n%s%s", version, err, read(m.dir, "console"), report)
	}
	deb, err = only(filepath.Join(folder, "*.deb"))
	return deb, report, err
}
