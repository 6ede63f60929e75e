package confine

import "syscall"

const (
	machineArch = 0xc000003e // AUDIT_ARCH_X86_64
	callSeccomp = 317
)

// allowedCalls act on this process alone, whatever their arguments are.
var allowedCalls = [...]uint32{
	syscall.SYS_READ, syscall.SYS_WRITE, syscall.SYS_CLOSE, syscall.SYS_MMAP, syscall.SYS_MPROTECT, syscall.SYS_MUNMAP,
	syscall.SYS_BRK, syscall.SYS_MADVISE, syscall.SYS_MINCORE, syscall.SYS_FUTEX, syscall.SYS_SCHED_YIELD,
	syscall.SYS_NANOSLEEP, syscall.SYS_CLOCK_NANOSLEEP, syscall.SYS_CLOCK_GETTIME, syscall.SYS_GETTIMEOFDAY,
	syscall.SYS_RT_SIGACTION, syscall.SYS_RT_SIGPROCMASK, syscall.SYS_RT_SIGRETURN, syscall.SYS_SIGALTSTACK,
	syscall.SYS_GETPID, syscall.SYS_GETTID, syscall.SYS_EPOLL_CTL, syscall.SYS_EPOLL_WAIT,
	syscall.SYS_EPOLL_PWAIT, syscall.SYS_SET_ROBUST_LIST, syscall.SYS_RESTART_SYSCALL,
	syscall.SYS_ARCH_PRCTL, syscall.SYS_PREAD64, syscall.SYS_EXIT, syscall.SYS_EXIT_GROUP,
	318, // getrandom
	334, // rseq
}

// fileCalls act on files, which onlyPaths bounds. Those that it does not bound, such as chmod, are not here.
var fileCalls = [...]uint32{
	syscall.SYS_OPENAT, syscall.SYS_LSEEK, syscall.SYS_FSTAT, syscall.SYS_NEWFSTATAT, syscall.SYS_GETDENTS64, syscall.SYS_READLINKAT,
	syscall.SYS_FACCESSAT, syscall.SYS_PWRITE64, syscall.SYS_FTRUNCATE, syscall.SYS_FSYNC, syscall.SYS_MKDIRAT,
	syscall.SYS_UNLINKAT, syscall.SYS_RENAMEAT, syscall.SYS_EPOLL_CREATE1, syscall.SYS_EVENTFD2,
	316, // renameat2
	332, // statx
	439, // faccessat2
}
