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

// cursorUpdate moves a cursor, together with what is written in the same transaction.
type cursorUpdate struct {
	lease          lease.Lease
	extra          func(b *db.Batch) // further writes; nil for none
	ownTransaction bool              // in a transaction of its own, since others would fail with it
	done           chan error
}

// commitAll writes the updates of all workers until the channel is closed. Updates that arrive during a commit share
// the next transaction; when that fails, they are written one by one.
func (c *consumer) commitAll() {
	for first := range c.updates {
		updates := []*cursorUpdate{first}
		runtime.Gosched() // the other workers are ready at the same time
		for more := true; more; {
			select {
			case s, ok := <-c.updates:
				if more = ok; ok {
					updates = append(updates, s)
				}
			default:
				more = false
			}
		}
		c.commitUpdates(updates)
	}
}

func (c *consumer) commitUpdates(updates []*cursorUpdate) {
	var group, single []*cursorUpdate
	for _, s := range updates {
		if s.ownTransaction {
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
	// Row locks are taken in the order of names.
	slices.SortFunc(group, func(a, b *cursorUpdate) int { return strings.Compare(a.lease.Name, b.lease.Name) })
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
