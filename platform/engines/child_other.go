//go:build !linux && unix

package engines

import "syscall"

// childAttr can not tie the child to its parent here: only Linux has a signal for the death of a parent.
func childAttr(as *account, _ syscall.Signal) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{}
	if as != nil {
		attr.Credential = &syscall.Credential{Uid: as.uid, Gid: as.gid}
	}
	return attr
}
