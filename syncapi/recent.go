package syncapi

import (
	"container/list"
	"sort"

	"lyceum/receipts"
	"lyceum/rooms"
	"lyceum/typing"
)

// recent holds the newest rows of a stream by key (room or user). For each key it knows from which
// position on it is complete, so it can tell when older rows must be read elsewhere. All rows together are bounded in
// bytes: the keys whose rows came first lose theirs.
type recent[T any] struct {
	start  []int64 // by shard: the position at which this process began to listen
	keep   int     // most rows of a key
	round  int
	series map[string]*series[T]

	weigh  func(T) int // bytes that a value takes in memory, about
	budget int         // of bytes
	bytes  int         // of all rows
	order  list.List   // of the *series that have rows, the one with the newest in front
}

// The memory of one process, in bytes, for the newest rows of all keys.
const (
	eventMemory   = 256 << 20
	receiptMemory = 64 << 20
	typingMemory  = 16 << 20
)

func eventBytes(e *rooms.Event) int { return 1024 + 2*len(e.JSON) + len(e.PrevContent) }

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

type series[T any] struct {
	floor int64 // complete for positions above it
	last  int64 // the newest position
	used  int   // round of prune in which a row came
	rows  []item[T]
	base  *T // the newest row at or before floor, when it is known

	bytes int           // of rows and base
	place *list.Element // in the order of recent, nil without rows
}

type item[T any] struct {
	pos   int64
	value T
}

func newRecent[T any](keep, budget int, weigh func(T) int) *recent[T] {
	return &recent[T]{keep: keep, budget: budget, weigh: weigh, series: map[string]*series[T]{}}
}

// grow notes that the rows of a key take more bytes, or fewer.
func (r *recent[T]) grow(s *series[T], bytes int) {
	s.bytes += bytes
	r.bytes += bytes
	for r.bytes > r.budget && r.order.Len() > 0 {
		r.drop(r.order.Back().Value.(*series[T]))
	}
}

// drop forgets the rows of a key; that it had some is still known.
func (r *recent[T]) drop(s *series[T]) {
	r.bytes -= s.bytes
	s.rows, s.base, s.floor, s.bytes = nil, nil, s.last, 0
	if s.place != nil {
		r.order.Remove(s.place)
		s.place = nil
	}
}

// baseOn makes a value the base of a key. It was not weighed before.
func (r *recent[T]) baseOn(s *series[T], v T) (bytes int) {
	bytes = r.weigh(v)
	if s.base != nil {
		bytes -= r.weigh(*s.base)
	}
	s.base = &v
	return bytes
}

func (r *recent[T]) add(shard int, key string, pos int64, v T) {
	s := r.series[key]
	if s == nil {
		s = &series[T]{floor: r.start[shard]}
		r.series[key] = s
	}
	s.rows, s.last, s.used = append(s.rows, item[T]{pos, v}), pos, r.round
	if s.place == nil {
		s.place = r.order.PushFront(s)
	} else {
		r.order.MoveToFront(s.place)
	}
	bytes := r.weigh(v)
	if len(s.rows) > 2*r.keep {
		cut := len(s.rows) - r.keep
		last := s.rows[cut-1]
		for _, row := range s.rows[:cut] {
			bytes -= r.weigh(row.value)
		}
		s.floor = last.pos
		bytes += r.baseOn(s, last.value)
		s.rows = append(s.rows[:0:0], s.rows[cut:]...)
	}
	r.grow(s, bytes)
}

// changed tells whether a key has rows above a position; when that is not known, it is assumed.
func (r *recent[T]) changed(shard int, key string, after int64) bool {
	s := r.series[key]
	if s == nil {
		return after < r.start[shard]
	}
	return s.last > after
}

// prune drops the rows of keys that had none for some rounds; that they had some is still known.
func (r *recent[T]) prune(rounds int) {
	r.round++
	for _, s := range r.series {
		if s.rows != nil && r.round-s.used > rounds {
			last := s.rows[len(s.rows)-1]
			r.drop(s)
			s.place = r.order.PushBack(s) // the first to lose its base too
			r.grow(s, r.baseOn(s, last.value))
		}
	}
}

// since gives the rows of a key with after < pos <= upto; ok is false when older ones may be missing.
func (r *recent[T]) since(shard int, key string, after, upto int64) (rows []item[T], ok bool) {
	s := r.series[key]
	if s == nil {
		return nil, after >= r.start[shard]
	}
	i := sort.Search(len(s.rows), func(i int) bool { return s.rows[i].pos > after })
	j := sort.Search(len(s.rows), func(i int) bool { return s.rows[i].pos > upto })
	return s.rows[i:j], after >= s.floor
}

// at gives the newest row of a key at or before a position, when it is known.
func (r *recent[T]) at(key string, pos int64) (v T, ok bool) {
	s := r.series[key]
	if s == nil {
		return v, false
	}
	i := sort.Search(len(s.rows), func(i int) bool { return s.rows[i].pos > pos })
	switch {
	case i > 0:
		return s.rows[i-1].value, true
	case s.base != nil && pos >= s.floor:
		return *s.base, true
	}
	return v, false
}

// setBase notes the newest row at or before a position below all rows in memory.
func (r *recent[T]) setBase(key string, pos int64, v T) {
	if s := r.series[key]; s != nil && pos >= s.floor && (len(s.rows) == 0 || pos < s.rows[0].pos) {
		if s.place == nil {
			s.place = r.order.PushBack(s)
		}
		r.grow(s, r.baseOn(s, v))
	}
}

// each gives the rows of a key that are in memory.
func (r *recent[T]) each(key string, fn func(T)) {
	if s := r.series[key]; s != nil {
		for _, row := range s.rows {
			fn(row.value)
		}
	}
}

func (r *recent[T]) index(key string, is func(T) bool) int {
	s := r.series[key]
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

// replace gives a row in memory another value.
func (r *recent[T]) replace(key string, is func(T) bool, v T) {
	if i := r.index(key, is); i >= 0 {
		s := r.series[key]
		old := s.rows[i].value
		s.rows[i].value = v
		r.grow(s, r.weigh(v)-r.weigh(old))
	}
}

// byShard holds the newest rows of a stream by shard, for streams whose readers do not know the keys.
type byShard[T any] struct {
	keep   int
	shards []series[T]
}

func newByShard[T any](keep int, start []int64) *byShard[T] {
	b := &byShard[T]{keep: keep, shards: make([]series[T], len(start))}
	for i, pos := range start {
		b.shards[i].floor = pos
	}
	return b
}

func (b *byShard[T]) add(shard int, pos int64, v T) {
	s := &b.shards[shard]
	s.rows = append(s.rows, item[T]{pos, v})
	if len(s.rows) > 2*b.keep {
		cut := len(s.rows) - b.keep
		s.floor = s.rows[cut-1].pos
		s.rows = append(s.rows[:0:0], s.rows[cut:]...)
	}
}

// since gives the rows of a shard with after < pos <= upto; ok is false when older ones may be missing.
func (b *byShard[T]) since(shard int, after, upto int64) (rows []item[T], ok bool) {
	s := &b.shards[shard]
	i := sort.Search(len(s.rows), func(i int) bool { return s.rows[i].pos > after })
	j := sort.Search(len(s.rows), func(i int) bool { return s.rows[i].pos > upto })
	return s.rows[i:j], after >= s.floor
}
