package owned

import (
	"container/list"
	"context"
	"errors"
	"sync"
	"time"

	"lyceum/platform/stream"
)

// Spec says how keys are kept. S is the state of one key.
type Spec[S any] struct {
	Stream *stream.Stream
	// Load reads a key from the database. Nobody else has the state yet.
	Load func(ctx context.Context, key string) (*S, error)
	// Bytes is about what a state takes in memory; it is asked after each change.
	Bytes func(s *S) int64
	// Budget is what all keys may take, in bytes.
	Budget int64
	// Pinned tells that a key stays in memory: somebody types, a timer runs. May be nil.
	Pinned func(s *S) bool
	// Active gives the keys of a shard that Each must see though nobody asked for them since the shard was taken. May
	// be nil.
	Active func(ctx context.Context, shard int) ([]string, error)
	// Strict: what a call finds without writing a row, a refusal too, must not come from a former owner.
	Strict bool
}

// Owned is the memory of one stream's keys. It is safe for concurrent use.
type Owned[S any] struct {
	spec Spec[S]

	mu     sync.Mutex
	keys   map[string]*entry[S]
	lru    list.List // of *entry[S], those used lately in front
	bytes  int64
	active map[int]int64 // the epoch under which Active was asked, by shard
}

// entry is one key. lock guards the fields from basis on.
type entry[S any] struct {
	key        string
	shard      int
	lock       chan struct{} // holds one value while nobody has the lock
	users      int           // calls under way, under Owned.mu as the three below
	lruElement *list.Element
	bytes      int64
	pinned     bool

	basis *stream.Basis // nil when not loaded
	state *S
	last  *stream.Ticket // of the newest rows; nil when there were none since it was loaded
}

// Open makes an empty memory. The OnLost of its stream must call Drop.
func Open[S any](spec Spec[S]) *Owned[S] {
	return &Owned[S]{spec: spec, keys: map[string]*entry[S]{}, active: map[int]int64{}}
}

// OpenStream opens a stream that keeps its rows in store, and an empty memory of its keys, which forgets a shard that this process
// lost. It sets spec.Stream.
func OpenStream[S any](streams *stream.Streams, declared stream.Spec, store stream.Store, spec Spec[S]) *Owned[S] {
	o := Open(spec)
	o.spec.Stream = streams.Open(declared.With(store, o.Drop))
	return o
}

// Stream is the stream whose keys are kept.
func (o *Owned[S]) Stream() *stream.Stream { return o.spec.Stream }

// Change is what a call does to a key.
type Change[S any] struct {
	state   *S
	entries []*stream.Entry
	apply   []func(s *S, t *stream.Ticket)
	need    func(ctx context.Context) (func(s *S), error)
}

// State is what is known of the key: to read only.
func (c *Change[S]) State() *S { return c.state }

// Unowned is a change of a state that has no owner, such as one that is being made: appended rows are discarded.
func Unowned[S any](s *S) *Change[S] { return &Change[S]{state: s} }

// errNeed makes Do load what the function lacks and call it again.
var errNeed = errors.New("more must be known of the key first")

// Need says that the state lacks something; the function returns its error. load runs without the lock, so it must use
// nothing of the state except what the function copied. The put that it returns adds the result to the state, unless
// the state has changed, and the function is called again.
func (c *Change[S]) Need(load func(ctx context.Context) (put func(s *S), err error)) error {
	c.need = load
	return errNeed
}

// Needs reports whether Need was called, and so the function returned its error.
func (c *Change[S]) Needs() bool { return c.need != nil }

// Append adds rows to the change, and the function that applies them to the state: it runs when the rows have their
// place in the queue, as t, and can not fail. Without rows it changes what the state holds besides them.
func (c *Change[S]) Append(apply func(s *S, t *stream.Ticket), entries ...*stream.Entry) {
	c.entries = append(c.entries, entries...)
	c.apply = append(c.apply, apply)
}

// unlockedTries is how often the loads of one call run without the lock. After that the lock is kept, so that a state
// that changes all the time does not delay the call for ever.
const unlockedTries = 3

