package confine

import (
	"errors"
	"os"
	"os/exec"
	"sync/atomic"
	"syscall"
	"time"
)

// Limits are what a helper process has after Self. The zero Limits let it open nothing and write nothing but into
// what is open already.
type Limits struct {
	Memory   int64         // bytes beyond what the process has when it calls Self
	CPU      time.Duration // of the processor, rounded up to seconds; then the kernel kills it
	Time     time.Duration // of the clock; then the process exits with ExitTime. 0 is no limit
	FileSize int64         // bytes of each file that it writes; pipes have no size
	Files    int           // that may be open at a time, with those that are open already; 0 lets it open none
	Paths    []Path        // the files and folders that it may open; without Files there are none
}

// Path is a file, or a folder with all that is in it.
type Path struct {
	Name  string
	Write bool // also change, make and remove
}

// ExitTime is the status of a helper whose Limits.Time was over.
const ExitTime = 3

// Self takes all rights from this process except those in the limits. It returns the restrictions that this system does not support, for
// the log. It is called once.
func Self(l Limits) (loose []string) {
	if l.Time > 0 {
		// The first timer makes the runtime open what it needs; afterwards nothing can be opened.
		time.AfterFunc(l.Time, func() { os.Exit(ExitTime) })
	}
	return self(l)
}

// Starter starts helper processes in namespaces of their own. The zero Starter is ready; one serves all helpers of a
// kind.
type Starter struct {
	open atomic.Bool // this system gives no namespaces
}

// isRefusal reports whether the system does not allow namespaces. A lack of processes or memory is not a refusal, since it may pass.
func isRefusal(err error) bool {
	return errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.ENOSYS) ||
		errors.Is(err, syscall.EINVAL) ||
		errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EUSERS) // user_namespaces(7): none may be made here, or not that deep
}

// Start starts what command makes, with an empty environment and in the root folder unless it says otherwise. command
// is called again for the second attempt, because a Cmd starts once. missing is why there were no namespaces: it is
// given once, to be logged, and the process runs nevertheless.
func (s *Starter) Start(command func() *exec.Cmd) (cmd *exec.Cmd, missing, err error) {
	start := func(confined bool) (*exec.Cmd, error) {
		cmd := command()
		if cmd.Env == nil {
			cmd.Env = []string{} // nil would be this process's own
		}
		if cmd.Dir == "" {
			cmd.Dir = "/"
		}
		if confined {
			cmd.SysProcAttr = namespaces()
		}
		return cmd, cmd.Start()
	}
	if !s.open.Load() {
		cmd, err := start(true)
		if err == nil {
			return cmd, nil, nil
		}
		if !isRefusal(err) {
			return nil, nil, err
		}
		missing = err
	}
	cmd, err = start(false)
	if err != nil {
		return nil, nil, errors.Join(err, missing)
	}
	if s.open.Swap(true) {
		missing = nil
	}
	return cmd, missing, nil
}
