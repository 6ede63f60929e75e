package sync

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strconv"

	"lyceum/accounts"
	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/platform/obs"
	"lyceum/receipts"
	"lyceum/rooms"
)

// query is one request for news.
type query struct {
	s          *Sync
	user       *user
	device     string
	filter     *filter
	since, now vector
	initial    bool // without since
	fullState  bool
	stateAfter bool

	ignored  map[string]bool
	roomData map[string][]json.RawMessage // account data of rooms that is new
	global   []json.RawMessage
	places   map[string]place
}

func (q *query) view() rooms.View { return rooms.View{Device: q.device, Membership: "join"} }

// answer writes what is new between since and now; empty is true when that is nothing.
func (q *query) answer(ctx context.Context, w *writer) (empty bool, err error) {
	if q.ignored, err = q.s.Accounts.Ignored(ctx, q.user.id); err != nil {
		return false, err
	}
	if err := q.accountData(ctx); err != nil {
		return false, err
	}
	messages, err := q.toDevice(ctx)
	if err != nil {
		return false, err
	}
	q.places = q.s.snapshot(q.user)
	w.open('{')
	w.key("next_batch")
	w.string(q.now.encode(q.s.Process.LogEpoch()))
	head := len(w.b)
	if err := w.section("rooms", func() error { return q.rooms(ctx, w) }); err != nil {
		return false, err
	}
	if err := q.presence(ctx, w); err != nil {
		return false, err
	}
	w.raws("account_data", q.global)
	w.raws("to_device", messages)
	if err := q.deviceLists(ctx, w); err != nil {
		return false, err
	}
	empty = len(w.b) == head
	if err := q.keyCounts(ctx, w); err != nil {
		return false, err
	}
	w.close('}')
	return empty, nil
}

