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

// Dist makes the tarball of the source as it lies here, with "meson dist".
func Dist() (tarball string, err error) {
	folder, err := built("dist", func(folder string) error {
		dir, err := source()
		if err != nil {
			return err
		}
		// "meson dist" takes what is committed.
		const script = `set -e
mkdir "$2/source"
cd "$1"
` + listSource + ` | tar --null -T - -c | tar -x -C "$2/source"
cd "$2/source"
git init -q
git add -A
git -c user.name=test -c user.email=test@example.com -c commit.gpgSign=false commit -q -m test
meson setup --prefix=/usr "$2/build"
meson dist --no-tests -C "$2/build"
mv "$2"/build/meson-dist/*.tar.xz "$2"
rm -r "$2/source" "$2/build"
`
		if out, err := exec.Command("bash", "-c", script, "bash", dir, folder).CombinedOutput(); err != nil {
			return fmt.Errorf("meson dist: %w:\n%s", err, out)
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	return only(filepath.Join(folder, "*.tar.xz"))
}

// Deb returns the Debian package for the suite with that version of systemd, and
// lintian's report, as BuildDeb has made them of [Dist] for all tests.
func Deb(version int) (deb, report string, err error) {
	folder, err := builtPackage("deb", version, func(tarball, folder string) error {
		_, _, err := BuildDeb(version, tarball, folder)
		return err
	})
	if err != nil {
		return "", "", err
	}
	deb, err = only(filepath.Join(folder, "*.deb"))
	return deb, read(folder, "lintian"), err
}

// builtPackage is built for a package made in the tree of that version.
func builtPackage(kind string, version int, build func(tarball, folder string) error) (string, error) {
	tree := "build-" + strconv.Itoa(version)
	if treeName(tree) == "" {
		return "", fmt.Errorf("building a package for systemd %d: %w", version, ErrNotSetUp)
	}
	tarball, err := Dist()
	if err != nil {
		return "", err
	}
	return built(kind+"-"+treeName(tree), func(folder string) error { return build(tarball, folder) })
}

// BuildDeb builds the Debian package of the suite with that version of systemd
// from a tarball, with the suite's own tools, this machine's Go and no network,
// and runs lintian. The package is left in folder. It returns [ErrNotSetUp] where
// test/setup has not made the tree to build in.
func BuildDeb(version int, tarball, folder string) (deb, report string, err error) {
	err = build(version, tarball, folder, `tar -xOf "$1" --wildcards '*/packaging/debian-build' >/tmp/build
bash /tmp/build "$1" /tmp/deb "$2"
cd /tmp/deb
lintian --allow-root --fail-on error,warning *.changes >/srv/lintian
mv *.deb /srv`, suites[version])
	report = read(folder, "lintian")
	if err != nil {
		return "", report, fmt.Errorf("%w\n%s", err, report)
	}
	deb, err = only(filepath.Join(folder, "*.deb"))
	return deb, report, err
}

// RPM returns RPM packages like Deb, two releases of which the second is the newer
// one, built with Debian's rpmbuild and Fedora's macros.
func RPM(version int) (packages [2]string, err error) {
	folder, err := builtPackage("rpm", version, func(tarball, folder string) error {
		return build(version, tarball, folder, `tar -xOf "$1" --wildcards '*/packaging/rpm/bootseal.spec' >/tmp/bootseal.spec
cat >/root/.rpmmacros <<'END'
%_topdir /tmp/rpmbuild
%_docdir_fmt %{NAME}
%_sourcedir /mnt
%_rpmdir /srv
%_rpmfilename %{NAME}-%{RELEASE}.rpm
%_unitdir %{_prefix}/lib/systemd/system
%_systemdgeneratordir %{_prefix}/lib/systemd/system-generators
%_tmpfilesdir %{_prefix}/lib/tmpfiles.d
%tmpfiles_create() systemd-tmpfiles --create %{?*} >/dev/null 2>&1 || :
END
for release in .old .old.new; do rpmbuild -bb --nodeps --define="dist $release" /tmp/bootseal.spec; done`)
	})
	if err != nil {
		return packages, err
	}
	return [2]string{filepath.Join(folder, "bootseal-1.old.rpm"), filepath.Join(folder, "bootseal-1.old.new.rpm")}, nil
}

// Arch returns Arch Linux packages like RPM, built with Debian's makepkg.
func Arch(version int) (packages [2]string, err error) {
	folder, err := builtPackage("arch", version, func(tarball, folder string) error {
		// makepkg refuses to be run by root, to whom all here belongs.
		return build(version, tarball, folder, `mkdir /tmp/arch
cp "$1" /tmp/arch
cd /tmp/arch
tar -xf "$1" --wildcards --strip-components=3 '*/packaging/arch/*'
package() {
	sed -i "s/^pkgrel=.*/pkgrel=$1/" PKGBUILD
	PKGDEST=/srv PKGEXT=.pkg.tar unshare --map-user=1 --map-group=1 makepkg --nodeps "$2"
}
package 1 --cleanbuild
package 2 --repackage # of what was built`)
	})
	if err != nil {
		return packages, err
	}
	for i := range packages {
		if packages[i], err = only(filepath.Join(folder, fmt.Sprintf("bootseal-*-%d-*.pkg.tar", i+1))); err != nil {
			return packages, err
		}
	}
	return packages, nil
}

// build runs a script in a tree to build packages in. Its first argument is the
// tarball, args are the others, and what it leaves in /srv gets to folder.
func build(version int, tarball, folder, script string, args ...string) error {
	m, err := open(version, "build-"+strconv.Itoa(version))
	if err != nil {
		return err
	}
	defer m.Close()
	env, err := exec.Command("go", "env", "GOROOT", "GOCACHE").Output()
	if err != nil {
		return err
	}
	goroot, gocache, _ := strings.Cut(strings.TrimSpace(string(env)), "\n")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	command := []string{"--machine=" + m.name(), "--bind-ro=" + goroot + ":/usr/local/go", "--bind=" + gocache + ":/var/cache/go-build", "--setenv=GOCACHE=/var/cache/go-build",
		"--bind-ro=" + filepath.Dir(tarball) + ":/mnt", "--bind=" + folder + ":/srv", "--setenv=LC_ALL=C.UTF-8",
		"sh", "-ec", script, "sh", "/mnt/" + filepath.Base(tarball)}
	if err := m.nspawn(buildLimit, append(command, args...)...); err != nil {
		return fmt.Errorf("building a package for systemd %d: %w:\n%s", version, err, read(m.dir, "console"))
	}
	return nil
}
