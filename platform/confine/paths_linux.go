package confine

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"unsafe"
)

// Numbers of the kernel's interface: linux/landlock.h. The system calls have the same numbers on all machines.
const (
	callCreateRuleset = 444
	callAddRule       = 445
	callRestrictSelf  = 446
	askVersion        = 1        // LANDLOCK_CREATE_RULESET_VERSION
	prSetNoNewPrivs   = 38       // PR_SET_NO_NEW_PRIVS
	ruleBeneath       = 1        // LANDLOCK_RULE_PATH_BENEATH
	openPath          = 0x200000 // O_PATH

	accessExecute = 1 << 0
	accessWrite   = 1 << 1
	accessRead    = 1 << 2
	accessList    = 1 << 3
	removeFolder  = 1 << 4
	removeFile    = 1 << 5
	makeFolder    = 1 << 7
	makeFile      = 1 << 8
	accessRefer   = 1 << 13 // move between folders, since version 2
	accessCut     = 1 << 14 // truncate, since version 3
	accessDevice  = 1 << 15 // ioctl of devices, since version 5

	forFiles  = accessExecute | accessWrite | accessRead | accessCut | accessDevice
	mayRead   = accessRead | accessList
	mayChange = accessWrite | removeFolder | removeFile | makeFolder | makeFile | accessRefer | accessCut
)

// onlyPaths lets this process open only what is at or under some paths (landlock(7)). It holds for all threads.
func onlyPaths(paths []Path) error {
	version, _, e := syscall.Syscall(callCreateRuleset, 0, 0, askVersion)
	if e != 0 {
		return fmt.Errorf("expected a kernel with Landlock: %w", e)
	}
	handled := uint64(1<<13 - 1)
	for since, access := range map[uintptr]uint64{2: accessRefer, 3: accessCut, 5: accessDevice} {
		if version >= since {
			handled |= access
		}
	}
	rules, _, e := syscall.Syscall(callCreateRuleset, uintptr(unsafe.Pointer(&handled)), unsafe.Sizeof(handled), 0)
	if e != 0 {
		return fmt.Errorf("make a set of rules: %w", e)
	}
	defer syscall.Close(int(rules))
	for _, p := range paths {
		if err := addPath(rules, handled, p); err != nil {
			return err
		}
	}
	if err := onAllThreads(syscall.SYS_PRCTL, prSetNoNewPrivs, 1); err != nil {
		return err
	}
	if err := onAllThreads(callRestrictSelf, rules, 0); err != nil {
		return err
	}
	if version < 3 {
		return fmt.Errorf("expected version 3 of Landlock (Linux 6.2), found %d: files elsewhere can be cut to nothing", version)
	}
	return nil
}

func onAllThreads(call, first, second uintptr) error {
	switch _, _, e := syscall.AllThreadsSyscall6(call, first, second, 0, 0, 0, 0); e {
	case 0:
		return nil
	case syscall.ENOTSUP:
		return errors.New("expected a program that was built with CGO_ENABLED=0")
	default:
		return fmt.Errorf("restrict this process: %w", e)
	}
}

func addPath(rules uintptr, handled uint64, p Path) error {
	fd, err := syscall.Open(p.Name, openPath|syscall.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: p.Name, Err: err}
	}
	defer syscall.Close(fd)
	access := uint64(mayRead)
	if p.Write {
		access |= mayChange
	}
	var info syscall.Stat_t
	if err := syscall.Fstat(fd, &info); err != nil {
		return &os.PathError{Op: "stat", Path: p.Name, Err: err}
	}
	if info.Mode&syscall.S_IFMT != syscall.S_IFDIR {
		access &= forFiles
	}
	rule := struct { // struct landlock_path_beneath_attr, which is packed: 12 bytes
		access uint64
		fd     int32
		_      int32
	}{access: access & handled, fd: int32(fd)}
	if _, _, e := syscall.Syscall6(callAddRule, rules, ruleBeneath, uintptr(unsafe.Pointer(&rule)), 0, 0, 0); e != 0 {
		return fmt.Errorf("allow %s: %w", p.Name, e)
	}
	return nil
}