// Do runs fn with the state of a key, queues the rows that it appends and applies them, and returns when these rows,
// or all rows on which the answer rests, are durable. fn may run more than once, so its only effect is its Change.
// Besides the errors of fn, of Load and of the write, Do returns stream.ErrNotOwner, stream.ErrAborted,
// *stream.BusyError and stream.ErrTooLarge, which mean that nothing was changed.
func (o *Owned[S]) Do(ctx context.Context, key string, fn func(c *Change[S]) error) error {
	e, err := o.enter(key)
	if err != nil {
		return err
	}
	defer o.leave(e)
	d, err := o.decide(ctx, e, fn)
	if err != nil {
		return err
	}
	if d.wrote {
		d.last.Seal()
		return d.last.Wait(ctx)
	}
	// Nothing is written: all that the answer rests upon must be durable.
	if d.last != nil {
		if err := d.last.Wait(ctx); err != nil {
			if ctx.Err() == nil {
				err = stream.ErrAborted
			}
			return err
		}
	}
	if o.spec.Strict {
		if err := d.basis.Confirm(ctx); err != nil {
			return err
		}
	}
	return d.result
}

// decision is the result of fn for a key.
type decision struct {
	result error          // of the function
	wrote  bool           // rows were queued
	last   *stream.Ticket // of the newest rows of the key; nil when there are none
	basis  *stream.Basis
}

// maxTries bounds how often a call starts again because rows upon which it was built were not written.
const maxTries = 20

// decide runs fn and queues its rows. An error means that there is no decision.
func (o *Owned[S]) decide(ctx context.Context, e *entry[S], fn func(c *Change[S]) error) (decision, error) {
	if err := e.acquire(ctx); err != nil {
		return decision{}, err
	}
	defer e.release()
	for try := 0; ; try++ {
		if err := o.load(ctx, e); err != nil {
			return decision{}, err
		}
		c := &Change[S]{state: e.state}
		err := fn(c)
		if err == errNeed {
			if err := o.fetch(ctx, e, c.need, try < unlockedTries); err != nil {
				return decision{}, err
			}
			continue
		}
		if err != nil {
			return decision{result: err, last: e.last, basis: e.basis}, nil
		}
		if len(c.entries) == 0 {
			if len(c.apply) > 0 || e.pinned {
				o.apply(e, c)
			}
			return decision{last: e.last, basis: e.basis}, nil
		}
		ticket, err := e.basis.Enqueue(c.entries...)
		if errors.Is(err, stream.ErrAborted) && try < maxTries {
			continue
		}
		if err != nil {
			return decision{}, err
		}
		e.last = ticket
		o.apply(e, c)
		return decision{wrote: true, last: ticket, basis: e.basis}, nil
	}
}

// apply applies a change to the state. When a function panics, the state is dropped and the rows are not written.
func (o *Owned[S]) apply(e *entry[S], c *Change[S]) {
	applied := false
	defer func() {
		if applied {
			return
		}
		e.basis, e.state = nil, nil
		if len(c.entries) > 0 {
			e.last.Abort()
		}
	}()
	for _, apply := range c.apply {
		apply(e.state, e.last)
	}
	o.updateSize(e)
	applied = true
}