func (q *query) rooms(ctx context.Context, w *writer) error {
	by := map[string][]string{}
	for id, p := range q.places {
		if !q.filter.Room.room(id) {
			continue
		}
		shard := q.s.Rooms.Stream().Shard(id)
		isNew := p.pos > q.since[eventsAt+shard] && p.pos <= q.now[eventsAt+shard]
		switch p.membership {
		case event.MembershipJoin:
			by["join"] = append(by["join"], id)
		case event.MembershipInvite, event.MembershipKnock:
			if isNew || q.initial || q.fullState {
				by[p.membership] = append(by[p.membership], id)
			}
		case event.MembershipLeave, event.MembershipBan:
			if isNew && !q.initial || (q.initial || q.fullState) && q.filter.Room.IncludeLeave && !p.forgotten {
				by["leave"] = append(by["leave"], id)
			}
		}
	}
	for _, list := range by {
		slices.Sort(list)
	}
	err := w.section("join", func() error {
		for _, id := range by["join"] {
			if _, err := q.joinedRoom(ctx, w, id, q.places[id]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	stripped := func(section, name, membership string) error {
		return w.section(section, func() error {
			for _, id := range by[membership] {
				if err := q.strippedRoom(ctx, w, id, q.places[id], name); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := stripped("invite", "invite_state", event.MembershipInvite); err != nil {
		return err
	}
	if err := stripped("knock", "knock_state", event.MembershipKnock); err != nil {
		return err
	}
	return w.section("leave", func() error {
		for _, id := range by["leave"] {
			if err := q.leftRoom(ctx, w, id, q.places[id]); err != nil {
				return err
			}
		}
		return nil
	})
}

// accountData reads what is new of the user's settings.
func (q *query) accountData(ctx context.Context) error {
	var list []accounts.AccountDatum
	var err error
	if q.initial {
		list, err = q.s.Accounts.AllAccountData(ctx, q.user.id)
	} else if q.since[accountDataAt] < q.now[accountDataAt] {
		list, err = q.s.Accounts.AccountDataSince(ctx, q.user.id, q.since[accountDataAt], q.now[accountDataAt])
	}
	if err != nil {
		return err
	}
	q.roomData, q.global = map[string][]json.RawMessage{}, nil
	for _, d := range list {
		f := &q.filter.AccountData
		if d.RoomID != "" {
			f = &q.filter.Room.AccountData
		}
		if !f.typed(d.Type) || d.RoomID == "" && d.Type == pushRules {
			continue
		}
		raw := dataEvent(d.Type, d.Content)
		if d.RoomID == "" {
			q.global = append(q.global, raw)
		} else {
			q.roomData[d.RoomID] = append(q.roomData[d.RoomID], raw)
		}
	}
	changed := slices.ContainsFunc(list, func(d accounts.AccountDatum) bool { return d.RoomID == "" && d.Type == pushRules })
	if (q.initial || changed) && q.filter.AccountData.typed(pushRules) {
		rules, err := q.s.Push.Ruleset(ctx, q.user.id)
		if err != nil {
			return err
		}
		q.global = append(q.global, dataEvent(pushRules, rules))
	}
	return nil
}

// pushRules is account data that is stored as differences and sent whole.
const pushRules = "m.push_rules"

func dataEvent(typ string, content json.RawMessage) json.RawMessage {
	b := append(make([]byte, 0, len(typ)+len(content)+24), `{"type":`...)
	b = matrix.AppendString(b, typ)
	b = append(b, `,"content":`...)
	b = append(b, content...)
	return append(b, '}')
}

// ephemeral gives the receipts and typing notices of a room that are new.
func (q *query) ephemeral(ctx context.Context, roomID string, initial bool) ([]json.RawMessage, error) {
	var out []json.RawMessage
	f := &q.filter.Room.Ephemeral
	if f.typed("m.receipt") {
		list, err := q.receipts(ctx, roomID, initial)
		if err != nil {
			return nil, err
		}
		if raw := receiptEvent(list, q.user.id, q.ignored); raw != nil {
			out = append(out, raw)
		}
	}
	if !f.typed("m.typing") {
		return out, nil
	}
	st := q.s.Typing.Stream()
	shard := st.Shard(roomID)
	after, upto := q.since[typingAt+shard], q.now[typingAt+shard]
	q.s.mu.RLock()
	changed := !initial && q.s.typing.changed(shard, roomID, after)
	rows, known := q.s.typing.since(shard, roomID, after, upto)
	q.s.mu.RUnlock()
	if !changed || known && len(rows) == 0 {
		return out, nil
	}
	now, err := q.s.Typing.Current(ctx, []string{roomID})
	if err != nil {
		return nil, err
	}
	b := []byte(`{"type":"m.typing","content":{"user_ids":`)
	var users []string
	if t := now[roomID]; t != nil {
		users = slices.DeleteFunc(slices.Clone(t.Users), func(u string) bool { return q.ignored[u] })
	}
	b = matrix.AppendStrings(b, users)
	return append(out, append(b, "}}"...)), nil
}

func (q *query) receipts(ctx context.Context, roomID string, initial bool) ([]*receipts.Receipt, error) {
	if initial {
		all, err := q.s.Receipts.ForRooms(ctx, []string{roomID})
		return all[roomID], err
	}
	shard := q.s.Receipts.Stream().Shard(roomID)
	after, upto := q.since[receiptsAt+shard], q.now[receiptsAt+shard]
	q.s.mu.RLock()
	changed := q.s.receipts.changed(shard, roomID, after)
	rows, ok := q.s.receipts.since(shard, roomID, after, upto)
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

// receiptEvent makes the m.receipt event of some receipts, or nil. Private ones are shown to their user only.
func receiptEvent(list []*receipts.Receipt, userID string, ignored map[string]bool) json.RawMessage {
	type key struct{ user, typ, thread string }
	newest := map[key]*receipts.Receipt{}
	for _, r := range list {
		if r.Type == "m.read.private" && r.UserID != userID || ignored[r.UserID] {
			continue
		}
		k := key{r.UserID, r.Type, r.ThreadID}
		if old := newest[k]; old == nil || old.Pos < r.Pos {
			newest[k] = r
		}
	}
	if len(newest) == 0 {
		return nil
	}
	ordered := make([]*receipts.Receipt, 0, len(newest))
	for _, r := range newest {
		ordered = append(ordered, r)
	}
	slices.SortFunc(ordered, func(a, b *receipts.Receipt) int {
		return cmp.Or(cmp.Compare(a.EventID, b.EventID), cmp.Compare(a.Type, b.Type), cmp.Compare(a.UserID, b.UserID), cmp.Compare(a.ThreadID, b.ThreadID))
	})
	w := &writer{b: []byte(`{"type":"m.receipt","content":`)}
	w.open('{')
	for i := 0; i < len(ordered); {
		eventID := ordered[i].EventID
		w.key(eventID)
		w.open('{')
		for i < len(ordered) && ordered[i].EventID == eventID {
			typ := ordered[i].Type
			w.key(typ)
			w.open('{')
			for ; i < len(ordered) && ordered[i].EventID == eventID && ordered[i].Type == typ; i++ {
				r := ordered[i]
				if i+1 < len(ordered) && ordered[i+1].UserID == r.UserID && ordered[i+1].EventID == eventID && ordered[i+1].Type == typ {
					continue // one member for each user: the receipt of a thread stands for the one without
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
			}
			w.close('}')
		}
		w.close('}')
	}
	w.close('}')
	w.close('}')
	return w.b
}

// presence writes the presence of people who share a room with the user.
func (q *query) presence(ctx context.Context, w *writer) error {
	if !q.filter.Presence.typed("m.presence") {
		return nil
	}
	var seen map[string]bool
	var events []json.RawMessage
	st := q.s.Presence.Stream()
	for shard := range st.Shards() {
		after, upto := q.since[presenceAt+shard], q.now[presenceAt+shard]
		if after >= upto && !q.initial {
			continue
		}
		q.s.mu.RLock()
		rows, _ := q.s.presence.since(shard, after, upto)
		rows = slices.Clone(rows)
		q.s.mu.RUnlock()
		for i := len(rows) - 1; i >= 0; i-- {
			p := rows[i].value
			if seen[p.UserID] || q.ignored[p.UserID] || q.initial && p.Presence == "offline" {
				continue
			}
			if seen == nil {
				seen = map[string]bool{}
			}
			seen[p.UserID] = true
			shared, err := q.s.shares(ctx, q.user, p.UserID)
			if err != nil {
				return err
			}
			if shared {
				b := append([]byte(`{"type":"m.presence","sender":`), matrix.AppendString(nil, p.UserID)...)
				b = append(b, `,"content":`...)
				b = append(b, q.s.Presence.Content(p, obs.Now())...)
				events = append(events, append(b, '}'))
			}
		}
	}
	w.raws("presence", events)
	return nil
}

const toDeviceLimit = 100

// toDevice reads the messages for the device, the oldest first. When there are more, the answer ends at
// the last one for this stream, so that the next request brings the rest.
func (q *query) toDevice(ctx context.Context) (list []json.RawMessage, err error) {
	if q.device == "" {
		return nil, nil
	}
	list, last, err := q.s.Devices.ToDevice(ctx, q.user.id, q.device, q.since[toDeviceAt], q.now[toDeviceAt], toDeviceLimit)
	if len(list) == toDeviceLimit {
		q.now[toDeviceAt] = last
	}
	return list, err
}

// deviceLists writes whose devices changed and who shares no room any more.
func (q *query) deviceLists(ctx context.Context, w *writer) error {
	if q.initial {
		return nil
	}
	changed, left := map[string]bool{}, map[string]bool{}
	if err := q.changedDevices(ctx, changed); err != nil {
		return err
	}
	if err := q.newMates(ctx, changed, left); err != nil {
		return err
	}
	if len(changed)+len(left) == 0 {
		return nil
	}
	w.key("device_lists")
	w.open('{')
	for _, part := range []struct {
		name string
		set  map[string]bool
	}{{"changed", changed}, {"left", left}} {
		if len(part.set) > 0 {
			list := make([]string, 0, len(part.set))
			for user := range part.set {
				list = append(list, user)
			}
			slices.Sort(list)
			w.key(part.name)
			w.b = matrix.AppendStrings(w.b, list)
		}
	}
	w.close('}')
	return nil
}

func (q *query) changedDevices(ctx context.Context, changed map[string]bool) error {
	st := q.s.Devices.DeviceListStream()
	var after, upto []int64
	stale := false
	var users []string
	q.s.mu.RLock()
	for shard := range st.Shards() {
		from, to := q.since[deviceListsAt+shard], q.now[deviceListsAt+shard]
		after, upto = append(after, from), append(upto, to)
		if from >= to {
			continue
		}
		rows, ok := q.s.devices.since(shard, from, to)
		stale = stale || !ok
		for _, r := range rows {
			users = append(users, r.value)
		}
	}
	q.s.mu.RUnlock()
	if stale {
		var err error
		if users, err = q.s.Devices.ChangedUsers(ctx, after, upto); err != nil {
			return err
		}
	}
	for _, id := range users {
		if changed[id] {
			continue
		}
		shared, err := q.s.shares(ctx, q.user, id)
		if err != nil {
			return err
		}
		if shared {
			changed[id] = true
		}
	}
	return nil
}

// newMates finds people who began or ceased to share a room with the user since.
func (q *query) newMates(ctx context.Context, changed, left map[string]bool) error {
	for id, p := range q.places {
		shard := q.s.Rooms.Stream().Shard(id)
		after := q.since[eventsAt+shard]
		if p.membership != event.MembershipJoin {
			if p.pos > after && (p.membership == event.MembershipLeave || p.membership == event.MembershipBan) {
				if err := q.everyone(ctx, id, left, false); err != nil {
					return err
				}
			}
			continue
		}
		q.s.mu.RLock()
		rows, _ := q.s.events.since(shard, id, after, q.now[eventsAt+shard])
		var members []*rooms.Event
		for _, r := range rows {
			if r.value.IsState() && r.value.Type == event.TypeMember {
				members = append(members, r.value)
			}
		}
		q.s.mu.RUnlock()
		for _, e := range members {
			who := *e.StateKey
			switch {
			case who == q.user.id && p.joined == e.Pos:
				if err := q.everyone(ctx, id, changed, true); err != nil {
					return err
				}
			case who != q.user.id && e.Membership() == event.MembershipJoin && membershipOf(e.PrevContent) != event.MembershipJoin:
				changed[who] = true
			case who != q.user.id && e.Membership() != event.MembershipJoin:
				shared, err := q.s.shares(ctx, q.user, who)
				if err != nil {
					return err
				}
				if !shared {
					left[who] = true
					delete(changed, who)
				}
			}
		}
	}
	return nil
}

// everyone adds the members of a room: all of them, or those who share no other with the user.
func (q *query) everyone(ctx context.Context, roomID string, set map[string]bool, sharing bool) error {
	members, err := q.s.Rooms.Members(ctx, roomID, event.MembershipJoin)
	if err != nil {
		return err
	}
	for _, m := range members {
		if m.UserID == q.user.id {
			continue
		}
		if !sharing {
			shared, err := q.s.shares(ctx, q.user, m.UserID)
			if err != nil {
				return err
			}
			if shared {
				continue
			}
		}
		set[m.UserID] = true
	}
	return nil
}

// keyCounts writes how many one-time keys the server has of the device.
func (q *query) keyCounts(ctx context.Context, w *writer) error {
	if q.device == "" {
		return nil
	}
	counts, fallback, err := q.s.Devices.OneTimeKeyCounts(ctx, q.user.id, q.device)
	if err != nil {
		return err
	}
	w.key("device_one_time_keys_count")
	w.open('{')
	for algorithm, n := range counts {
		w.key(algorithm)
		w.b = strconv.AppendInt(w.b, int64(n), 10)
	}
	w.close('}')
	w.key("device_unused_fallback_key_types")
	w.b = matrix.AppendStrings(w.b, fallback)
	return nil
}

func membershipOf(content json.RawMessage) string {
	membership, _ := matrix.LookupString(content, "membership")
	return membership
}
