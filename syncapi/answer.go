package syncapi

import (
	"context"
	"encoding/json"
	"io"
	"slices"
	"strconv"
	"sync"
	"time"

	"lyceum/accounts"
	"lyceum/devices"
	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/platform/caller"
	"lyceum/platform/web"
)

// query is one request for news.
type query struct {
	s      *Sync
	user   *user
	device string
	sender string // the device as transactions know it
	state  string // of the device: set_presence
	filter *filter
	origin
	fullState  bool
	stateAfter bool

	has     memberships  // that the device has been given
	request *web.Request // what becomes of a large answer

	*view
}

// view is what belongs to the making of one answer. A request that waits has none.
type view struct {
	moment
	now      vector // how far the answer goes
	ignored  map[string]bool
	roomData map[string][]accounts.AccountDatum // account data of rooms that is new
	global   []accounts.AccountDatum
	invites  bool         // those of before the token are given too: the user ignores others now
	gives    []given      // memberships in the answer
	left     int          // bytes that events of timelines may still take
	heavy    time.Time    // since when it has a place for a large answer; zero while it has none
	work     *caller.Work // which has it; nil when there is no caller
	packed   any          // a large answer, ready to be sent
	out      io.Writer    // takes an answer that is sent as it is built; nil for others
}

var views = sync.Pool{New: func() any { return &view{} }}

// viewKept is how many rooms, or memberships given, a view has room for when it is kept for the next answer.
const viewKept = 256

// release gives a view back. The next answer uses its lists again.
func (v *view) release() {
	places, gives := v.places[:0], v.gives[:0]
	if cap(places) > viewKept {
		places = nil
	}
	if cap(gives) > viewKept {
		gives = nil
	}
	clear(places[:cap(places)])
	*v = view{moment: moment{places: places}, gives: gives}
	views.Put(v)
}

// answer writes what is new between since and now; empty is true when that is nothing. The user's own presence is given and is
// no reason to answer: the request itself may have changed it.
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
	if err := q.weigh(ctx, bytesOfData(q.global)+bytesOf(messages)); err != nil {
		return false, err
	}
	q.gives, q.left = q.gives[:0], answerBytes
	w.open('{')
	w.key("next_batch")
	w.b = append(q.s.layout.Append(append(w.b, '"'), q.s.Process.LogEpoch(), q.now[:], q.carried), '"')
	head := w.size()
	rooms := w.begin("rooms")
	if err := q.rooms(ctx, w); err != nil {
		return false, err
	}
	w.end(rooms)
	people, err := q.people(ctx)
	if err != nil {
		return false, err
	}
	before := w.size()
	own, err := q.presence(ctx, w, people.came)
	if err != nil {
		return false, err
	}
	if own && before == head {
		head = w.size()
	}
	if len(q.global) > 0 {
		w.data(q.global)
	}
	if len(messages) > 0 {
		w.raws("to_device", messages)
	}
	people.write(w)
	empty = w.size() == head
	if err := q.keyCounts(ctx, w); err != nil {
		return false, err
	}
	w.close('}')
	return empty, nil
}

func (q *query) rooms(ctx context.Context, w *writer) error {
	if len(q.places) == 0 {
		return nil
	}
	forgotten, err := q.forgotten(ctx)
	if err != nil {
		return err
	}
	for _, part := range roomSections {
		at := w.begin(part.name)
		for _, in := range q.places {
			if !q.belongs(in, part.name, forgotten) {
				continue
			}
			var err error
			switch part.name {
			case "join":
				err = q.joinedRoom(ctx, w, in.room, in.place)
			case "leave":
				err = q.leftRoom(ctx, w, in.room, in.place)
			default:
				err = q.strippedRoom(ctx, w, in.room, in.place, part.state)
			}
			if err == nil {
				err = q.grew(ctx, w)
			}
			if err != nil {
				return err
			}
		}
		w.end(at)
	}
	return nil
}

// roomSections are the parts of "rooms", and what the state of a room is called in those that give only that.
var roomSections = [...]struct{ name, state string }{{"join", ""}, {"invite", "invite_state"}, {"knock", "knock_state"}, {"leave", ""}}

