package main

import (
	"debug/elf"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/bootseal/bootseal/internal/root"
	"github.com/bootseal/bootseal/internal/systemd"
	"github.com/bootseal/bootseal/internal/systemd/systemdtest"
)

// versions have a name for how each was built, as "systemctl --version" of a
// distribution says: of Debian's the files are at hand here, of the others it was found
// in logs and manuals that are public. None is from the table of package systemd.
var versions = map[int]string{
	// 239-51.el8
	239: "+PAM +AUDIT +SELINUX +IMA -APPARMOR +SMACK +SYSVINIT +UTMP +LIBCRYPTSETUP +GCRYPT +GNUTLS +ACL +XZ +LZ4 +SECCOMP +BLKID +ELFUTILS +KMOD +IDN2 -IDN +PCRE2 default-hierarchy=legacy",
	// 245.4-4ubuntu3
	245: "+PAM +AUDIT +SELINUX +IMA +APPARMOR +SMACK +SYSVINIT +UTMP +LIBCRYPTSETUP +GCRYPT +GNUTLS +ACL +XZ +LZ4 +SECCOMP +BLKID +ELFUTILS +KMOD +IDN2 -IDN +PCRE2 default-hierarchy=hybrid",
	// Debian 11
	247: "+PAM +AUDIT +SELINUX +IMA +APPARMOR +SMACK +SYSVINIT +UTMP +LIBCRYPTSETUP +GCRYPT +GNUTLS +ACL +XZ +LZ4 +ZSTD +SECCOMP +BLKID +ELFUTILS +KMOD +IDN2 -IDN +PCRE2 default-hierarchy=unified",
	// 249.11-0ubuntu3
	249: "+PAM +AUDIT +SELINUX +APPARMOR +IMA +SMACK +SECCOMP +GCRYPT +GNUTLS +OPENSSL +ACL +BLKID +CURL +ELFUTILS +FIDO2 +IDN2 -IDN +IPTC +KMOD +LIBCRYPTSETUP +LIBFDISK +PCRE2 -PWQUALITY -P11KIT -QRENCODE +BZIP2 +LZ4 +XZ +ZLIB +ZSTD -XKBCOMMON +UTMP +SYSVINIT default-hierarchy=unified",
	// 250.4+suse.54, without its "+TPM2": SUSE brought that back, others have no such word
	// there, though they can use a TPM as well, 250.4-1 of Debian and 250.5-1-arch for
	// instance.
	250: "+PAM +AUDIT +SELINUX +APPARMOR -IMA -SMACK +SECCOMP +GCRYPT +GNUTLS +OPENSSL +ACL +BLKID +CURL +ELFUTILS +FIDO2 +IDN2 -IDN +IPTC +KMOD +LIBCRYPTSETUP +LIBFDISK +PCRE2 +PWQUALITY +P11KIT +QRENCODE +BZIP2 +LZ4 +XZ +ZLIB +ZSTD -BPF_FRAMEWORK -XKBCOMMON +UTMP +SYSVINIT default-hierarchy=unified",
	// 251.6-2-arch
	251: "+PAM +AUDIT -SELINUX -APPARMOR -IMA +SMACK +SECCOMP +GCRYPT +GNUTLS +OPENSSL +ACL +BLKID +CURL +ELFUTILS +FIDO2 +IDN2 -IDN +IPTC +KMOD +LIBCRYPTSETUP +LIBFDISK +PCRE2 -PWQUALITY +P11KIT -QRENCODE +TPM2 +BZIP2 +LZ4 +XZ +ZLIB +ZSTD -BPF_FRAMEWORK +XKBCOMMON +UTMP -SYSVINIT default-hierarchy=unified",
	// Debian 12
	252: "+PAM +AUDIT +SELINUX +APPARMOR +IMA +SMACK +SECCOMP +GCRYPT -GNUTLS +OPENSSL +ACL +BLKID +CURL +ELFUTILS +FIDO2 +IDN2 -IDN +IPTC +KMOD +LIBCRYPTSETUP +LIBFDISK +PCRE2 -PWQUALITY +P11KIT +QRENCODE +TPM2 +BZIP2 +LZ4 +XZ +ZLIB +ZSTD -BPF_FRAMEWORK -XKBCOMMON +UTMP +SYSVINIT default-hierarchy=unified",
	// 254.1-1-arch
	254: "+PAM +AUDIT -SELINUX -APPARMOR -IMA +SMACK +SECCOMP +GCRYPT +GNUTLS +OPENSSL +ACL +BLKID +CURL +ELFUTILS +FIDO2 +IDN2 -IDN +IPTC +KMOD +LIBCRYPTSETUP +LIBFDISK +PCRE2 -PWQUALITY +P11KIT -QRENCODE +TPM2 +BZIP2 +LZ4 +XZ +ZLIB +ZSTD +BPF_FRAMEWORK +XKBCOMMON +UTMP -SYSVINIT default-hierarchy=unified",
	// 255.3-1-arch
	255: "+PAM +AUDIT -SELINUX -APPARMOR -IMA +SMACK +SECCOMP +GCRYPT +GNUTLS +OPENSSL +ACL +BLKID +CURL +ELFUTILS +FIDO2 +IDN2 -IDN +IPTC +KMOD +LIBCRYPTSETUP +LIBFDISK +PCRE2 +PWQUALITY +P11KIT +QRENCODE +TPM2 +BZIP2 +LZ4 +XZ +ZLIB +ZSTD +BPF_FRAMEWORK +XKBCOMMON +UTMP -SYSVINIT default-hierarchy=unified",
	// 256.6-1-arch
	256: "+PAM +AUDIT -SELINUX -APPARMOR -IMA +SMACK +SECCOMP +GCRYPT +GNUTLS +OPENSSL +ACL +BLKID +CURL +ELFUTILS +FIDO2 +IDN2 -IDN +IPTC +KMOD +LIBCRYPTSETUP +LIBCRYPTSETUP_PLUGINS +LIBFDISK +PCRE2 +PWQUALITY +P11KIT +QRENCODE +TPM2 +BZIP2 +LZ4 +XZ +ZLIB +ZSTD +BPF_FRAMEWORK +XKBCOMMON +UTMP -SYSVINIT +LIBARCHIVE",
	// Debian 13
	257: "+PAM +AUDIT +SELINUX +APPARMOR +IMA +IPE +SMACK +SECCOMP +GCRYPT -GNUTLS +OPENSSL +ACL +BLKID +CURL +ELFUTILS +FIDO2 +IDN2 -IDN +IPTC +KMOD +LIBCRYPTSETUP +LIBCRYPTSETUP_PLUGINS +LIBFDISK +PCRE2 +PWQUALITY +P11KIT +QRENCODE +TPM2 +BZIP2 +LZ4 +XZ +ZLIB +ZSTD +BPF_FRAMEWORK +BTF -XKBCOMMON -UTMP +SYSVINIT +LIBARCHIVE",
	// 258, of an unnamed distribution
	258: "+PAM +AUDIT -SELINUX +APPARMOR +IMA +IPE +SMACK +SECCOMP +GCRYPT -GNUTLS +OPENSSL +ACL +BLKID +CURL +ELFUTILS +FIDO2 +IDN2 -IDN -IPTC +KMOD +LIBCRYPTSETUP +LIBCRYPTSETUP_PLUGINS +LIBFDISK +PCRE2 +PWQUALITY +P11KIT +QRENCODE +TPM2 +BZIP2 +LZ4 +XZ +ZLIB +ZSTD +BPF_FRAMEWORK -BTF -XKBCOMMON +UTMP -SYSVINIT +LIBARCHIVE",
	// 260.2-2-arch
	260: "+PAM +AUDIT -SELINUX +APPARMOR -IMA +IPE +SMACK +SECCOMP +GCRYPT +GNUTLS +OPENSSL +ACL +BLKID +CURL +ELFUTILS +FIDO2 +IDN2 +KMOD +LIBCRYPTSETUP +LIBCRYPTSETUP_PLUGINS +LIBFDISK +PCRE2 +PWQUALITY +P11KIT +QRENCODE +TPM2 +BZIP2 +LZ4 +XZ +ZLIB +ZSTD +BPF_FRAMEWORK +BTF +XKBCOMMON +UTMP +LIBARCHIVE",
	// Debian forky
	262: "+PAM +AUDIT +SELINUX +APPARMOR +IMA +IPE +SMACK +SECCOMP -GNUTLS +OPENSSL +ACL +BLKID +CURL +ELFUTILS +FIDO2 +IDN2 +KMOD +LIBCRYPTSETUP +LIBCRYPTSETUP_PLUGINS +LIBFDISK +PCRE2 +PWQUALITY +P11KIT +QRENCODE +TPM2 +BZIP2 +LZ4 +XZ +ZLIB +ZSTD +BPF_FRAMEWORK +BTF -XKBCOMMON -UTMP +LIBARCHIVE",
}

