package syncapi

import (
	"context"
	"errors"
	"runtime"
	"time"

	"lyceum/platform/caller"
	"lyceum/platform/obs"
)

// Answers are built in slots, so that the work on /sync is bounded for each user and for the process. A small answer takes a slot of
// its user and one of the process. An answer that becomes large takes one of the few large slots instead, which are given to the
// users in turn (fairqueue.go).

const (
	maxRequests   = 100     // requests under way of one user
	smallPerUser  = 2       // small answers of one user that are built at once: news may wake many requests at the same moment
	smallAtOnce   = 64      // small answers that the process builds at once
	largeBytes    = 1 << 18 // an answer of so many bytes is a large one
	fewRooms      = 8       // an initial answer with more rooms is a large one from its beginning
	streamedBytes = 4 << 20 // an answer of so many bytes is sent while it is built
	sendBytes     = 1 << 18 // bytes of a streamed answer that are sent at once
)

// largeSlotLimits returns how many large answers are built at once, and how many of them for one user. Building takes processor time,
// half of which is left for other work, and SQLite has four connections that read.
func largeSlotLimits(postgres bool) (atOnce, perUser int) {
	atOnce = 2
	if postgres {
		atOnce = min(max(2, runtime.GOMAXPROCS(0)/2), 6)
	}
	return atOnce, atOnce / 2
}

// errLarge is returned when an answer becomes large and no large slot is free.
var errLarge = errors.New("the answer is large")

// errStreamed is returned when an answer is too large to be held in memory: it must be sent while it is built.
var errStreamed = errors.New("the answer is too large to be held")

// build writes an answer in a slot. An answer that becomes large goes on when a large slot is free. Else it is begun again when one
// is, so that requests that wait for a large slot hold neither memory nor small slots.
func (q *query) build(ctx context.Context) (w *writer, empty bool, err error) {
	if q.fullState || q.fromStart || q.initial && len(q.candidates) > fewRooms {
		return q.buildLarge(ctx)
	}
	w, empty, err = q.buildSmall(ctx)
	if errors.Is(err, errLarge) {
		return q.buildLarge(ctx)
	}
	return w, empty, err
}

// buildSmall is build for an answer that is probably small.
func (q *query) buildSmall(ctx context.Context) (w *writer, empty bool, err error) {
	if err := q.acquireSmall(ctx); err != nil {
		return nil, false, err
	}
	defer q.releaseSlot()
	return q.write(ctx)
}

// buildLarge is build for an answer that may be large.
func (q *query) buildLarge(ctx context.Context) (w *writer, empty bool, err error) {
	if err := q.acquireLarge(ctx); err != nil {
		return nil, false, err
	}
	defer q.releaseLarge()
	return q.write(ctx)
}

// write writes an answer with a writer of the pool. It returns no writer when it fails.
func (q *query) write(ctx context.Context) (w *writer, empty bool, err error) {
	w = buffers.Get().(*writer)
	w.b, w.sent, w.comma = w.b[:0], 0, false
	if empty, err = q.writeAnswer(ctx, w); err != nil {
		w.release()
		q.discard()
		return nil, false, err
	}
	if q.request != nil && q.out == nil && !q.largeSince.IsZero() && len(w.b) >= largeBytes {
		q.packed = q.request.Pack(w.b)
	}
	return w, empty, nil
}

// acquireSmall waits for a slot for a small answer.
func (q *query) acquireSmall(ctx context.Context) error {
	if err := acquireSlot(ctx, q.user.smallSlots); err != nil {
		return err
	}
	if err := acquireSlot(ctx, q.s.smallSlots); err != nil {
		<-q.user.smallSlots
		return err
	}
	return nil
}

// releaseSlot gives back the slot of the answer, of either size.
func (q *query) releaseSlot() {
	if !q.largeSince.IsZero() {
		q.releaseLarge()
		return
	}
	<-q.s.smallSlots
	<-q.user.smallSlots
}

// acquireLarge waits for a slot for a large answer.
func (q *query) acquireLarge(ctx context.Context) error {
	if err := q.s.largeSlots.acquire(ctx, &q.user.largeSlots); err != nil {
		return err
	}
	q.startLarge(ctx)
	return nil
}

// startLarge notes that the query has a large slot. Other users wait for it, so from now on the query's statements are not queued
// behind those of other callers.
func (q *query) startLarge(ctx context.Context) {
	q.largeSince = obs.Now()
	if q.work = caller.Of(ctx); q.work != nil {
		q.work.HeldResources.Add(1)
	}
}

// releaseLarge gives the large slot back, if the query has one.
func (q *query) releaseLarge() {
	if !q.largeSince.IsZero() {
		q.s.largeSlots.release(&q.user.largeSlots, obs.Now().Sub(q.largeSince))
		q.largeSince = time.Time{}
		if q.work != nil {
			q.work.HeldResources.Add(-1)
			q.work = nil
		}
	}
}

func acquireSlot(ctx context.Context, slots chan struct{}) error {
	select {
	case slots <- struct{}{}: // the usual case, apart because ctx.Done allocates a channel
		return nil
	default:
	}
	select {
	case slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// chargeBytes is told how many bytes the answer has so far. From largeBytes on it takes a large slot, or returns errLarge when none is
// free, and charges the user for the memory.
func (q *query) chargeBytes(ctx context.Context, size int) error {
	if q.out != nil { // it has a large slot, and package web charges the client for what is not sent yet
		return nil
	}
	if q.largeSince.IsZero() {
		if size < largeBytes {
			return nil
		}
		if !q.s.largeSlots.tryAcquire(&q.user.largeSlots) {
			return errLarge
		}
		q.releaseSlot()
		q.startLarge(ctx)
	}
	if q.request == nil || size < largeBytes {
		return nil
	}
	return q.request.ChargeAnswer(size)
}

// flushIfLarge is called when something was added to the answer. It charges for the bytes of an answer that is held in memory, and
// sends those of a streamed one. It returns errStreamed when an answer is too large to be held.
func (q *query) flushIfLarge(ctx context.Context, w *writer) error {
	if q.out == nil {
		if q.request != nil && len(w.b) >= q.s.streamedBytes {
			return errStreamed
		}
		return q.chargeBytes(ctx, len(w.b))
	}
	if len(w.b) < sendBytes {
		return nil
	}
	q.releaseLarge() // so that nobody waits for this client
	if _, err := q.out.Write(w.b); err != nil {
		return err
	}
	w.sent, w.b = w.size(), w.b[:0]
	return q.acquireLarge(ctx)
}