// belongs tells whether a room stands in a part of "rooms", if it has news.
func (q *query) belongs(in placeIn, section string, forgotten map[string]bool) (is bool) {
	switch in.membership {
	case event.MembershipJoin:
		is = section == "join"
	case event.MembershipInvite, event.MembershipKnock:
		if q.ignored[in.sender] {
			is = section == "leave" && !q.initial && q.isNew(in.room, in.place)
		} else {
			is = section == in.membership && (q.initial || q.fullState || q.invites || q.isNew(in.room, in.place))
		}
	case event.MembershipLeave, event.MembershipBan:
		is = section == "leave" &&
			(!q.initial && !(q.anew && in.forgotten) && q.isNew(in.room, in.place) || forgotten != nil && !forgotten[in.room])
	}
	return is && q.filter.Room.room(in.room)
}

// isNew tells that a membership came since.
func (q *query) isNew(roomID string, p *place) bool {
	return p.pos > q.since[eventsAt+q.s.Rooms.Stream().Shard(roomID)]
}

// forgotten gives the rooms that the user has forgotten, when those left long ago are asked for; else nil.
// Forgetting is no news in any stream, so it is read.
func (q *query) forgotten(ctx context.Context) (map[string]bool, error) {
	if !q.filter.Room.IncludeLeave || !q.initial && !q.fullState {
		return nil, nil
	}
	list, err := q.s.Rooms.Memberships(ctx, q.user.id)
	if err != nil {
		return nil, err
	}
	out := map[string]bool{}
	for _, m := range list {
		out[m.RoomID] = m.Forgotten
	}
	return out, nil
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
	q.roomData, q.global, q.invites = nil, nil, false
	for _, d := range list {
		q.invites = q.invites || d.RoomID == "" && d.Type == ignoredUsers
		f := &q.filter.AccountData
		if d.RoomID != "" {
			f = &q.filter.Room.AccountData
		}
		if !f.passes(d.Type, "", d.RoomID) || d.RoomID == "" && d.Type == pushRules {
			continue
		}
		if d.RoomID == "" {
			q.global = append(q.global, d)
		} else {
			if q.roomData == nil {
				q.roomData = map[string][]accounts.AccountDatum{}
			}
			q.roomData[d.RoomID] = append(q.roomData[d.RoomID], d)
		}
	}
	changed := slices.ContainsFunc(list, func(d accounts.AccountDatum) bool { return d.RoomID == "" && d.Type == pushRules })
	if (q.initial || changed) && q.filter.AccountData.typed(pushRules) {
		rules, err := q.s.Push.Ruleset(ctx, q.user.id)
		if err != nil {
			return err
		}
		q.global = append(q.global, accounts.AccountDatum{Type: pushRules, Content: rules})
	}
	return nil
}

// forget drops what was read for an answer that is to be made later: who waits holds nothing.
func (v *view) forget() { v.roomData, v.global, v.ignored, v.gives = nil, nil, nil, v.gives[:0] }

// allRoomData reads the account data of a room that is new to the client.
func (q *query) allRoomData(ctx context.Context, roomID string) (out []accounts.AccountDatum, err error) {
	list, err := q.s.Accounts.AllAccountData(ctx, q.user.id)
	for _, d := range list {
		if d.RoomID == roomID && q.filter.Room.AccountData.passes(d.Type, "", roomID) {
			out = append(out, d)
		}
	}
	return out, err
}

const (
	pushRules    = "m.push_rules" // account data that is stored as differences and sent whole
	ignoredUsers = "m.ignored_user_list"
)

const (
	toDeviceLimit = 100
	// The events of timelines take at most so many bytes, in a room and in the whole answer; then timelines are
	// limited, but each room gives its newest event.
	timelineBytes = 1 << 20
	answerBytes   = 8 << 20
)

// toDevice reads the messages for the device, the oldest first. When there are more, the answer ends at
// the last one for this stream, so that the next request brings the rest.
func (q *query) toDevice(ctx context.Context) (list []json.RawMessage, err error) {
	if q.device == "" {
		return nil, nil
	}
	list, last, err := q.s.Devices.ToDevice(ctx, q.user.id, q.device, devices.MessageRange{
		After: q.since[toDeviceAt], Upto: q.now[toDeviceAt], Limit: toDeviceLimit,
	})
	if len(list) > 0 {
		q.now[toDeviceAt] = last
	}
	return list, err
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

func bytesOf(list []json.RawMessage) (n int) {
	for _, raw := range list {
		n += len(raw)
	}
	return n
}

func bytesOfData(list []accounts.AccountDatum) (n int) {
	for _, d := range list {
		n += len(d.Type) + len(d.Content)
	}
	return n
}

func membershipOf(content json.RawMessage) string {
	membership, _ := matrix.LookupString(content, "membership")
	return membership
}
