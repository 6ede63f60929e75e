package engines

import "syscall"

// childAttr makes the kernel send end to the child when the thread that started it dies, and keeps signals of the terminal from it, so that
// the processes that use the server end first.
func childAttr(as *account, end syscall.Signal) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Pdeathsig: end, Setpgid: true}
	if as != nil {
		attr.Credential = &syscall.Credential{Uid: as.uid, Gid: as.gid}
	}
	return attr
}
