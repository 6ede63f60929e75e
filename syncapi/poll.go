package syncapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"time"

	"lyceum/matrix"
	"lyceum/platform/obs"
	"lyceum/platform/web"
)

// poll is one request to /sync. It may be answered more than once: a request that waits for news builds an answer at each signal of
// its user, until one has news or its time is over.
type poll struct {
	query
	park         web.Park
	seenSequence uint64 // Sync.sequence up to which the client has everything; valid when seenKnown
	seenKnown    bool
	signals      uint64 // user.signals when the last answer was begun
}

// serve answers the request at once when there are news, and else returns what waits for news until the timeout.
func (s *Sync) serve(ctx context.Context, p *poll, timeout time.Duration) (any, error) {
	u := p.user
	u.served.Store(true)
	if u.requests.Add(1) > maxRequests {
		u.requests.Add(-1)
		return nil, matrix.LimitExceeded(time.Second)
	}
	defer u.requests.Add(-1)
	if p.request != nil {
		p.request.LendPlace() // slots.go limits how many answers are built for each user
	}
	last := timeout == 0
	if p.fromStart || len(p.fromNow) > 0 {
		var positions vector
		s.mu.RLock()
		s.positionsFor(u, &positions)
		s.mu.RUnlock()
		last = p.fillFromNow(&positions) || last
	}
	if p.filter.Room.State.LazyMembers && !p.initial {
		p.alreadySent = s.lazy.sentTo(u.id+"\x00"+p.device, &p.since)
	}
	if !p.initial && !p.fullState {
		p.seenSequence, p.seenKnown = u.sequenceAt(&p.since)
	}
	p.park.Until = obs.Now().Add(timeout)
	return p.answer(ctx, last)
}

// answer builds an answer and returns it. When it is empty and last is false it returns the park of the request instead.
func (p *poll) answer(ctx context.Context, last bool) (any, error) {
	q := &p.query
	began := p.beginAnswer()
	defer q.endAnswer()
	w, empty, err := q.build(ctx)
	if errors.Is(err, errStreamed) {
		return &web.Pieces{Write: func(out io.Writer) error { return p.stream(ctx, out) }}, nil
	}
	if err != nil {
		return nil, err
	}
	if empty && !q.initial && !q.fullState && !last {
		w.release()
		p.seenSequence, p.seenKnown = q.sequence, true
		if p.park.Wait == nil {
			p.park.Wait, p.park.Resume = p.wait, p.resume
		}
		return &p.park, nil
	}
	p.noteSent()
	result := q.packed
	switch {
	case result != nil: // the writer's bytes are part of it, or are too many to be pooled
	case w.isPooled():
		result = json.RawMessage(bytes.Clone(w.b))
		w.release()
	default:
		result = json.RawMessage(w.b)
	}
	q.s.work.Observe(obs.Now().Sub(began).Seconds())
	return result, nil
}

// wait is the Wait of the park: it calls wake at the next signal of the user.
func (p *poll) wait(wake func()) (stop func()) { return p.user.await(p.signals, wake) }

// resume is the Resume of the park: it answers after a signal, or when the time is over. A request may wait for longer than the time
// after which a silent device counts as offline, so the device is marked as seen again when the request ends.
func (p *poll) resume(ctx context.Context, over bool) (any, error) {
	result, err := p.answer(ctx, over)
	if _, waits := result.(*web.Park); !waits {
		p.markSeen(ctx)
	}
	return result, err
}

// beginAnswer takes a snapshot for an answer. It returns the current time.
func (p *poll) beginAnswer() time.Time {
	q, u, now := &p.query, p.user, obs.Now()
	u.usedAt.Store(now.UnixMilli())
	p.signals = u.signals.Load()
	q.scratch = scratchPool.Get().(*scratch)
	q.s.takeSnapshot(u, &q.snapshot, p.seenSequence, p.seenKnown)
	q.upto = q.positions
	for i, pos := range q.since { // a token never goes back
		q.upto[i] = max(q.upto[i], pos)
	}
	return now
}

// endAnswer gives the scratch memory of an answer back.
func (q *query) endAnswer() {
	q.scratch.release()
	q.scratch = nil
}

// noteSent remembers what the client has once it has received the answer.
func (p *poll) noteSent() {
	q := &p.query
	if q.filter.Room.State.LazyMembers {
		start := &q.since
		if q.initial {
			start = nil
		}
		q.s.lazy.noteSent(q.user.id+"\x00"+q.device, start, &q.upto, q.sentNow)
	}
	q.user.tokenIssued(&q.upto, q.sequence)
}

// stream answers with an answer that is too large to be held in memory: it is built again, and sent while it is built.
func (p *poll) stream(ctx context.Context, out io.Writer) error {
	q := &p.query
	p.beginAnswer()
	defer q.endAnswer()
	q.out = out
	if err := q.acquireLarge(ctx); err != nil {
		return err
	}
	defer q.releaseLarge()
	w, _, err := q.write(ctx)
	if err != nil {
		return err
	}
	defer w.release()
	q.releaseLarge()
	if _, err := out.Write(w.b); err != nil {
		return err
	}
	p.noteSent()
	return nil
}
