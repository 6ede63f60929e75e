//go:build linux && (amd64 || arm64)

package confine

import (
	"os"
	"runtime"
	"slices"
	"syscall"
	"unsafe"
)

// instruction is one of classic BPF (struct sock_filter).
type instruction struct {
	code         uint16
	ifTrue, skip uint8
	value        uint32
}

// program is struct sock_fprog.
type program struct {
	length uint16
	first  *instruction
}

// Numbers of the kernel's interface: linux/bpf_common.h, linux/seccomp.h, linux/prctl.h, linux/sched.h.
const (
	loadWord      = 0x20 // BPF_LD | BPF_W | BPF_ABS
	jumpEqual     = 0x15 // BPF_JMP | BPF_JEQ | BPF_K
	jumpSet       = 0x45 // BPF_JMP | BPF_JSET | BPF_K
	giveBack      = 0x06 // BPF_RET | BPF_K
	offsetNumber  = 0
	offsetArch    = 4
	offsetFirst   = 16 // low half of the first argument, on little-endian machines
	verdictAllow  = 0x7fff0000
	verdictRefuse = 0x00050000 | uint32(syscall.EPERM)
	verdictKill   = 0x80000000

	seccompSetFilter  = 1
	seccompAllThreads = 1
	cloneThread       = 0x00010000
)

// filterCalls lets this process use only the system calls that a Go program needs to compute and to read and
// write what is open, and with files those that open, list, make and remove files. Others fail with EPERM. It holds for
// all threads and can not be undone.
func filterCalls(files bool) error {
	filter := []instruction{
		{code: loadWord, value: offsetArch},
		{code: jumpEqual, ifTrue: 1, value: machineArch},
		{code: giveBack, value: verdictKill},
		{code: loadWord, value: offsetNumber},
	}
	allowed := slices.Clone(allowedCalls[:])
	if files {
		allowed = append(allowed, fileCalls[:]...)
	}
	for _, number := range allowed {
		filter = append(filter,
			instruction{code: jumpEqual, skip: 1, value: number},
			instruction{code: giveBack, value: verdictAllow})
	}
	// These calls take a process id: they are allowed for this process only. The runtime signals its own threads, and asks for its own
	// processors.
	for number, only := range map[uint32]uint32{syscall.SYS_TGKILL: uint32(os.Getpid()), syscall.SYS_SCHED_GETAFFINITY: 0} {
		filter = append(filter,
			instruction{code: jumpEqual, skip: 4, value: number},
			instruction{code: loadWord, value: offsetFirst}, // the kernel takes the low half alone
			instruction{code: jumpEqual, skip: 1, value: only},
			instruction{code: giveBack, value: verdictAllow},
			instruction{code: giveBack, value: verdictRefuse})
	}
	// clone makes threads, but no processes.
	filter = append(filter,
		instruction{code: jumpEqual, skip: 3, value: uint32(syscall.SYS_CLONE)},
		instruction{code: loadWord, value: offsetFirst},
		instruction{code: jumpSet, skip: 1, value: cloneThread},
		instruction{code: giveBack, value: verdictAllow},
		instruction{code: giveBack, value: verdictRefuse})

	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if _, _, e := syscall.RawSyscall6(syscall.SYS_PRCTL, prSetNoNewPrivs, 1, 0, 0, 0, 0); e != 0 {
		return e
	}
	p := program{uint16(len(filter)), &filter[0]}
	_, _, e := syscall.RawSyscall(callSeccomp, seccompSetFilter, seccompAllThreads, uintptr(unsafe.Pointer(&p)))
	runtime.KeepAlive(filter)
	if e != 0 {
		return e
	}
	return nil
}
