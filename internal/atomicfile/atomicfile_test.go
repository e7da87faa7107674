package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func TestWrite(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	for _, content := range []string{"first, and longer", "second", ""} {
		if err := Write(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != content {
			t.Errorf("after writing %q: %q, %v", content, got, err)
		}
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode() != 0o644 {
		t.Errorf("mode %v, %v; want 0644 whatever the umask", st.Mode(), err)
	}
	if all := names(t, dir); len(all) != 1 {
		t.Errorf("left behind: %q", all)
	}
}

func TestMakeFolder(t *testing.T) {
	dir := t.TempDir()
	other := filepath.Join(dir, "other")
	if err := os.Mkdir(other, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("other", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, umask := range []int{0, 0o022, 0o477, 0o777} {
		top := filepath.Join(dir, fmt.Sprintf("link/%o", umask))
		old := syscall.Umask(umask)
		err := MakeFolder(top+"/b/c/", 0o755)
		again := MakeFolder(top+"/b", 0o700)
		syscall.Umask(old)
		if err != nil || again != nil {
			t.Errorf("umask %o: %v, %v", umask, err, again)
		}
		for _, path := range []string{top, top + "/b", top + "/b/c"} {
			if st, err := os.Stat(path); err != nil || st.Mode() != fs.ModeDir|0o755 {
				t.Errorf("umask %o: %s: %v, %v", umask, path, st, err)
			}
		}
	}
	if st, err := os.Stat(other); err != nil || st.Mode() != fs.ModeDir|0o750 {
		t.Errorf("what was there: %v, %v", st, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"file", "file/a"} {
		if err := MakeFolder(filepath.Join(dir, path), 0o755); err == nil {
			t.Errorf("%s: no error", path)
		}
	}
}

func TestWriteReplacesSymlink(t *testing.T) {
	dir := t.TempDir()
	victim, link := filepath.Join(dir, "victim"), filepath.Join(dir, "link")
	if err := os.WriteFile(victim, []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, link); err != nil {
		t.Fatal(err)
	}
	if err := Write(link, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(victim); string(got) != "untouched" {
		t.Errorf("the link's target now says %q", got)
	}
	if st, err := os.Lstat(link); err != nil || !st.Mode().IsRegular() {
		t.Errorf("link is now %v, %v; want a regular file", st.Mode(), err)
	}
}

func TestWriteFails(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "folder", "full"), 0o755); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]error{
		filepath.Join(dir, "missing", "file"): fs.ErrNotExist,
		filepath.Join(dir, "folder"):          syscall.EISDIR,
		dir + "/folder/":                      nil,
		dir + "/..":                           nil,
		"":                                    nil,
	} {
		err := Write(path, []byte("x"), 0o600)
		if err == nil || want != nil && !errors.Is(err, want) {
			t.Errorf("Write(%q): %v, want %v", path, err, want)
		}
	}
	if all := names(t, dir); len(all) != 1 {
		t.Errorf("left behind: %q", all)
	}
}

// A file system that is full in the middle of the file.
func TestWriteFull(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatalf("mounting a small file system (run the tests as root): %v", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	path := filepath.Join(dir, "file")
	if err := Write(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Write(path, make([]byte, 1<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Write to a full file system: %v, want ENOSPC", err)
	}
	if got, _ := os.ReadFile(path); string(got) != "old" {
		t.Errorf("the old file now says %q", got)
	}
	if all := names(t, dir); len(all) != 1 {
		t.Errorf("left behind: %q", all)
	}
}

func TestCreate(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := Create(path, []byte("first"), 0o400, NoDump, NoCopyWrite); err != nil {
		t.Fatal(err)
	}
	if err := Create(path, []byte("second"), 0o400); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create over a file: %v, want fs.ErrExist", err)
	}
	if got, _ := os.ReadFile(path); string(got) != "first" {
		t.Errorf("file says %q, want the first content", got)
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode() != 0o400 {
		t.Errorf("mode %v, %v; want 0400", st.Mode(), err)
	}
	if all := names(t, dir); len(all) != 1 {
		t.Errorf("left behind: %q", all)
	}
}

// The folder's path leads elsewhere by the time of writing.
func TestCreateIn(t *testing.T) {
	parent := t.TempDir()
	path, moved, other := filepath.Join(parent, "path"), filepath.Join(parent, "moved"), t.TempDir()
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := errors.Join(os.Rename(path, moved), os.Symlink(other, path)); err != nil {
		t.Fatal(err)
	}
	if err := CreateIn(dir, "file", []byte("content"), 0o640, 12, 34); err != nil {
		t.Fatal(err)
	}
	if err := CreateIn(dir, "file", []byte("second"), 0o600, 0, 0); !errors.Is(err, fs.ErrExist) {
		t.Errorf("CreateIn over a file: %v, want fs.ErrExist", err)
	}
	got, err := os.ReadFile(filepath.Join(moved, "file"))
	if err != nil || string(got) != "content" {
		t.Errorf("%q, %v; want the first content in the folder that was open", got, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(moved, "file"), &st); err != nil || st.Uid != 12 || st.Gid != 34 || st.Mode&0o7777 != 0o640 {
		t.Errorf("owner %d:%d, mode %04o, %v; want 12:34, 0640", st.Uid, st.Gid, st.Mode&0o7777, err)
	}
	if all := append(names(t, other), names(t, moved)...); len(all) != 1 {
		t.Errorf("left behind: %q", all)
	}
}

// TestFolderLinks: a user who owns a folder above must not lead the file elsewhere.
func TestFolderLinks(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make links of another user")
	}
	const stranger = 65534
	dir := t.TempDir()
	real := filepath.Join(dir, "real")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(real, "sub"), 0o755))
	for link, target := range map[string]string{
		"absolute": real, "relative": "./real/sub//../", "chain": "relative/../absolute", "trap": real, "through": "trap/sub",
		"loop": "loop", "nowhere": "nosuch", "file": "real/plain",
	} {
		must(os.Symlink(target, filepath.Join(dir, link)))
	}
	must(os.WriteFile(filepath.Join(real, "plain"), nil, 0o644))
	must(os.Lchown(filepath.Join(dir, "trap"), stranger, stranger))
	t.Chdir(dir)
	for path, want := range map[string]error{
		filepath.Join(dir, "absolute/a"): nil, "relative/b": nil, "chain/c": nil, "real/../real/d": nil, "chain/sub/e": nil,
		"trap/f": ErrLink, filepath.Join(dir, "trap/sub/f"): ErrLink, "through/f": ErrLink,
		"loop/f": unix.ELOOP, "nowhere/f": fs.ErrNotExist, "file/f": unix.ENOTDIR,
	} {
		if err := Write(path, []byte("new"), 0o600); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
	}
	if all := names(t, real); !slices.Equal(all, []string{"a", "b", "c", "d", "plain", "sub"}) {
		t.Errorf("written: %q", all)
	}
	if all := names(t, filepath.Join(real, "sub")); !slices.Equal(all, []string{"e"}) {
		t.Errorf("written in the folder below: %q", all)
	}
}
