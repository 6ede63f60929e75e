package stream

import (
	"context"
	"errors"
	"time"

	"lyceum/platform/bus"
)

// topic is the bus topic of a stream's rows.
func (st *Stream) topic() string { return "rows/" + st.spec.Name }

// publish sends rows to the other processes and tells whether the bus took them. If it did not, the others read the
// database. at is when the rows were written, in ms since 1970; 0 for positions that are repeated.
func (s *Streams) publish(byStream map[*Stream][]Row, at int64) bool {
	if len(byStream) == 0 || s.isOnlyMember() {
		return true
	}
	var msgs []bus.Message
	for _, st := range s.opened {
		if rows := byStream[st]; len(rows) > 0 {
			msgs = append(msgs, bus.Message{Topic: st.topic(), Data: encodeRows(s.incarnation, at, rows)})
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := s.opts.Bus.Publish(ctx, msgs...)
	return err == nil || errors.Is(err, bus.ErrClosed) // then there are no others, or this process is at its end
}

// announce publishes the positions of the shards that this process owns, so that a reader that missed the last rows
// before a pause notices the gap.
func (s *Streams) announce() {
	highWaterMarks := map[*Stream][]Row{}
	s.mu.Lock()
	for _, st := range s.opened {
		for i, sh := range st.shards {
			if sh.owned && sh.next > 1 {
				highWaterMarks[st] = append(highWaterMarks[st], Row{Shard: i, Pos: sh.next - 1})
			}
		}
	}
	s.mu.Unlock()
	s.publish(highWaterMarks, 0) // if it fails, the next announcement comes soon
}
