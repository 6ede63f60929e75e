package stream

import (
	"context"
	"runtime"
	"slices"
	"strings"
	"time"

	"lyceum/platform/db"
	"lyceum/platform/lease"
)

// step is a cursor that moves, and what is written with it.
type cursorUpdate struct {
	lease lease.Lease
	extra func(b *db.Batch) // nil for nothing
	alone bool              // not in one transaction with others, which would fail with it
	done  chan error
}

// commitAll writes the steps of all workers until there are none: what came during a commit in one transaction, or one by one
// when that fails.
func (c *consumer) commitAll() {
	for first := range c.updates {
		steps := []*cursorUpdate{first}
		runtime.Gosched() // the others are ready at the same moment
		for more := true; more; {
			select {
			case s, ok := <-c.updates:
				if more = ok; ok {
					steps = append(steps, s)
				}
			default:
				more = false
			}
		}
		c.commitUpdates(steps)
	}
}

func (c *consumer) commitUpdates(steps []*cursorUpdate) {
	var group, single []*cursorUpdate
	for _, s := range steps {
		if s.alone {
			single = append(single, s)
		} else {
			group = append(group, s)
		}
	}
	if len(group) > 0 {
		if err := c.commit(group); err == nil || len(group) == 1 || isUnconfirmed(err) || db.IsUnavailable(err) {
			for _, s := range group {
				s.done <- err
			}
		} else {
			single = append(single, group...)
		}
	}
	for _, s := range single {
		s.done <- c.commit([]*cursorUpdate{s})
	}
}

func (c *consumer) commit(group []*cursorUpdate) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	slices.SortFunc(group, func(a, b *cursorUpdate) int { return strings.Compare(a.lease.Name, b.lease.Name) }) // one order of row locks
	return c.streams.opts.DB.Write(ctx, func(b *db.Batch) error {
		marks := make([]lease.Lease, len(group))
		for i, s := range group {
			marks[i] = s.lease
		}
		c.streams.opts.Leases.Advance(b, marks)
		for _, s := range group {
			if s.extra != nil {
				s.extra(b)
			}
		}
		return nil
	})
}
