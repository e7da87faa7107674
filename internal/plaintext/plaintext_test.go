package plaintext

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The hook has the UMask= of its unit.
func TestFillUmask(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root gives files away")
	}
	const uid = 12345
	for _, umask := range []int{0, 0o077, 0o400, 0o477, 0o666, 0o777} {
		folder := t.TempDir()
		old := syscall.Umask(umask)
		err := fill(folder, uid, []File{{"a", []byte("x")}, {"b", nil}})
		syscall.Umask(old)
		if err != nil {
			t.Errorf("umask %o: %v", umask, err)
		}
		for name, want := range map[string]string{".": "40500", "a": "100400", "b": "100400"} {
			var st unix.Stat_t
			if err := unix.Stat(filepath.Join(folder, name), &st); err != nil || fmt.Sprintf("%o", st.Mode) != want || st.Uid != uid {
				t.Errorf("umask %o: %s: mode %o, user %d, %v; want %s, %d", umask, name, st.Mode, st.Uid, err, want, uid)
			}
		}
	}
}
