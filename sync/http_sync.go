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
		{Pattern: "GET /_matrix/client/v3/sync", Auth: web.User, Role: "sync", Key: web.KeyUser, Limit: "sync", Handler: s.getSync},
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
	}
	if q.initial {
		s.lazy.forget(q.user.id + "\x00" + q.device)
	} else if err := s.Devices.DeleteToDevice(ctx, q.user.id, q.device, q.since[toDeviceAt]); err != nil {
		return nil, err
	}
	s.wait(q.user, 1)
	defer s.wait(q.user, -1)
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	last := timeout == 0
	for {
		news := q.user.news()
		q.now = s.vector(q.user.id)
		w := buffers.Get().(*writer)
		w.b, w.comma = w.b[:0], false
		empty, err := q.answer(ctx, w)
		if err != nil {
			buffers.Put(w)
			return nil, err
		}
		if !empty || q.initial || q.fullState || last {
			body := bytes.Clone(w.b)
			if cap(w.b) < 1<<20 {
				buffers.Put(w)
			}
			return json.RawMessage(body), nil
		}
		buffers.Put(w)
		select {
		case <-news:
		case <-deadline.C:
			last = true
		case <-r.Draining():
			last = true
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (s *Sync) wait(u *user, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u.waits += n
	u.used = obs.Now()
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
	if q.filter, err = parseFilter(raw); err != nil {
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
