package bench

import "syscall"

// childAttributes make a child end with the thread that started it and keep signals of the terminal from it.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
}
