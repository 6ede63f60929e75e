package syncapi

import (
	"context"
	"encoding/json"
	"slices"

	"lyceum/accounts"
	"lyceum/devices"
	"lyceum/matrix/event"
	"lyceum/platform/obs"
	"lyceum/platform/stream"
	"lyceum/presence"
	"lyceum/receipts"
	"lyceum/rooms"
	"lyceum/typing"
)

// receivedPositions are the positions up to which the subscriptions have brought rows, by stream and shard.
type receivedPositions struct {
	events, receipts, typing, presence, deviceLists, toDevice, accountData []int64
}

// feed is how the rows of a stream come into memory.
type feed[T any] struct {
	positions *[]int64 // the field of receivedPositions
	decode    func(*stream.Row) (T, error)
	apply     func(stream.Row, T)
	onStart   func(start []int64) // is given the positions behind which the rows begin; may be nil
}

// subscribeAll subscribes to all streams that a vector has positions of.
func (s *Sync) subscribeAll() {
	subscribe(s, s.Rooms.Stream(), feed[*rooms.Event]{
		&s.received.events, s.Rooms.FromRowCached, s.eventCame,
		func(start []int64) { s.events.start, s.relatedSince = start, slices.Clone(start) },
	})
	subscribe(s, s.Receipts.Stream(), feed[*receipts.Receipt]{
		&s.received.receipts, copied(receipts.FromRow), s.receiptCame,
		func(start []int64) { s.receipts.start = start },
	})
	subscribe(s, s.Typing.Stream(), feed[*typing.State]{
		&s.received.typing, copied(typing.FromRow), s.typingCame,
		func(start []int64) { s.typing.start = start },
	})
	subscribe(s, s.Presence.Stream(), feed[*presence.Status]{
		&s.received.presence, copied(presence.FromRow), s.presenceCame,
		func(start []int64) { s.presence = newShardWindows[*presence.Status](2000, start) },
	})
	subscribe(s, s.Devices.DeviceListStream(), feed[devices.ListChange]{
		&s.received.deviceLists, copied(listChange), s.deviceListCame,
		func(start []int64) { s.devices = newShardWindows[devices.ListChange](2000, start) },
	})
	subscribe(s, s.Devices.ToDeviceStream(), feed[string]{&s.received.toDevice, keyOf, s.toDeviceCame, nil})
	subscribe(s, s.Accounts.DataStream(), feed[*accounts.AccountDatum]{&s.received.accountData, datumOf, s.accountDataCame, nil})
	// Accounts hears these rows first. They have no part in a token.
	s.subscriptions = append(s.subscriptions, s.Accounts.Sessions().Subscribe(s.sessionsCame, "sync"))
}

// sessionsCame wakes the requests of users whose tokens or rights have changed: they are asked whether they are still let in.
func (s *Sync) sessionsCame(rows []stream.Row) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, row := range rows {
		if u := s.users[row.Key]; u != nil {
			u.signal()
		}
	}
}

