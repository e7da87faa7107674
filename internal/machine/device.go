package machine

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/bootseal/bootseal/internal/root"
)

// EncryptedDevice tells whether dm-crypt is, or is below, the block device name.
// dir is where sysfs is.
func EncryptedDevice(dir root.Dir, name string) bool {
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return false
	}
	return encryption(dir, fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)), 0) == Encrypted
}
