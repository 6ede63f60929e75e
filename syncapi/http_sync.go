package syncapi

import (
	"context"
	"encoding/json"
	"time"

	"lyceum/matrix"
	"lyceum/platform/web"
	"lyceum/presence"
)

// getSync answers GET /sync (client-server API, "Syncing").
func (s *Sync) getSync(r *web.Request) (any, error) {
	p, timeout, err := s.parse(r)
	if err != nil {
		return nil, err
	}
	ctx := r.Context()
	if p.user, err = s.user(ctx, r.UserID()); err != nil {
		return nil, err
	}
	p.markSeen(ctx)
	if !p.initial {
		if err := s.Devices.DeleteToDevice(ctx, p.user.id, p.device, p.since[toDeviceAt]); err != nil {
			return nil, err
		}
	}
	return s.serve(ctx, p, timeout)
}

// parse reads the parameters of the request. It returns how long the request may wait for news.
func (s *Sync) parse(r *web.Request) (*poll, time.Duration, error) {
	p := &poll{query: query{s: s, device: r.DeviceID(), transactionSender: r.TransactionScope(), setPresence: presence.Online, request: r}}
	ms, err := r.Int("timeout", 0, s.config.MaxTimeout*1000)
	if err != nil {
		return nil, 0, err
	}
	if p.fullState, err = r.Bool("full_state", false); err != nil {
		return nil, 0, err
	}
	if p.stateAfter, err = r.Bool("use_state_after", false); err != nil {
		return nil, 0, err
	}
	switch r.QueryParam("set_presence") {
	case "", presence.Online:
	case presence.Offline:
		p.setPresence = presence.Offline
	case presence.Unavailable:
		p.setPresence = presence.Unavailable
	default:
		return nil, 0, matrix.InvalidParam("set_presence: expected online, offline or unavailable")
	}
	raw := json.RawMessage(r.QueryParam("filter"))
	if len(raw) > 0 && raw[0] != '{' {
		if raw, err = s.Accounts.Filter(r.Context(), r.UserID(), string(raw)); err != nil {
			return nil, 0, err
		}
	}
	if p.filter, err = s.filters.parse(raw); err != nil {
		return nil, 0, err
	}
	if since := r.QueryParam("since"); since == "" {
		p.initial = true
	} else if p.origin, err = s.decodeToken(since); err != nil {
		return nil, 0, err
	}
	return p, time.Duration(ms) * time.Millisecond, nil
}

// markSeen tells presence that the device is active, unless the request asks with set_presence=offline not to.
func (q *query) markSeen(ctx context.Context) {
	if q.setPresence != presence.Offline {
		q.s.Presence.Seen(ctx, q.user.id, q.device, q.setPresence)
	}
}