// load makes sure that the state of a key is in memory and current; the caller has the lock.
func (o *Owned[S]) load(ctx context.Context, e *entry[S]) error {
	if e.basis != nil && e.basis.Alive() {
		return nil
	}
	if e.last != nil {
		// What was written before the failure is told to the other processes before it is told to anybody here.
		_ = e.last.Wait(ctx) // how it ended is seen in the database
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	basis, err := o.spec.Stream.Basis(e.key)
	if err != nil {
		return err
	}
	state, err := o.spec.Load(ctx, e.key)
	if err != nil {
		e.basis, e.state = nil, nil
		return err
	}
	e.basis, e.state, e.last = basis, state, nil
	o.updateSize(e)
	return nil
}

// fetch loads what fn needs; without the lock when unlocked is true. The caller has the lock before and after.
func (o *Owned[S]) fetch(ctx context.Context, e *entry[S], load func(ctx context.Context) (func(s *S), error), unlocked bool) error {
	basis := e.basis
	put, err := func() (func(s *S), error) {
		if unlocked {
			e.release()
			defer func() { <-e.lock }() // like acquire without a context: the caller releases the lock again
		}
		return load(ctx)
	}()
	if err == nil && put != nil && e.basis == basis {
		put(e.state)
		o.updateSize(e)
	}
	return err
}

// Each runs fn, as Do does, for the pinned keys of a shard, and for the keys that Active returns if the shard was
// taken since the last call. It does nothing in a process that does not own the shard.
func (o *Owned[S]) Each(ctx context.Context, shard int, fn func(key string, c *Change[S]) error) error {
	epoch, ok := o.spec.Stream.Ownership(shard)
	if !ok {
		return nil
	}
	keys := map[string]bool{}
	o.mu.Lock()
	known := o.active[shard] == epoch
	for key, e := range o.keys {
		if e.pinned && e.shard == shard {
			keys[key] = true
		}
	}
	o.mu.Unlock()
	if !known && o.spec.Active != nil {
		more, err := o.spec.Active(ctx, shard)
		if err != nil {
			return err
		}
		for _, key := range more {
			keys[key] = true
		}
	}
	var errs []error
	var written []*stream.Ticket
	for key := range keys { // they share commits
		e, err := o.enter(key)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		d, err := o.decide(ctx, e, func(c *Change[S]) error { return fn(key, c) })
		if d.wrote {
			d.last.Seal()
			written = append(written, d.last)
		}
		errs = append(errs, err, d.result)
		o.leave(e)
	}
	for _, t := range written {
		errs = append(errs, t.Wait(ctx))
	}
	err := errors.Join(errs...)
	if err == nil {
		o.mu.Lock()
		o.active[shard] = epoch
		o.mu.Unlock()
	}
	return err
}

// Peek runs fn with the state of a key if it is in memory, and tells whether it was. The state may be stale.
func (o *Owned[S]) Peek(ctx context.Context, key string, fn func(s *S)) bool {
	o.mu.Lock()
	e := o.keys[key]
	if e == nil {
		o.mu.Unlock()
		return false
	}
	e.users++
	o.mu.Unlock()
	defer o.leave(e)
	if e.acquire(ctx) != nil {
		return false
	}
	defer e.release()
	if e.state == nil || !e.basis.Alive() {
		return false
	}
	fn(e.state)
	return true
}

// Drop forgets the keys of a shard that is no longer owned, except those with calls under way, which notice it
// themselves.
func (o *Owned[S]) Drop(shard int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, e := range o.keys {
		if e.users == 0 && e.shard == shard {
			o.remove(e)
		}
	}
}

// Bytes is the memory of all keys in bytes, and their number.
func (o *Owned[S]) Bytes() (bytes int64, keys int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.bytes, len(o.keys)
}

func (e *entry[S]) acquire(ctx context.Context) error {
	select {
	case <-e.lock:
		return nil
	default:
	}
	select {
	case <-e.lock:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (e *entry[S]) release() { e.lock <- struct{}{} }

// enter finds or makes the entry of a key and counts the call. New keys are refused when pinned keys take all memory.
func (o *Owned[S]) enter(key string) (*entry[S], error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	e := o.keys[key]
	if e == nil {
		if o.evict(); o.bytes > o.spec.Budget+o.spec.Budget/2 {
			return nil, &stream.BusyError{RetryAfter: time.Second}
		}
		e = &entry[S]{key: key, shard: o.spec.Stream.Shard(key), lock: make(chan struct{}, 1)}
		e.lock <- struct{}{}
		e.lruElement = o.lru.PushFront(e)
		o.keys[key] = e
	} else {
		o.lru.MoveToFront(e.lruElement)
	}
	e.users++
	return e, nil
}

// leave ends a call, and forgets a key that was never loaded.
func (o *Owned[S]) leave(e *entry[S]) {
	o.mu.Lock()
	defer o.mu.Unlock()
	e.users--
	if e.users == 0 && e.bytes == 0 {
		o.remove(e)
	}
	o.evict()
}

// keyOverhead is the memory of a key besides its state, in bytes.
const keyOverhead = 400

// updateSize records the memory of a key and whether it is pinned; the caller has its lock.
func (o *Owned[S]) updateSize(e *entry[S]) {
	bytes := o.spec.Bytes(e.state) + keyOverhead + int64(len(e.key))
	pinned := o.spec.Pinned != nil && (o.spec.Pinned(e.state) || e.pinned && !e.basis.Idle()) // what ends it may yet be refused
	o.mu.Lock()
	defer o.mu.Unlock()
	e.pinned = pinned
	o.bytes += bytes - e.bytes
	e.bytes = bytes
}

// evict forgets the keys used least recently until the budget holds; the caller holds mu. Keys that must stay go to
// the front of the list.
func (o *Owned[S]) evict() {
	for range 16 {
		place := o.lru.Back()
		if place == nil || o.bytes <= o.spec.Budget {
			return
		}
		e := place.Value.(*entry[S])
		if e.users == 0 && !e.pinned && (e.basis == nil || e.basis.Idle()) {
			o.remove(e)
		} else {
			o.lru.MoveToFront(place)
		}
	}
}

// remove removes an entry; the caller holds mu.
func (o *Owned[S]) remove(e *entry[S]) {
	o.lru.Remove(e.lruElement)
	delete(o.keys, e.key)
	o.bytes -= e.bytes
	e.bytes = 0
}
