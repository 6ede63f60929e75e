//go:build !linux

package confine

import "syscall"

func namespaces() *syscall.SysProcAttr { return nil }

func self(Limits) (loose []string) {
	return []string{"limits of memory, time and files, and the filter of system calls: this system is not Linux"}
}
