package syncapi

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strconv"

	"lyceum/matrix"
	"lyceum/receipts"
)

// The types of the ephemeral events.
const (
	receiptType = "m.receipt"
	typingType  = "m.typing"
)

// ephemeral returns the new receipts and typing notices of a room; with fresh, all that there are. read means that the user has read
// something, so that the unread counts may have changed.
func (q *query) ephemeral(ctx context.Context, roomID string, fresh bool) (out []json.RawMessage, read bool, err error) {
	f := &q.filter.Room.Ephemeral
	list, err := q.receipts(ctx, roomID, fresh)
	if err != nil {
		return nil, false, err
	}
	read = slices.ContainsFunc(list, func(r *receipts.Receipt) bool { return r.UserID == q.user.id })
	if f.passes(receiptType, "", roomID) {
		out = q.receiptEvents(list)
	}
	if !f.passes(typingType, "", roomID) {
		return out, read, nil
	}
	users, changed, err := q.typing(ctx, roomID, fresh)
	if changed && (len(users) > 0 || !fresh) {
		b := []byte(`{"type":"` + typingType + `","content":{"user_ids":`)
		users = slices.DeleteFunc(slices.Clone(users), func(u string) bool { return q.ignored[u] })
		b = matrix.AppendStrings(b, users)
		out = append(out, append(b, "}}"...))
	}
	return out, read, err
}

// typing returns which users type in a room, and whether that changed. What is in memory is always the newest.
func (q *query) typing(ctx context.Context, roomID string, fresh bool) (users []string, changed bool, err error) {
	shard := q.s.Typing.Stream().Shard(roomID)
	after, upto := q.since[typingAt+shard], q.upto[typingAt+shard]
	if after >= upto && !fresh {
		return nil, false, nil
	}
	q.s.mu.RLock()
	changed = fresh || q.s.typing.hasAfter(shard, roomID, after)
	rows, known := q.s.typing.between(shard, roomID, after, upto)
	newest, inMemory := q.s.typing.newestAt(roomID, upto)
	q.s.mu.RUnlock()
	switch {
	case !changed, known && len(rows) == 0 && !fresh:
		return nil, false, nil
	case inMemory:
		return newest.Users, true, nil
	}
	now, err := q.s.Typing.Current(ctx, []string{roomID})
	if t := now[roomID]; t != nil {
		users = t.Users
	}
	return users, true, err
}

// receipts returns the new receipts of a room; with fresh, all that there are.
func (q *query) receipts(ctx context.Context, roomID string, fresh bool) ([]*receipts.Receipt, error) {
	if fresh {
		all, err := q.s.Receipts.ForRooms(ctx, []string{roomID})
		return all[roomID], err
	}
	shard := q.s.Receipts.Stream().Shard(roomID)
	after, upto := q.since[receiptsAt+shard], q.upto[receiptsAt+shard]
	if after >= upto {
		return nil, nil
	}
	q.s.mu.RLock()
	changed := q.s.receipts.hasAfter(shard, roomID, after)
	rows, ok := q.s.receipts.between(shard, roomID, after, upto)
	list := make([]*receipts.Receipt, len(rows))
	for i, r := range rows {
		list[i] = r.value
	}
	q.s.mu.RUnlock()
	if !changed || ok {
		return list, nil
	}
	return q.s.Receipts.Since(ctx, roomID, after, upto)
}

// receiptEvents makes m.receipt events of receipts. Only the user of a private receipt gets it. The format of the event has one receipt
// for each user, type and event id, so receipts for several threads need several events.
func (q *query) receiptEvents(list []*receipts.Receipt) (out []json.RawMessage) {
	type key struct{ user, typ, thread string }
	newest := map[key]*receipts.Receipt{}
	for _, r := range list {
		if r.Type == receipts.TypePrivate && r.UserID != q.user.id || q.ignored[r.UserID] {
			continue
		}
		k := key{r.UserID, r.Type, r.ThreadID}
		if old := newest[k]; old == nil || old.Pos < r.Pos {
			newest[k] = r
		}
	}
	remaining := make([]*receipts.Receipt, 0, len(newest))
	for _, r := range newest {
		remaining = append(remaining, r)
	}
	slices.SortFunc(remaining, func(a, b *receipts.Receipt) int {
		return cmp.Or(
			cmp.Compare(a.EventID, b.EventID),
			cmp.Compare(a.Type, b.Type),
			cmp.Compare(a.UserID, b.UserID),
			cmp.Compare(a.ThreadID, b.ThreadID),
		)
	})
	for len(remaining) > 0 {
		var now, later []*receipts.Receipt
		for _, r := range remaining {
			if n := len(now); n > 0 && now[n-1].EventID == r.EventID && now[n-1].Type == r.Type && now[n-1].UserID == r.UserID {
				later = append(later, r)
			} else {
				now = append(now, r)
			}
		}
		out, remaining = append(out, receiptEvent(now)), later
	}
	return out
}

// receiptEvent makes one event of receipts that are sorted by event id, type and user.
func receiptEvent(list []*receipts.Receipt) json.RawMessage {
	w := &writer{b: []byte(`{"type":"` + receiptType + `","content":`)}
	w.open('{')
	for i, r := range list {
		newEvent := i == 0 || list[i-1].EventID != r.EventID
		if newEvent {
			w.key(r.EventID)
			w.open('{')
		}
		if newEvent || list[i-1].Type != r.Type {
			w.key(r.Type)
			w.open('{')
		}
		w.key(r.UserID)
		w.open('{')
		w.key("ts")
		w.b = strconv.AppendInt(w.b, r.TS, 10)
		if r.ThreadID != "" {
			w.key("thread_id")
			w.string(r.ThreadID)
		}
		w.close('}')
		lastOfEvent := i+1 == len(list) || list[i+1].EventID != r.EventID
		if lastOfEvent || list[i+1].Type != r.Type {
			w.close('}')
		}
		if lastOfEvent {
			w.close('}')
		}
	}
	w.close('}')
	w.close('}')
	return w.b
}
