package delivery

import (
	"cmp"
	"fmt"
	"path"
	"slices"

	"github.com/bootseal/bootseal/internal/contract"
	"github.com/bootseal/bootseal/internal/systemd"
	"github.com/bootseal/bootseal/policy"
	"github.com/bootseal/bootseal/units"
)

// mounting are programs that mount something which others than the unit are to see.
var mounting = []string{"autofs", "automount", "bindfs", "ceph-fuse", "containerd", "cri-o", "crio", "davfs2", "dockerd", "encfs", "fusermount",
	"fusermount3", "gcsfuse", "glusterfs", "gocryptfs", "goofys", "k3s", "kubelet", "lxcfs", "lxd", "mergerfs", "mount", "podman", "rclone",
	"rke2", "s3fs", "seaweedfs", "snapd", "sshfs", "udisksd", "umount", "unionfs", "weed", "zfs"}

// picky are variables that name a file, and files, which must be their reader's own and
// for nobody else, and who says so.
var picky = map[string]string{
	"PGPASSFILE": "libpq", ".pgpass": "libpq",
	"MYSQL_TEST_LOGIN_FILE": "MySQL", ".mylogin.cnf": "MySQL",
	"ANSIBLE_PRIVATE_KEY_FILE": "ssh", "id_ecdsa": "ssh", "id_ed25519": "ssh", "id_rsa": "ssh",
	"NETRC": "what reads .netrc", ".netrc": "what reads .netrc",
	".erlang.cookie": "Erlang",
}

// notes tells what may be otherwise than expected, though nothing is wrong.
func (o *order) notes(delivery policy.Delivery) (all []string) {
	if !o.policy.SharedMounts {
		commands := slices.Concat([]string{"ExecStart"}, condition, hooks, lateCommands)
		if s := o.find(commands, func(s units.Setting) bool {
			return slices.ContainsFunc(units.Programs(s.Value), func(p units.Program) bool { return slices.Contains(mounting, p.Name) })
		}); s != nil {
			all = append(all, fmt.Sprintf("%s:%d: %s= looks as if the unit mounts something: with PrivateMounts=true nothing else sees that; expected private-mounts = false in the policy if others are to", s.File, s.Line, s.Name))
		}
	}
	if delivery != policy.Prestart && systemd.CredentialsAsACL.In(o.version) {
		for _, c := range o.policy.Credentials {
			if who := cmp.Or(picky[c.Environment], picky[path.Base(c.Replaces)]); who != "" {
				all = append(all, fmt.Sprintf("credential %s: %s may take only a file that is its reader's own, with mode 0600 or 0400, and systemd %d makes one of root's with mode 0440", c.Name, who, o.version))
			}
		}
	}
	if s := o.find(lateCommands, o.mayRead); s != nil && delivery != policy.Prestart && o.readsLate() {
		all = append(all, fmt.Sprintf("%s:%d: %s= sees the credentials where $%s says, in %s/%s, and not in %s", s.File, s.Line, s.Name, directory, contract.Store, o.whole.Name, natively(o.whole.Name)))
	}
	if s := o.find(condition, func(units.Setting) bool { return true }); s != nil && delivery != policy.Prestart && systemd.FailsConditions.In(o.version) {
		all = append(all, fmt.Sprintf("%s:%d: where a credential cannot be opened, systemd %d skips the unit as if its ExecCondition= were not met", s.File, s.Line, o.version))
	}
	if s := o.lacks(delivery, o.mayRead); s != nil {
		all = append(all, fmt.Sprintf("%s:%d: %s= sees no credentials on systemd %d", s.File, s.Line, s.Name, o.version))
	}
	return all
}
