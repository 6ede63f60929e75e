package syncapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"runtime"
	"time"

	"lyceum/matrix"
	"lyceum/platform/caller"
	"lyceum/platform/obs"
	"lyceum/platform/web"
	"lyceum/presence"
)

// Routes is the HTTP surface of the package.
func (s *Sync) Routes() []web.Route {
	return []web.Route{
		{
			Pattern: "GET /_matrix/client/v3/sync", Auth: web.Guest, Role: "sync", Key: web.KeyUser, Limit: "sync",
			Timeout: time.Duration(s.config.MaxTimeout)*time.Second + web.DefaultTimeout, Handler: s.getSync,
		},
	}
}

// getSync answers GET /sync (client-server API, "Syncing").
func (s *Sync) getSync(r *web.Request) (any, error) {
	q, timeout, err := s.parse(r)
	if err != nil {
		return nil, err
	}
	ctx := r.Context()
	if q.user, err = s.user(ctx, r.UserID()); err != nil {
		return nil, err
	}
	q.seenAs(ctx)
	if !q.initial {
		if err := s.Devices.DeleteToDevice(ctx, q.user.id, q.device, q.since[toDeviceAt]); err != nil {
			return nil, err
		}
	}
	return s.serve(ctx, q, timeout)
}

// seenAs notes that the device is there, unless it asks not to be seen.
func (q *query) seenAs(ctx context.Context) {
	if q.state != presence.Offline {
		q.s.Presence.Seen(ctx, q.user.id, q.device, q.state)
	}
}

// serve answers when there are news, or when the time is over.
func (s *Sync) serve(ctx context.Context, q *poll, timeout time.Duration) (any, error) {
	u := q.user
	u.served.Store(true)
	if u.waits.Add(1) > maxWaits {
		u.waits.Add(-1)
		return nil, matrix.LimitExceeded(time.Second)
	}
	defer u.waits.Add(-1)
	if q.request != nil {
		q.request.LendPlace() // the places that build answers have limits for each user
	}
	last := timeout == 0
	if q.whole || len(q.heads) > 0 {
		var at vector
		s.mu.RLock()
		s.heads(u, &at)
		s.mu.RUnlock()
		last = q.settle(&at) || last
	}
	if q.filter.Room.State.LazyLoadMembers && !q.initial {
		q.has = s.lazy.begin(u.id+"\x00"+q.device, &q.since)
	}
	if !q.initial && !q.fullState {
		q.seen, q.known = u.seen(&q.since)
	}
	q.park.Until = obs.Now().Add(timeout)
	return q.answer(ctx, last)
}

// poll is a request that may wait for news.
type poll struct {
	query
	park    web.Park
	seen    uint64 // nothing before is news for it
	known   bool
	signals uint64 // of the user, before it looked for news
}

// wait is Wait of its park.
func (p *poll) wait(wake func()) (stop func()) { return p.user.await(p.signals, wake) }

// resume is Resume of its park. A poll may be longer than the time after which a silent device counts as gone, so this
// one counts as seen when its poll ends.
func (p *poll) resume(ctx context.Context, over bool) (any, error) {
	result, err := p.answer(ctx, over)
	if _, waits := result.(*web.Park); !waits {
		p.seenAs(ctx)
	}
	return result, err
}

// answer gives the answer, or what waits for news: there are none and it is not the last time.
func (p *poll) answer(ctx context.Context, last bool) (any, error) {
	q := &p.query
	began := p.begin()
	defer q.end()
	w, empty, err := q.build(ctx)
	if errors.Is(err, errHuge) {
		return &web.Pieces{Write: func(out io.Writer) error { return p.stream(ctx, out) }}, nil
	}
	if err != nil {
		return nil, err
	}
	if empty && !q.initial && !q.fullState && !last {
		w.release()
		p.seen, p.known = q.news, true
		if p.park.Wait == nil {
			p.park.Wait, p.park.Resume = p.wait, p.resume
		}
		return &p.park, nil
	}
	p.given()
	result := q.packed
	switch {
	case result != nil: // the writer's bytes are in it, or too many to be kept
	case w.kept():
		result = json.RawMessage(bytes.Clone(w.b))
		w.release()
	default:
		result = json.RawMessage(w.b)
	}
	q.s.work.Observe(obs.Now().Sub(began).Seconds())
	return result, nil
}

