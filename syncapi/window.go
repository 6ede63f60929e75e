package syncapi

import (
	"container/list"
	"sort"

	"lyceum/receipts"
	"lyceum/rooms"
	"lyceum/typing"
)

// windows hold the newest rows of a stream by key, a room id. For each key it is known from which position on its rows are complete, so
// that older rows are read from the database. All rows together are bounded in bytes: the window to which no row was added for the
// longest time is evicted.
type windows[T any] struct {
	start []int64 // by shard: the position at which the subscription of this process began
	keep  int     // most rows of a key
	round int     // how often evictIdle was called
	byKey map[string]*window[T]

	sizeOf func(T) int // bytes that a value takes in memory, about
	budget int         // of bytes
	bytes  int         // of all rows
	order  list.List   // of the *window that have rows, the one with the newest row in front
}

// The memory of one process, in bytes, for the rows of all windows of a stream.
const (
	eventMemory   = 256 << 20
	receiptMemory = 64 << 20
	typingMemory  = 16 << 20
)

// rowMemory is about what a window needs for a row besides its event.
const rowMemory = 324

func eventBytes(e *rooms.Event) int { return rowMemory + int(e.Memory()) }

func receiptBytes(r *receipts.Receipt) int {
	return 192 + len(r.RoomID) + len(r.UserID) + len(r.Type) + len(r.ThreadID) + len(r.EventID)
}

func typingBytes(t *typing.State) int {
	n := 128 + len(t.RoomID)
	for _, id := range t.Users {
		n += 16 + len(id)
	}
	return n
}

type window[T any] struct {
	completeAbove int64 // rows has all rows with positions above it
	last          int64 // the newest position
	used          int   // windows.round when the newest row came
	rows          []windowRow[T]
	base          *T // the newest row at or before completeAbove; nil when it is not known

	bytes   int           // of rows and base
	element *list.Element // of windows.order; nil when there are neither rows nor a base
}

type windowRow[T any] struct {
	pos   int64
	value T
}

func newWindows[T any](keep, budget int, weigh func(T) int) *windows[T] {
	return &windows[T]{keep: keep, budget: budget, sizeOf: weigh, byKey: map[string]*window[T]{}}
}

// addBytes notes that the rows of a window take so many bytes more, and evicts windows when all are too large.
func (w *windows[T]) addBytes(s *window[T], bytes int) {
	s.bytes += bytes
	w.bytes += bytes
	for w.bytes > w.budget && w.order.Len() > 0 {
		w.evict(w.order.Back().Value.(*window[T]))
	}
}

// evict drops the rows of a window. The position of its newest row is still known.
func (w *windows[T]) evict(s *window[T]) {
	w.bytes -= s.bytes
	s.rows, s.base, s.completeAbove, s.bytes = nil, nil, s.last, 0
	if s.element != nil {
		w.order.Remove(s.element)
		s.element = nil
	}
}

// replaceBase makes a value the base of a window. It returns by how many bytes the window grows.
func (w *windows[T]) replaceBase(s *window[T], v T) (bytes int) {
	bytes = w.sizeOf(v)
	if s.base != nil {
		bytes -= w.sizeOf(*s.base)
	}
	s.base = &v
	return bytes
}

// append adds a row to the window of its key.
func (w *windows[T]) append(shard int, key string, pos int64, v T) {
	s := w.byKey[key]
	if s == nil {
		s = &window[T]{completeAbove: w.start[shard]}
		w.byKey[key] = s
	}
	s.rows, s.last, s.used = append(s.rows, windowRow[T]{pos, v}), pos, w.round
	if s.element == nil {
		s.element = w.order.PushFront(s)
	} else {
		w.order.MoveToFront(s.element)
	}
	bytes := w.sizeOf(v)
	if len(s.rows) > 2*w.keep {
		cut := len(s.rows) - w.keep
		last := s.rows[cut-1]
		for _, row := range s.rows[:cut] {
			bytes -= w.sizeOf(row.value)
		}
		s.completeAbove = last.pos
		bytes += w.replaceBase(s, last.value)
		s.rows = append(s.rows[:0:0], s.rows[cut:]...)
	}
	w.addBytes(s, bytes)
}

// hasAfter reports whether a key has rows above a position. It returns true when that is not known.
func (w *windows[T]) hasAfter(shard int, key string, after int64) bool {
	s := w.byKey[key]
	if s == nil {
		return after < w.start[shard]
	}
	return s.last > after
}