// A case is a folder of testdata: "in" is a machine without its systemd,
// "out-FROM-TO" what the generator writes under those versions of it, with what
// it logs in "log"; "{version}" there is the version. A file "lacks" in the case names what is missing of systemd.
func TestCases(t *testing.T) {
	cases, err := filepath.Glob("testdata/[0-9]*")
	if err != nil || len(cases) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, folder := range cases {
		for _, version := range slices.Sorted(maps.Keys(versions)) {
			t.Run(fmt.Sprintf("%s/%d", filepath.Base(folder), version), func(t *testing.T) {
				dir, normal := t.TempDir(), t.TempDir()
				lacks, _ := os.ReadFile(folder + "/lacks")
				installSystemd(t, dir, version, string(lacks))
				copyTree(t, folder+"/in", dir)
				log, err := os.Create(filepath.Join(normal, "log"))
				if err != nil {
					t.Fatal(err)
				}
				if concerned(root.Dir(dir)) {
					generate(root.Dir(dir), normal, &logger{file: log})
				}
				compare(t, expected(t, folder, version), readTree(t, normal))
			})
		}
	}
}

// Everybody may read what the generator writes.
func TestUmask(t *testing.T) {
	for _, umask := range []int{0, 0o077, 0o777} {
		dir, normal := t.TempDir(), t.TempDir()
		installSystemd(t, dir, 257, "")
		copyTree(t, "testdata/01-step-ca/in", dir)
		copyTree(t, "testdata/05-instances/in", dir)
		log, err := os.Create(filepath.Join(t.TempDir(), "log"))
		if err != nil {
			t.Fatal(err)
		}
		old := syscall.Umask(umask)
		generate(root.Dir(dir), normal, &logger{file: log})
		syscall.Umask(old)
		count := 0
		err = filepath.WalkDir(normal, func(path string, entry fs.DirEntry, err error) error {
			if err != nil || path == normal {
				return err
			}
			want := fs.FileMode(0o644)
			if entry.IsDir() {
				want = fs.ModeDir | 0o755
			}
			if st, err := entry.Info(); err != nil || st.Mode() != want {
				t.Errorf("umask %o: %s: %v, %v", umask, path, st.Mode(), err)
			}
			count++
			return nil
		})
		if err != nil || count < 4 {
			t.Errorf("umask %o: %d files, %v", umask, count, err)
		}
	}
}