// subscribe subscribes to a stream. Rows are decoded before the lock is taken.
func subscribe[T any](s *Sync, st *stream.Stream, f feed[T]) {
	var values []T
	var failed []error
	subscription := st.Subscribe(func(rows []stream.Row) {
		values, failed = values[:0], failed[:0]
		for i := range rows {
			v, err := f.decode(&rows[i])
			values, failed = append(values, v), append(failed, err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		for i, row := range rows {
			s.sequence++
			if err := failed[i]; err != nil {
				s.Process.Log.Error("a row could not be read", "stream", st.Name(), "shard", row.Shard, "position", row.Pos, "error", err)
			} else {
				f.apply(row, values[i])
			}
			(*f.positions)[row.Shard] = row.Pos
		}
		clear(values)
		if s.advanced != nil {
			close(s.advanced)
			s.advanced = nil
		}
	}, "sync").OnStart(func(start []int64) {
		s.mu.Lock()
		defer s.mu.Unlock()
		// Compacted streams skip positions, so the positions of the stream are taken, not those of its rows.
		*f.positions = slices.Clone(start)
		if f.onStart != nil {
			f.onStart(start)
		}
	})
	s.subscriptions = append(s.subscriptions, subscription)
}

// startStreams starts the subscriptions. It is needed in a process that does not have the role sync.
func (s *Sync) startStreams(ctx context.Context) error {
	for _, t := range s.subscriptions {
		if err := t.Start(ctx); err != nil {
			return err
		}
	}
	return nil
}

// copied makes a function that decodes a copy of a row one that decodes the row.
func copied[T any](read func(stream.Row) (T, error)) func(*stream.Row) (T, error) {
	return func(row *stream.Row) (T, error) { return read(*row) }
}

func keyOf(row *stream.Row) (string, error) { return row.Key, nil }

func listChange(row stream.Row) (devices.ListChange, error) {
	return devices.DecodeDeviceList(row), nil
}

func datumOf(row *stream.Row) (*accounts.AccountDatum, error) {
	if d, ok := row.Value.(*accounts.AccountDatum); ok {
		return d, nil
	}
	d := &accounts.AccountDatum{}
	return d, json.Unmarshal(row.Data, d)
}

// relatedKept is how many events Sync.related has at most.
const relatedKept = 50_000

// eventCame takes a row of the stream events. The caller holds mu, as for the functions below.
func (s *Sync) eventCame(row stream.Row, e *rooms.Event) {
	if e.Pos == 0 {
		s.Process.Log.Error("an event has no position", "event", e.ID)
		return
	}
	s.events.append(row.Shard, e.RoomID, row.Pos, e)
	if e.IsState() && e.Type == event.TypeMember {
		s.memberChanged(e)
	}
	if rel, _ := event.RelationOf(e.Event); rel.Target != "" {
		if len(s.related) >= relatedKept {
			clear(s.related)
			s.relatedSince = slices.Clone(s.received.events)
		}
		s.related[rel.Target] = struct{}{}
	}
	if e.Redacts != "" {
		s.events.each(e.RoomID, func(old *rooms.Event) {
			if old.ID == e.Redacts || old.Replaces == e.Redacts { // the text of the latter has the content of the redacted event
				s.redacted[old.ID] = struct{}{}
			}
		})
	}
	s.addRoomUpdate(e.RoomID)
}

// receiptCame takes a row of the stream receipts. A private receipt is news for its user only.
func (s *Sync) receiptCame(row stream.Row, r *receipts.Receipt) {
	s.receipts.append(row.Shard, r.RoomID, row.Pos, r)
	s.Presence.MarkActive(r.UserID, r.TS)
	if r.Type != receipts.TypePrivate {
		s.addRoomUpdate(r.RoomID)
	} else if u := s.users[r.UserID]; u != nil {
		u.addUpdate(r.RoomID, s.sequence)
	}
}

// typingCame takes a row of the stream typing.
func (s *Sync) typingCame(row stream.Row, t *typing.State) {
	s.typing.append(row.Shard, t.RoomID, row.Pos, t)
	for _, userID := range t.Users {
		s.Presence.MarkActive(userID, obs.Now().UnixMilli())
	}
	s.addRoomUpdate(t.RoomID)
}

// presenceCame takes a row of the stream presence. It can wait for some seconds.
func (s *Sync) presenceCame(row stream.Row, p *presence.Status) {
	s.presence.append(row.Shard, row.Pos, p)
	s.wakeSharing(p.UserID)
}

// deviceListCame takes a row of the stream of device lists: a change of which one user, or all who share a room, are told.
func (s *Sync) deviceListCame(row stream.Row, c devices.ListChange) {
	s.devices.append(row.Shard, row.Pos, c)
	if c.Viewer != "" {
		if u := s.users[c.Viewer]; u != nil {
			u.signal()
		}
		return
	}
	u := s.users[c.UserID]
	if u == nil || !u.loaded {
		s.unknownUsers[c.UserID] = struct{}{}
		return
	}
	u.signal()
	for id, m := range u.rooms {
		if m.membership == event.MembershipJoin {
			for other := range s.inRoom[id] {
				other.signal()
			}
		}
	}
}

// toDeviceCame signals the user whose id is the key of the row.
func (s *Sync) toDeviceCame(row stream.Row, _ string) {
	if u := s.users[row.Key]; u != nil {
		u.signal()
	}
}

// accountDataCame takes a row of the stream of account data.
func (s *Sync) accountDataCame(row stream.Row, d *accounts.AccountDatum) {
	u := s.users[row.Key]
	switch {
	case u == nil:
	case d.RoomID != "":
		u.addUpdate(d.RoomID, s.sequence)
	default:
		if d.Type == ignoredUsers { // the list hides invites, or shows them again
			for id, p := range u.rooms {
				if p.membership == event.MembershipInvite {
					u.addUpdate(id, s.sequence)
				}
			}
		}
		u.signal()
	}
}

// wakeSharing notes that the users who share a room with a user are to be signalled by tidy.
func (s *Sync) wakeSharing(userID string) {
	u := s.users[userID]
	if u == nil || !u.loaded {
		s.unknownUsers[userID] = struct{}{}
		return
	}
	for id, m := range u.rooms {
		if m.membership != event.MembershipJoin {
			continue
		}
		for other := range s.inRoom[id] {
			if other.served.Load() {
				s.delayedWakes[other] = struct{}{}
			}
		}
	}
}

// addRoomUpdate notes that a room has news for its members, and signals them.
func (s *Sync) addRoomUpdate(roomID string) {
	for u := range s.inRoom[roomID] {
		u.addUpdate(roomID, s.sequence)
	}
}
