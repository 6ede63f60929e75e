package status

import (
	"fmt"
	"syscall"
)

// fileSystems are the magic numbers that statfs(2) gives.
var fileSystems = map[int64]string{
	0xef53: "ext4", 0x58465342: "xfs", 0x9123683e: "btrfs", 0x01021994: "tmpfs", 0x794c7630: "overlay", 0x2fc12fc1: "zfs",
	0x6969: "nfs", 0xff534d42: "cifs", 0xfe534d42: "smb2", 0x517b: "smb", 0x65735546: "fuse", 0x01021997: "9p",
	0x00c36400: "ceph", 0x5346414f: "afs", 0x47504653: "gpfs", 0x0bd00bd0: "lustre", 0xf15f: "ecryptfs",
}

// FileSystem tells the type of the file system under a path and how many bytes are free for this user.
func FileSystem(path string) (kind string, free int64) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(path, &s); err != nil {
		return "", 0
	}
	kind, ok := fileSystems[int64(s.Type)]
	if !ok {
		kind = fmt.Sprintf("%#x", s.Type)
	}
	return kind, int64(s.Bavail) * s.Bsize
}
