package modeltest

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
)

// journal keeps the newest lines that the processes of a history logged.
type journal struct {
	mu    sync.Mutex
	lines []string
}

const journalLines = 25

func (j *journal) add(line string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.lines = append(j.lines, line); len(j.lines) > journalLines {
		j.lines = j.lines[1:]
	}
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Join(j.lines, "\n  ")
}

// scribe is the slog.Handler of one process: warnings and errors.
type scribe struct {
	j     *journal
	slot  int
	attrs string
	dead  *atomic.Bool // what a process says that was killed is of no interest
}

func (s scribe) Enabled(_ context.Context, l slog.Level) bool {
	return l >= slog.LevelWarn && !s.dead.Load()
}

func (s scribe) Handle(_ context.Context, r slog.Record) error {
	line := fmt.Sprintf("%s %d: %s%s", r.Time.Format("05.000"), s.slot, r.Message, s.attrs)
	r.Attrs(func(a slog.Attr) bool {
		line += " " + a.String()
		return true
	})
	s.j.add(line)
	return nil
}

func (s scribe) WithAttrs(attrs []slog.Attr) slog.Handler {
	for _, a := range attrs {
		s.attrs += " " + a.String()
	}
	return s
}

func (s scribe) WithGroup(string) slog.Handler { return s }