// evictIdle evicts the windows to which no row was added for some rounds, but keeps the newest row of each as its base.
func (w *windows[T]) evictIdle(rounds int) {
	w.round++
	for _, s := range w.byKey {
		if s.rows != nil && w.round-s.used > rounds {
			last := s.rows[len(s.rows)-1]
			w.evict(s)
			s.element = w.order.PushBack(s) // it is the first that loses its base when memory is needed
			w.addBytes(s, w.replaceBase(s, last.value))
		}
	}
}

// between returns the rows of a key with after < pos <= upto; not ok when older ones of these may be missing.
func (w *windows[T]) between(shard int, key string, after, upto int64) (rows []windowRow[T], ok bool) {
	s := w.byKey[key]
	if s == nil {
		return nil, after >= w.start[shard]
	}
	i := sort.Search(len(s.rows), func(i int) bool { return s.rows[i].pos > after })
	j := sort.Search(len(s.rows), func(i int) bool { return s.rows[i].pos > upto })
	return s.rows[i:j], after >= s.completeAbove
}

// newestAt returns the newest row of a key at or before a position; not ok when it is not known.
func (w *windows[T]) newestAt(key string, pos int64) (v T, ok bool) {
	s := w.byKey[key]
	if s == nil {
		return v, false
	}
	i := sort.Search(len(s.rows), func(i int) bool { return s.rows[i].pos > pos })
	switch {
	case i > 0:
		return s.rows[i-1].value, true
	case s.base != nil && pos >= s.completeAbove:
		return *s.base, true
	}
	return v, false
}

// setBase is told the newest row at or before a position. It keeps it if the position is before all rows of the window.
func (w *windows[T]) setBase(key string, pos int64, v T) {
	if s := w.byKey[key]; s != nil && pos >= s.completeAbove && (len(s.rows) == 0 || pos < s.rows[0].pos) {
		if s.element == nil {
			s.element = w.order.PushBack(s)
		}
		w.addBytes(s, w.replaceBase(s, v))
	}
}

// each calls fn for the rows of a key that are in memory.
func (w *windows[T]) each(key string, fn func(T)) {
	if s := w.byKey[key]; s != nil {
		for _, row := range s.rows {
			fn(row.value)
		}
	}
}

// index returns the index of the newest row of a key for which is returns true; -1 when there is none.
func (w *windows[T]) index(key string, is func(T) bool) int {
	s := w.byKey[key]
	if s == nil {
		return -1
	}
	for i := len(s.rows) - 1; i >= 0; i-- {
		if is(s.rows[i].value) {
			return i
		}
	}
	return -1
}

// replace replaces the value of the newest row for which is returns true.
func (w *windows[T]) replace(key string, is func(T) bool, v T) {
	if i := w.index(key, is); i >= 0 {
		s := w.byKey[key]
		old := s.rows[i].value
		s.rows[i].value = v
		w.addBytes(s, w.sizeOf(v)-w.sizeOf(old))
	}
}

// shardWindows hold the newest rows of a stream by shard, for streams whose readers do not know the keys.
type shardWindows[T any] struct {
	keep   int
	shards []window[T]
}

func newShardWindows[T any](keep int, start []int64) *shardWindows[T] {
	b := &shardWindows[T]{keep: keep, shards: make([]window[T], len(start))}
	for i, pos := range start {
		b.shards[i].completeAbove = pos
	}
	return b
}

func (b *shardWindows[T]) append(shard int, pos int64, v T) {
	s := &b.shards[shard]
	s.rows = append(s.rows, windowRow[T]{pos, v})
	if len(s.rows) > 2*b.keep {
		cut := len(s.rows) - b.keep
		s.completeAbove = s.rows[cut-1].pos
		s.rows = append(s.rows[:0:0], s.rows[cut:]...)
	}
}

// between returns the rows of a shard with after < pos <= upto; not ok when older ones of these may be missing.
func (b *shardWindows[T]) between(shard int, after, upto int64) (rows []windowRow[T], ok bool) {
	s := &b.shards[shard]
	i := sort.Search(len(s.rows), func(i int) bool { return s.rows[i].pos > after })
	j := sort.Search(len(s.rows), func(i int) bool { return s.rows[i].pos > upto })
	return s.rows[i:j], after >= s.completeAbove
}