// begin takes what there is now for an answer, and tells when.
func (p *poll) begin() time.Time {
	q, u, now := &p.query, p.user, obs.Now()
	u.used.Store(now.UnixMilli())
	p.signals = u.signals.Load()
	q.view = views.Get().(*view)
	q.s.look(u, &q.moment, p.seen, p.known)
	q.now = q.at
	for i, pos := range q.since { // a token never goes back
		q.now[i] = max(q.now[i], pos)
	}
	return now
}

// end gives back what an answer was made with.
func (q *query) end() {
	q.view.release()
	q.view = nil
}

// given notes what the client has once it got the answer.
func (p *poll) given() {
	q := &p.query
	if q.filter.Room.State.LazyLoadMembers {
		start := &q.since
		if q.initial {
			start = nil
		}
		q.s.lazy.end(q.user.id+"\x00"+q.device, start, &q.now, q.gives)
	}
	q.user.given(&q.now, q.news)
}

// stream is answer of one that is too large to be held: it is built anew, and sent as it is built.
func (p *poll) stream(ctx context.Context, out io.Writer) error {
	q := &p.query
	p.begin()
	defer q.end()
	q.out = out
	if err := q.enterHeavy(ctx); err != nil {
		return err
	}
	defer q.leaveHeavy()
	w, _, err := q.write(ctx)
	if err != nil {
		return err
	}
	defer w.release()
	q.leaveHeavy()
	if _, err := out.Write(w.b); err != nil {
		return err
	}
	p.given()
	return nil
}

const (
	maxWaits    = 100     // requests of one user
	builtOfUser = 2       // small answers at once: news may wake many of a user at the same moment
	builtAtOnce = 64      // small answers
	heavyBytes  = 1 << 18 // from here on an answer counts as large
	fewRooms    = 8       // a first answer with more counts as large at once
	hugeBytes   = 4 << 20 // one of more is sent as it is built
	sendBytes   = 1 << 18 // of it at once
)

// heavyPlaces is how many large answers are built at once, and how many for one user. That is work for processors, of which half
// are for others, and SQLite has four connections that read.
func heavyPlaces(postgres bool) (atOnce, ofUser int) {
	atOnce = 2
	if postgres {
		atOnce = min(max(2, runtime.GOMAXPROCS(0)/2), 6)
	}
	return atOnce, atOnce / 2
}

// errLarge says that an answer becomes large and that there is no place for one now.
var errLarge = errors.New("the answer is large")

// errHuge says that an answer is too large to be held.
var errHuge = errors.New("the answer is too large to be held")

// build is answer with places among those that are built. One that becomes large goes on if it can; else it begins anew
// when there is a place, so that those who wait for one hold neither memory nor the places of small ones.
func (q *query) build(ctx context.Context) (w *writer, empty bool, err error) {
	if q.fullState || q.whole || q.initial && len(q.places) > fewRooms {
		return q.buildLarge(ctx)
	}
	w, empty, err = q.buildSmall(ctx)
	if errors.Is(err, errLarge) {
		return q.buildLarge(ctx)
	}
	return w, empty, err
}

// buildSmall is build of an answer that is probably small.
func (q *query) buildSmall(ctx context.Context) (w *writer, empty bool, err error) {
	if err := q.enter(ctx); err != nil {
		return nil, false, err
	}
	defer q.leave()
	return q.write(ctx)
}

// buildLarge is build of an answer that may be large.
func (q *query) buildLarge(ctx context.Context) (w *writer, empty bool, err error) {
	if err := q.enterHeavy(ctx); err != nil {
		return nil, false, err
	}
	defer q.leaveHeavy()
	return q.write(ctx)
}

// write is answer with a writer. When it fails there is none.
func (q *query) write(ctx context.Context) (w *writer, empty bool, err error) {
	w = buffers.Get().(*writer)
	w.b, w.sent, w.comma = w.b[:0], 0, false
	if empty, err = q.answer(ctx, w); err != nil {
		w.release()
		q.forget()
		return nil, false, err
	}
	if q.request != nil && q.out == nil && !q.heavy.IsZero() && len(w.b) >= heavyBytes {
		q.packed = q.request.Pack(w.b)
	}
	return w, empty, nil
}

