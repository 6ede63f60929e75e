package sync

import (
	"bytes"
	"context"
	"encoding/json"
	"time"

	"lyceum/matrix"
	"lyceum/platform/obs"
	"lyceum/platform/web"
)

// Routes is the HTTP surface of the package.
func (s *Sync) Routes() []web.Route {
	return []web.Route{
		{
			Pattern: "GET /_matrix/client/v3/sync", Auth: web.User, Role: "sync", Key: web.KeyUser, Limit: "sync",
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
	if state := r.Query1("set_presence"); state != "offline" {
		if state == "" {
			state = "online"
		}
		s.Presence.Seen(ctx, q.user.id, q.device, state)
		// A poll may be longer than the time after which a silent device counts as gone.
		defer s.Presence.Seen(ctx, q.user.id, q.device, state)
	}
	if !q.initial {
		if err := s.Devices.DeleteToDevice(ctx, q.user.id, q.device, q.since[toDeviceAt]); err != nil {
			return nil, err
		}
	}
	return s.serve(ctx, q, r.Draining(), timeout)
}

// serve answers when there are news, or when the time is over.
func (s *Sync) serve(ctx context.Context, q *query, draining <-chan struct{}, timeout time.Duration) (any, error) {
	u := q.user
	u.served.Store(true)
	u.waits.Add(1)
	defer u.waits.Add(-1)
	device := u.id + "\x00" + q.device
	lazy := q.filter.Room.State.LazyLoadMembers
	start := &q.since
	if q.initial {
		start = nil
	} else if lazy {
		q.has = s.lazy.begin(device, start)
	}
	var seen uint64
	known := false
	if !q.initial && !q.fullState {
		seen, known = u.seen(&q.since)
	}
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	began := obs.Now()
	for last := timeout == 0; ; {
		news := u.news()
		q.moment = s.moment(u, seen, known)
		q.now = q.at
		for i, pos := range q.since { // a token never goes back
			q.now[i] = max(q.now[i], pos)
		}
		w := buffers.Get().(*writer)
		w.b, w.comma = w.b[:0], false
		empty, err := q.build(ctx, w)
		if err != nil {
			buffers.Put(w)
			return nil, err
		}
		if !empty || q.initial || q.fullState || last {
			if lazy {
				s.lazy.end(device, start, &q.now, q.gives)
			}
			u.given(&q.now, q.news)
			body := w.b
			if cap(w.b) < 1<<20 { // larger ones are not kept
				body = bytes.Clone(w.b)
				buffers.Put(w)
			}
			s.work.Observe(obs.Now().Sub(began).Seconds())
			return json.RawMessage(body), nil
		}
		buffers.Put(w)
		seen, known = q.news, true // nothing before is news for this request
		select {
		case <-news:
		case <-deadline.C:
			last = true
		case <-draining:
			last = true
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		began = obs.Now()
	}
}

const (
	heavyAtOnce = 4       // it is work for processors, not waiting
	heavyBytes  = 1 << 18 // from here on an answer counts as large
)

// build is answer with a place among the heavy ones, where the answer becomes large.
func (q *query) build(ctx context.Context, w *writer) (empty bool, err error) {
	defer func() {
		if q.placed {
			q.placed = false
			<-q.s.heavy
		}
	}()
	if q.initial || q.fullState {
		if err := q.weigh(ctx, heavyBytes); err != nil {
			return false, err
		}
	}
	return q.answer(ctx, w)
}

// weigh waits for a place once an answer has so many bytes.
func (q *query) weigh(ctx context.Context, size int) error {
	if q.placed || size < heavyBytes {
		return nil
	}
	select {
	case q.s.heavy <- struct{}{}:
		q.placed = true
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *Sync) parse(r *web.Request) (*query, time.Duration, error) {
	q := &query{s: s, device: r.DeviceID()}
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
	case "", "online", "offline", "unavailable":
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
	since := r.Query1("since")
	q.initial = since == ""
	if !q.initial {
		fresh := false
		if q.since, fresh, err = decodeToken(since, s.Process.LogEpoch()); err != nil {
			return nil, 0, err
		}
		if fresh {
			q.initial, q.since = true, vector{}
		}
	}
	return q, time.Duration(ms) * time.Millisecond, nil
}
