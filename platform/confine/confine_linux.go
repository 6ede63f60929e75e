package confine

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"syscall"
	"time"
)

// namespaces puts a helper into a user namespace, where it is nobody, and a network namespace without a
// network.
func namespaces() *syscall.SysProcAttr {
	const nobody = 65534
	return &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: nobody, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: nobody, HostID: os.Getgid(), Size: 1}},
	}
}

// self is Self for Linux.
func self(l Limits) (loose []string) {
	limit := func(name string, resource int, value uint64) {
		if err := syscall.Setrlimit(resource, &syscall.Rlimit{Cur: value, Max: value}); err != nil {
			loose = append(loose, fmt.Sprintf("%s: %v", name, err))
		}
	}
	// The runtime reserves much more address space than it uses, and the more the newer it is; so the limits
	// count from what is there now.
	space, private, err := reserved()
	if err != nil {
		loose = append(loose, fmt.Sprintf("memory limit: %v", err))
	} else if !raceDetector {
		limit("address space", syscall.RLIMIT_AS, space+uint64(max(0, l.Memory)))
		limit("memory", syscall.RLIMIT_DATA, private+uint64(max(0, l.Memory)))
	}
	if l.Files > 0 && !raceDetector {
		if err := onlyPaths(l.Paths); err != nil {
			loose = append(loose, fmt.Sprintf("paths: %v", err))
		}
	}
	limit("processor time", syscall.RLIMIT_CPU, uint64(max(0, l.CPU)+time.Second-1)/uint64(time.Second))
	limit("file size", syscall.RLIMIT_FSIZE, uint64(max(0, l.FileSize)))
	limit("core dumps", syscall.RLIMIT_CORE, 0)
	limit("open files", syscall.RLIMIT_NOFILE, uint64(max(0, l.Files))) // what is open stays usable
	if !raceDetector {
		if err := filterCalls(l.Files > 0); err != nil {
			loose = append(loose, fmt.Sprintf("system call filter: %v", err))
		}
	}
	return loose
}

// reserved returns the address space and the private memory of this process in bytes (proc_pid_statm(5)).
func reserved() (space, private uint64, err error) {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, 0, err
	}
	fields := bytes.Fields(text)
	if len(fields) < 6 {
		return 0, 0, fmt.Errorf("/proc/self/statm: expected 7 numbers, found %q", text)
	}
	page := uint64(os.Getpagesize())
	if space, err = strconv.ParseUint(string(fields[0]), 10, 64); err != nil {
		return 0, 0, err
	}
	private, err = strconv.ParseUint(string(fields[5]), 10, 64)
	return space * page, private * page, err
}
