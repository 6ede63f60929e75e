package confine

import (
	"os"
	"runtime"
	"syscall"
	"unsafe"
)

// touchOthers tries every system call by which a process does something to another one of its user, or looks
// into it: here the test that started it.
func touchOthers(parent int) map[string]error {
	other := uintptr(parent)
	// Numbers that package syscall does not have.
	queue, readv, writev, compare, robust, perf, enter := uintptr(297), uintptr(310), uintptr(311), uintptr(312), uintptr(274),
		uintptr(298), uintptr(308)
	if runtime.GOARCH == "arm64" {
		queue, readv, writev, compare, robust, perf, enter = 240, 270, 271, 272, 100, 241, 268
	}
	var buffer [64]byte
	at := uintptr(unsafe.Pointer(&buffer))
	out := map[string]error{}
	for name, c := range map[string][5]uintptr{
		"tgkill": {syscall.SYS_TGKILL, other, other}, "tkill": {syscall.SYS_TKILL, other}, "kill": {syscall.SYS_KILL, other},
		"kill of the group": {syscall.SYS_KILL, 0}, "kill of all": {syscall.SYS_KILL, ^uintptr(0)},
		"rt_sigqueueinfo": {syscall.SYS_RT_SIGQUEUEINFO, other, 0, at}, "rt_tgsigqueueinfo": {queue, other, other, 0},
		"pidfd_open": {434, other}, "pidfd_send_signal": {424}, "pidfd_getfd": {438},
		"ptrace": {syscall.SYS_PTRACE, syscall.PTRACE_ATTACH, other}, "process_vm_readv": {readv, other},
		"process_vm_writev": {writev, other}, "prlimit": {syscall.SYS_PRLIMIT64, other, 0, 0, at},
		"setpriority": {syscall.SYS_SETPRIORITY, 0, other, 1}, "getpriority": {syscall.SYS_GETPRIORITY, 0, other},
		"sched_setaffinity": {syscall.SYS_SCHED_SETAFFINITY, other, 8, at}, "sched_getaffinity": {syscall.SYS_SCHED_GETAFFINITY, other, 64, at},
		"sched_setscheduler": {syscall.SYS_SCHED_SETSCHEDULER, other, 0, at}, "ioprio_set": {syscall.SYS_IOPRIO_SET, 1, other, 0},
		"get_robust_list": {robust, other, at, at}, "kcmp": {compare, other, other},
		"move_pages": {syscall.SYS_MOVE_PAGES, other}, "migrate_pages": {syscall.SYS_MIGRATE_PAGES, other},
		"process_madvise": {440}, "perf_event_open": {perf, at, other},
		"setns": {enter}, "setpgid": {syscall.SYS_SETPGID, other}, "wait4": {syscall.SYS_WAIT4}, "fork by clone": {
			syscall.SYS_CLONE,
			uintptr(syscall.SIGCHLD),
		},
	} {
		_, _, e := syscall.RawSyscall6(c[0], c[1], c[2], c[3], c[4], 0, 0)
		out[name] = e
	}
	return out
}

// signalSelf sends the signal 0, which does nothing, as the runtime sends others.
func signalSelf() error {
	if _, _, e := syscall.RawSyscall(syscall.SYS_TGKILL, uintptr(os.Getpid()), uintptr(syscall.Gettid()), 0); e != 0 {
		return e
	}
	return nil
}