// enter waits for a place among those that build small answers.
func (q *query) enter(ctx context.Context) error {
	if err := enter(ctx, q.user.built); err != nil {
		return err
	}
	if err := enter(ctx, q.s.built); err != nil {
		<-q.user.built
		return err
	}
	return nil
}

// leave gives the place of an answer back.
func (q *query) leave() {
	if !q.heavy.IsZero() {
		q.leaveHeavy()
		return
	}
	<-q.s.built
	<-q.user.built
}

// enterHeavy waits for a place among those that build large answers.
func (q *query) enterHeavy(ctx context.Context) error {
	if err := q.s.heavy.enter(ctx, &q.user.heavy); err != nil {
		return err
	}
	q.begunHeavy(ctx)
	return nil
}

// begunHeavy notes that it has a place. Others wait for that, so it waits behind nobody for the database.
func (q *query) begunHeavy(ctx context.Context) {
	q.heavy = obs.Now()
	if q.work = caller.Of(ctx); q.work != nil {
		q.work.Holds.Add(1)
	}
}

// leaveHeavy gives it back, if it has one.
func (q *query) leaveHeavy() {
	if !q.heavy.IsZero() {
		q.s.heavy.leave(&q.user.heavy, obs.Now().Sub(q.heavy))
		q.heavy = time.Time{}
		if q.work != nil {
			q.work.Holds.Add(-1)
			q.work = nil
		}
	}
}

func enter(ctx context.Context, places chan struct{}) error {
	select {
	case places <- struct{}{}: // most often; the context makes a channel for those who look at its end
		return nil
	default:
	}
	select {
	case places <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// weigh says how many bytes the answer has so far. Once there are many it takes a place for a large one, and the user is
// charged for them.
func (q *query) weigh(ctx context.Context, size int) error {
	if q.out != nil { // it has a place, and the client is charged for what waits for it
		return nil
	}
	if q.heavy.IsZero() {
		if size < heavyBytes {
			return nil
		}
		if !q.s.heavy.try(&q.user.heavy) {
			return errLarge
		}
		q.leave()
		q.begunHeavy(ctx)
	}
	if q.request == nil || size < heavyBytes {
		return nil
	}
	return q.request.Hold(size)
}

// grew looks at an answer to which something was added.
func (q *query) grew(ctx context.Context, w *writer) error {
	if q.out == nil {
		if q.request != nil && len(w.b) >= q.s.huge {
			return errHuge
		}
		return q.weigh(ctx, len(w.b))
	}
	if len(w.b) < sendBytes {
		return nil
	}
	q.leaveHeavy() // nobody waits for this client
	if _, err := q.out.Write(w.b); err != nil {
		return err
	}
	w.sent, w.b = w.size(), w.b[:0]
	return q.enterHeavy(ctx)
}

func (s *Sync) parse(r *web.Request) (*poll, time.Duration, error) {
	q := &poll{query: query{s: s, device: r.DeviceID(), sender: r.Sender(), state: presence.Online, request: r}}
	ms, err := r.Int("timeout", 0, s.config.MaxTimeout*1000)
	if err != nil {
		return nil, 0, err
	}
	if q.fullState, err = r.Bool("full_state", false); err != nil {
		return nil, 0, err
	}
	if q.stateAfter, err = r.Bool("use_state_after", false); err != nil {
		return nil, 0, err
	}
	switch r.Query1("set_presence") {
	case "", presence.Online:
	case presence.Offline:
		q.state = presence.Offline
	case presence.Unavailable:
		q.state = presence.Unavailable
	default:
		return nil, 0, matrix.InvalidParam("set_presence: expected online, offline or unavailable")
	}
	raw := json.RawMessage(r.Query1("filter"))
	if len(raw) > 0 && raw[0] != '{' {
		if raw, err = s.Accounts.Filter(r.Context(), r.UserID(), string(raw)); err != nil {
			return nil, 0, err
		}
	}
	if q.filter, err = s.filters.parse(raw); err != nil {
		return nil, 0, err
	}
	if since := r.Query1("since"); since == "" {
		q.initial = true
	} else if q.origin, err = s.from(since); err != nil {
		return nil, 0, err
	}
	return q, time.Duration(ms) * time.Millisecond, nil
}
