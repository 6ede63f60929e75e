package engines

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Flush empties the server, as the FLUSHALL command does.
func (r *Redis) Flush(ctx context.Context) error { return r.do(ctx, "FLUSHALL") }

// Crash ends the server with PostgreSQL's immediate shutdown: all sessions break and nothing is written on the way out.
func (p *Postgres) Crash() error { return p.end(syscall.SIGQUIT) }

// Pause stops the server and all its sessions for a while, as a machine that hangs does.
func (p *Postgres) Pause(ctx context.Context, d time.Duration) error {
	pids := tree(p.Pid())
	if len(pids) == 0 {
		return errors.New("pause postgres: it does not run")
	}
	send := func(s syscall.Signal) error {
		var errs []error
		for _, pid := range pids {
			if err := syscall.Kill(pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
				errs = append(errs, fmt.Errorf("pause postgres: %w", err))
			}
		}
		return errors.Join(errs...)
	}
	if err := send(syscall.SIGSTOP); err != nil {
		return errors.Join(err, send(syscall.SIGCONT))
	}
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
	return send(syscall.SIGCONT)
}

// tree is a process and its descendants, as far as this system lists them.
func tree(pid int) []int {
	if pid == 0 {
		return nil
	}
	out := []int{pid}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return out
	}
	for _, word := range strings.Fields(string(text)) {
		if child, err := strconv.Atoi(word); err == nil {
			out = append(out, child)
		}
	}
	return out
}
