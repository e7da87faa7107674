package operate

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bootseal/bootseal/internal/root"
)

// folderWith makes a folder with a file "plain".
func folderWith(t *testing.T, content string) (dir, file string) {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(dir, "plain")
	if err := os.WriteFile(file, []byte(content), 0o640); err != nil {
		t.Fatal(err)
	}
	return dir, file
}

func TestOpenPlain(t *testing.T) {
	dir, file := folderWith(t, "secret")
	must := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	must(os.Symlink(file, in("link")), os.Symlink(dir, in("folder")), os.Mkdir(in("sub"), 0o700), os.Symlink("..", in("sub/up")),
		unix.Mkfifo(in("fifo"), 0o600), os.WriteFile(in("empty"), nil, 0o600), os.WriteFile(in("hard"), []byte("x"), 0o600), os.Link(in("hard"), in("harder")))
	for name, want := range map[string]error{
		"link": errLink, "folder/plain": errLink, "sub/up/plain": errLink, "plain/plain": errLink,
		"fifo": root.ErrNotRegular, "none": os.ErrNotExist, "none/plain": os.ErrNotExist,
	} {
		if _, err := openPlain(in(name)); !errors.Is(err, want) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: %v; want %v", name, err, want)
		}
	}
	for name, want := range map[string]string{"empty": "empty", "hard": "hard links"} {
		if _, err := openPlain(in(name)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", name, err, want)
		}
	}
	f, err := openPlain(file)
	must(err)
	defer f.close()
	content, err := f.read()
	if err != nil || string(content) != "secret" || f.mode != 0o640 {
		t.Errorf("%q, mode %04o, %v", content, f.mode, err)
	}
}

// Between sealing and removing, the file's owner may do what it likes.
func TestRemovePlain(t *testing.T) {
	for name, meanwhile := range map[string]func(dir, file string) error{
		"another content": func(_, file string) error { return os.WriteFile(file, []byte("newer!"), 0o640) },
		"another file": func(dir, file string) error {
			return errors.Join(os.Rename(file, dir+"/old"), os.WriteFile(file, []byte("secret"), 0o640))
		},
		"a link": func(dir, file string) error {
			return errors.Join(os.Rename(file, dir+"/old"), os.Symlink(dir+"/old", file))
		},
		"another name": func(dir, file string) error { return os.Link(file, dir+"/old") },
		"another folder": func(dir, file string) error {
			return errors.Join(os.Mkdir(dir+"/sub", 0o700), os.Rename(file, dir+"/sub/plain"), os.Symlink(dir+"/sub/plain", file))
		},
	} {
		dir, file := folderWith(t, "secret")
		f, err := openPlain(file)
		if err != nil {
			t.Fatal(err)
		}
		f.content = []byte("secret")
		if err := meanwhile(dir, file); err != nil {
			t.Fatal(err)
		}
		if err := f.remove(); !errors.Is(err, errChanged) {
			t.Errorf("%s: %v; want %v", name, err, errChanged)
		}
		if now, err := os.ReadFile(file); err != nil || strings.Trim(string(now), "\x00") == "" {
			t.Errorf("%s: the file now holds %q, %v", name, now, err)
		}
		f.close()
	}

	// Who has it open finds nothing in it any more; undoing makes another.
	dir, file := folderWith(t, "secret")
	f, err := openPlain(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	other, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	f.content = []byte("secret")
	f.uid, f.gid = 12, 34
	if err := f.remove(); err != nil {
		t.Fatal(err)
	}
	left := make([]byte, 6)
	if _, err := other.Read(left); err != nil || string(left) != "\x00\x00\x00\x00\x00\x00" {
		t.Errorf("%q is left, %v", left, err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Errorf("left: %v", entries)
	}
	for _, want := range []bool{true, false} {
		if made, err := f.restore(); err != nil || made != want {
			t.Errorf("made %v, %v; want %v", made, err, want)
		}
	}
	var st unix.Stat_t
	if now, err := os.ReadFile(file); err != nil || string(now) != "secret" || unix.Stat(file, &st) != nil || st.Uid != 12 || st.Gid != 34 || st.Mode&0o7777 != 0o640 {
		t.Errorf("%q, %v, owner %d:%d, mode %04o", now, err, st.Uid, st.Gid, st.Mode&0o7777)
	}
	f.content = []byte("other!")
	if _, err := f.restore(); !errors.Is(err, errOtherSecret) {
		t.Errorf("%v; want %v", err, errOtherSecret)
	}
}
