package push

import (
	"fmt"
	"strings"
	"testing"
)

// held returns the bytes of all counts, counted again.
func (c *counts) held() (bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.rooms {
		for _, e := range l.events {
			bytes += e.Memory()
		}
		for _, e := range l.users {
			bytes += userCountBytes + unreadEventBytes*int64(cap(e.unread))
		}
	}
	return bytes
}

// TestCountsHaveABudget: however many events come in however many rooms, memory is bounded and the
// counts are right.
func TestCountsHaveABudget(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		const many, said, size = 6, 12, 20_000
		n.counts.maxBytes = 200_000
		var at [many]string
		for i := range at {
			at[i] = n.Room(t, "alice", "bob", "carol")
			n.wantUnread(t, "bob", at[i], 0, 0)
		}
		for s := range said {
			for i, room := range at {
				n.Say(t, "alice", room, strings.Repeat("x", size))
				if s%4 == i%4 {
					n.wantUnread(t, "bob", room, s+1, 0)
				}
				if held := n.counts.held(); held > n.counts.maxBytes+2*(2*size+4000) || held != n.counts.bytes.Load() {
					t.Fatalf("%d bytes are held, %d counted, expected at most about %d", held, n.counts.bytes.Load(), n.counts.maxBytes)
				}
			}
		}
		for _, room := range at {
			for _, who := range []string{"bob", "carol"} {
				n.wantUnread(t, who, room, said, 0)
			}
		}
		if held := n.counts.held(); held != n.counts.bytes.Load() {
			t.Errorf("%d bytes are held, %d counted", held, n.counts.bytes.Load())
		}
	})
}

// TestALogHasABudget: a room with large events takes no more memory than one with small events.
func TestALogHasABudget(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		room := n.Room(t, "alice", "bob")
		n.wantUnread(t, "bob", room, 0, 0)
		const said, size = 30, 50_000
		for i := range said {
			n.Say(t, "alice", room, fmt.Sprint(i, strings.Repeat("x", size)))
			if held := n.counts.held(); held > logBytes {
				t.Fatalf("%d bytes are held", held)
			}
		}
		n.wantUnread(t, "bob", room, said, 0)
	})
}
