//go:build !linux

package up

import "syscall"

// childAttributes keep signals of the terminal from a child.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
