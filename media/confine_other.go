//go:build !linux

package media

import "syscall"

func namespaces() *syscall.SysProcAttr { return nil }

func confine(order) (loose []string) {
	return []string{"resource limits and system call filter: this system is not Linux"}
}
