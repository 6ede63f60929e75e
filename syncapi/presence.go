package syncapi

import (
	"context"
	"encoding/json"
	"slices"

	"lyceum/matrix"
	"lyceum/platform/obs"
	"lyceum/presence"
)

const presenceShards = presence.Shards

// writePresence writes the presence of users who share a room with the user: in an initial answer of those who are not offline, later
// of those whose presence changed and of nowSharing. onlyOwn is true when there is nobody's presence but the user's.
func (q *query) writePresence(ctx context.Context, w *writer, nowSharing userSet) (onlyOwn bool, err error) {
	f := &q.filter.Presence
	if !f.MatchType("m.presence") {
		return false, nil
	}
	list, err := q.statuses(ctx, nowSharing)
	if err != nil {
		return false, err
	}
	onlyOwn = true
	var events []json.RawMessage
	for _, p := range list {
		if q.ignored[p.UserID] || !f.passes("m.presence", p.UserID, "") {
			continue
		}
		onlyOwn = onlyOwn && p.UserID == q.user.id
		b := append([]byte(`{"type":"m.presence","sender":`), matrix.AppendString(nil, p.UserID)...)
		b = append(b, `,"content":`...)
		b = append(b, q.s.Presence.Content(p, obs.Now())...)
		events = append(events, append(b, '}'))
	}
	if len(events) > 0 {
		w.events("presence", events)
	}
	return onlyOwn, nil
}

// statuses returns the presence that is new, from memory if it reaches back to the token.
func (q *query) statuses(ctx context.Context, nowSharing userSet) ([]*presence.Status, error) {
	var newest map[string]*presence.Status
	known := true
	if !q.initial {
		q.s.mu.RLock()
		for shard := range presenceShards {
			after, upto := q.since[presenceAt+shard], q.upto[presenceAt+shard]
			if after >= upto {
				continue
			}
			rows, ok := q.s.presence.between(shard, after, upto)
			known = known && ok
			if len(rows) > 0 && newest == nil {
				newest = map[string]*presence.Status{}
			}
			for _, r := range rows {
				newest[r.value.UserID] = r.value
			}
		}
		q.s.mu.RUnlock()
	}
	if q.initial || !known {
		return q.allStatuses(ctx, nowSharing)
	}
	var out []*presence.Status
	if len(newest) > 0 {
		ids := make([]string, 0, len(newest))
		for id := range newest {
			ids = append(ids, id)
		}
		slices.Sort(ids)
		shared, err := q.s.sharing(ctx, q.user, ids)
		if err != nil {
			return nil, err
		}
		for _, id := range ids {
			if shared[id] {
				out = append(out, newest[id])
			}
		}
	}
	var ask []string
	for id := range nowSharing {
		if newest[id] == nil {
			ask = append(ask, id)
		}
	}
	if len(ask) == 0 {
		return out, nil
	}
	list, err := q.s.Presence.ForUsers(ctx, ask)
	return append(out, list...), err
}

// allStatuses is statuses with a read of all users who share a room.
func (q *query) allStatuses(ctx context.Context, nowSharing userSet) ([]*presence.Status, error) {
	users, err := q.s.Rooms.UsersSharingRoom(ctx, q.user.id)
	if err != nil {
		return nil, err
	}
	list, err := q.s.Presence.ForUsers(ctx, append(users, q.user.id))
	st := q.s.Presence.Stream()
	return slices.DeleteFunc(list, func(p *presence.Status) bool {
		if q.initial {
			return p.Presence == presence.Offline
		}
		return !nowSharing[p.UserID] && p.Pos <= q.since[presenceAt+st.Shard(p.UserID)]
	}), err
}
