package hostkey

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bootseal/bootseal/internal/machine"
	"github.com/bootseal/bootseal/internal/root"
)

// A key that the real systemd-creds makes is read, and it takes ours.
func TestHostKeyOfSystemd(t *testing.T) {
	id, err := machine.ID("/")
	if err != nil {
		t.Fatal(err)
	}
	creds := func(path, verb string, args ...string) []byte {
		t.Helper()
		cmd := exec.Command("systemd-creds", append([]string{"--with-key=host", "--name=x", verb}, args...)...)
		cmd.Env = append(os.Environ(), "SYSTEMD_CREDENTIAL_SECRET="+path)
		cmd.Stdin = bytes.NewReader([]byte("text"))
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("systemd-creds %s: %v (Debian: apt-get install systemd)\n%s", verb, err, &stderr)
		}
		return out
	}

	theirs := filepath.Join(t.TempDir(), "credential.secret")
	creds(theirs, "setup")
	whole, err := os.ReadFile(theirs)
	if err != nil {
		t.Fatal(err)
	}
	key, err := Read(theirs, id)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(key, whole[16:]) {
		t.Error("the key is not the file without its first 16 bytes")
	}

	ours := filepath.Join(t.TempDir(), "new", "folder", "credential.secret")
	if key, err = Create(ours, id); err != nil {
		t.Fatal(err)
	}
	creds(ours, "encrypt", "-", "-")
	after, err := os.ReadFile(ours)
	if err != nil {
		t.Fatal(err)
	}
	// It would have replaced a key that it does not accept.
	if !bytes.Equal(after[16:], key) {
		t.Error("systemd-creds replaced the key")
	}
}

func TestCreateHostKeyOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "credential.secret")
	var wait sync.WaitGroup
	keys := make([][]byte, 8)
	for i := range keys {
		wait.Add(1)
		go func() {
			defer wait.Done()
			key, err := Create(path, [16]byte{1})
			if err != nil {
				t.Error(err)
			}
			keys[i] = key
		}()
	}
	wait.Wait()
	for _, key := range keys {
		if len(key) != Size || !bytes.Equal(key, keys[0]) {
			t.Errorf("keys of %d and %d bytes differ", len(key), len(keys[0]))
		}
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode() != 0o400 || st.Size() != 4112 {
		t.Errorf("mode %v, size %d, %v; want 0400 and 4112", st.Mode(), st.Size(), err)
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestReadHostKeyRefuses(t *testing.T) {
	id := [16]byte{1}
	for name, c := range map[string]struct {
		spoil func(path string) error
		want  error
	}{
		"missing":        {os.Remove, ErrMissing},
		"readable":       {func(p string) error { return os.Chmod(p, 0o440) }, ErrUnsafe},
		"writable":       {func(p string) error { return os.Chmod(p, 0o600) }, ErrUnsafe},
		"set-user-ID":    {func(p string) error { return unix.Chmod(p, 0o4400) }, ErrUnsafe},
		"two links":      {func(p string) error { return os.Link(p, p+"2") }, ErrUnsafe},
		"other owner":    {func(p string) error { return os.Chown(p, 65534, 65534) }, ErrUnsafe},
		"only its ID":    {func(p string) error { return os.Truncate(p, 16) }, ErrUnsafe},
		"one too large":  {func(p string) error { return os.Truncate(p, 4113) }, ErrUnsafe},
		"other machine":  {func(string) error { id = [16]byte{2}; return nil }, ErrForeign},
		"a link to it":   {func(p string) error { return errors.Join(os.Rename(p, p+"2"), os.Symlink(p+"2", p)) }, ErrUnsafe},
		"a FIFO":         {func(p string) error { return errors.Join(os.Remove(p), unix.Mkfifo(p, 0o400)) }, ErrUnsafe},
		"a folder":       {func(p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o400)) }, ErrUnsafe},
		"folder missing": {func(p string) error { return os.RemoveAll(filepath.Dir(p)) }, ErrMissing},
	} {
		id = [16]byte{1}
		path := filepath.Join(t.TempDir(), "folder", "credential.secret")
		if _, err := Create(path, id); err != nil {
			t.Fatal(err)
		}
		if err := c.spoil(path); err != nil {
			t.Fatal(err)
		}
		if key, err := Read(path, id); !errors.Is(err, c.want) || key != nil {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if c.want != ErrMissing {
			if _, err := Create(path, id); !errors.Is(err, c.want) {
				t.Errorf("%s: Create: %v, want %v", name, err, c.want)
			}
			if _, err := os.Lstat(path); err != nil {
				t.Errorf("%s: the file is gone: %v", name, err)
			}
		}
	}
}

// Keys of other sizes than systemd makes today are used by it, so by us.
func TestReadHostKeySizes(t *testing.T) {
	id, err := machine.ID(root.Dir("/"))
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int64{17, 48, 4112} {
		path := filepath.Join(t.TempDir(), "credential.secret")
		if _, err := Create(path, id); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
		if key, err := Read(path, id); err != nil || int64(len(key)) != size-16 {
			t.Errorf("%d bytes: key of %d bytes, %v", size, len(key), err)
		}
	}
}

func TestHostKeyPath(t *testing.T) {
	t.Setenv("SYSTEMD_CREDENTIAL_SECRET", "")
	if path, err := Path(); path != "/var/lib/systemd/credential.secret" || err != nil {
		t.Errorf("default: %q, %v", path, err)
	}
	t.Setenv("SYSTEMD_CREDENTIAL_SECRET", "/run/key")
	if path, err := Path(); path != "/run/key" || err != nil {
		t.Errorf("/run/key: %q, %v", path, err)
	}
	for _, value := range []string{"key", "./key", "/run/../key", "/run//key", "/run/key/"} {
		t.Setenv("SYSTEMD_CREDENTIAL_SECRET", value)
		if path, err := Path(); err == nil {
			t.Errorf("%q: %q, want an error", value, path)
		}
	}
}

// FuzzHostKey: whatever is in the file, the key is what follows the derived ID,
// and only where that is this machine's.
func FuzzHostKey(f *testing.F) {
	id := [16]byte([]byte("0123456789abcdef"))
	own := hostKeyID(id)
	f.Add(own[:], uint32(0o400))
	f.Add(append(own[:], 'k'), uint32(0o400))
	f.Add(append(own[:], make([]byte, 4096)...), uint32(0o400))
	f.Add(append(own[:], make([]byte, 4097)...), uint32(0o400))
	f.Add(append(make([]byte, 16), 'k'), uint32(0o400))
	f.Add(append(own[:], 'k'), uint32(0o640))
	path := filepath.Join(f.TempDir(), "credential.secret")
	f.Fuzz(func(t *testing.T, data []byte, mode uint32) {
		_ = os.Remove(path)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := unix.Chmod(path, mode&0o7777); err != nil {
			t.Fatal(err)
		}
		key, err := Read(path, id)
		valid := mode&0o7777 == 0o400 && len(data) > 16 && len(data) <= 16+4096
		switch {
		case err == nil && (!valid || !bytes.Equal(data, append(own[:], key...))):
			t.Errorf("accepted %x with mode %o", data, mode)
		case err != nil && valid && bytes.HasPrefix(data, own[:]):
			t.Errorf("refused %d bytes: %v", len(data), err)
		case err != nil && !errors.Is(err, ErrUnsafe) && !errors.Is(err, ErrForeign):
			t.Errorf("no cause: %v", err)
		}
		if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, data) {
			t.Errorf("the file has changed: %v", err)
		}
	})
}