// expected reads the folder out-FROM-TO that version lies in.
func expected(t *testing.T, folder string, version int) map[string]string {
	t.Helper()
	folders, _ := filepath.Glob(folder + "/out-*")
	for _, out := range folders {
		var from, to int
		if n, _ := fmt.Sscanf(filepath.Base(out), "out-%d-%d", &from, &to); n == 2 && from <= version && version <= to {
			files := readTree(t, out)
			for name, text := range files {
				files[name] = strings.ReplaceAll(text, "{version}", fmt.Sprint(version))
			}
			return files
		}
	}
	t.Fatalf("%s expects nothing for systemd %d", folder, version)
	return nil
}

// installSystemd makes dir a machine on which that version runs as PID 1, with
// TPM2 support and the libraries for it unless they are lacking.
func installSystemd(t testing.TB, dir string, version int, lacks string) {
	t.Helper()
	const folder = "/usr/lib/x86_64-linux-gnu/"
	library := fmt.Sprintf("libsystemd-shared-%d.so", version)
	constants := versions[version] + "\x00" + systemd.TPM2LibraryNames[0] + "\x00"
	if strings.Contains(lacks, "TPM2") {
		constants = strings.Replace(versions[version], "+TPM2", "-TPM2", 1)
	}
	files := map[string][]byte{
		"/proc/1/exe":                 systemdtest.Program(elf.EM_X86_64, "/usr/lib/systemd", "", library),
		"/usr/lib/systemd/" + library: systemdtest.Program(elf.EM_X86_64, "", constants),
	}
	for _, name := range systemd.TPM2LibraryNames {
		if !strings.Contains(lacks, name) {
			files[folder+name] = systemdtest.Program(elf.EM_X86_64, "", "")
		}
	}
	for name, data := range files {
		writeFile(t, dir+name, data)
	}
}

func writeFile(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func copyTree(t testing.TB, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		target := filepath.Join(to, strings.TrimPrefix(path, from))
		if entry.Type()&fs.ModeSymlink != 0 {
			link, err := os.Readlink(path)
			if err != nil {
				return err
			}
			if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
				return err
			}
			return os.Symlink(link, target)
		}
		data, err := os.ReadFile(path)
		writeFile(t, target, data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func readTree(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || entry.Name() == ".keep" {
			return err
		}
		data, err := os.ReadFile(path)
		files[strings.TrimPrefix(path, dir+"/")] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if files["log"] == "" {
		delete(files, "log")
	}
	return files
}

func compare(t *testing.T, want, got map[string]string) {
	t.Helper()
	var names []string
	for name := range want {
		names = append(names, name)
	}
	for name := range got {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if want[name] != got[name] {
			t.Errorf("%s\n--- expected\n%s--- generated\n%s", name, want[name], got[name])
		}
	}
}
