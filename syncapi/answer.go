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

// query is what a request asks for, and what its answer is made with.
type query struct {
	s                 *Sync
	user              *user
	device            string // id; empty for guests and others without one
	transactionSender string // the device as the transaction ids of its events name it
	setPresence       string // the parameter set_presence
	filter            *filter
	origin
	fullState  bool
	stateAfter bool

	alreadySent sentMembers  // memberships that the device has, of lazy-loading members
	request     *web.Request // is charged for a large answer; nil in tests

	*scratch
}

// scratch is the memory that is used while an answer is built. A request that waits has none.
type scratch struct {
	snapshot
	upto       vector // the positions up to which the answer goes
	ignored    map[string]bool
	roomData   map[string][]accounts.AccountDatum // new account data of rooms
	global     []accounts.AccountDatum
	allInvites bool         // invites that are older than the token are in the answer too, as the list of ignored users changed
	sentNow    []sentMember // memberships in the answer
	bytesLeft  int          // that the events of timelines may still take
	largeSince time.Time    // since when the query has a large slot; zero while it has none
	work       *caller.Work // of the caller that has the slot; nil when there is no caller
	packed     any          // a large answer that is ready to be sent
	out        io.Writer    // takes an answer that is sent while it is built; nil for others
}

var scratchPool = sync.Pool{New: func() any { return &scratch{} }}

// scratchKept is for how many rooms, or memberships, scratch memory that goes back to the pool has capacity at most.
const scratchKept = 256

// release gives scratch memory back to the pool. The next answer uses its lists again.
func (s *scratch) release() {
	candidates, sentNow := s.candidates[:0], s.sentNow[:0]
	if cap(candidates) > scratchKept {
		candidates = nil
	}
	if cap(sentNow) > scratchKept {
		sentNow = nil
	}
	clear(candidates[:cap(candidates)])
	*s = scratch{snapshot: snapshot{candidates: candidates}, sentNow: sentNow}
	scratchPool.Put(s)
}

// discard drops what was read for an answer that is built later, so that requests that wait hold nothing.
func (s *scratch) discard() {
	s.roomData, s.global, s.ignored, s.sentNow = nil, nil, nil, s.sentNow[:0]
}

// writeAnswer writes what is new between since and upto; empty is true when nothing is. The user's own presence is written but is no reason
// to answer, as the request itself may have changed it.
func (q *query) writeAnswer(ctx context.Context, w *writer) (empty bool, err error) {
	if q.ignored, err = q.s.Accounts.Ignored(ctx, q.user.id); err != nil {
		return false, err
	}
	if err := q.readAccountData(ctx); err != nil {
		return false, err
	}
	messages, err := q.toDevice(ctx)
	if err != nil {
		return false, err
	}
	if err := q.chargeBytes(ctx, bytesOfData(q.global)+bytesOf(messages)); err != nil {
		return false, err
	}
	q.sentNow, q.bytesLeft = q.sentNow[:0], answerBytes
	w.open('{')
	w.key("next_batch")
	w.b = append(q.s.layout.Append(append(w.b, '"'), q.s.Process.LogEpoch(), q.upto[:], q.carried), '"')
	head := w.size()
	rooms := w.beginObject("rooms")
	if err := q.writeRooms(ctx, w); err != nil {
		return false, err
	}
	w.endObject(rooms)
	lists, err := q.readDeviceLists(ctx)
	if err != nil {
		return false, err
	}
	before := w.size()
	onlyOwn, err := q.writePresence(ctx, w, lists.nowSharing)
	if err != nil {
		return false, err
	}
	if onlyOwn && before == head {
		head = w.size()
	}
	if len(q.global) > 0 {
		w.accountData(q.global)
	}
	if len(messages) > 0 {
		w.events("to_device", messages)
	}
	lists.write(w)
	empty = w.size() == head
	if err := q.writeKeyCounts(ctx, w); err != nil {
		return false, err
	}
	w.close('}')
	return empty, nil
}

// writeRooms writes the sections of "rooms".
func (q *query) writeRooms(ctx context.Context, w *writer) error {
	if len(q.candidates) == 0 {
		return nil
	}
	forgotten, err := q.forgottenRooms(ctx)
	if err != nil {
		return err
	}
	for _, section := range roomSections {
		object := w.beginObject(section.name)
		for _, c := range q.candidates {
			if !q.isInSection(c, section.name, forgotten) {
				continue
			}
			var err error
			switch section.name {
			case "join":
				err = q.joinedRoom(ctx, w, c)
			case "leave":
				err = q.leftRoom(ctx, w, c)
			default:
				err = q.strippedRoom(ctx, w, c, section.state)
			}
			if err == nil {
				err = q.flushIfLarge(ctx, w)
			}
			if err != nil {
				return err
			}
		}
		w.endObject(object)
	}
	return nil
}

// roomSections are the sections of "rooms", with the name of the state in those that have nothing else.
var roomSections = [...]struct{ name, state string }{{"join", ""}, {"invite", "invite_state"}, {"knock", "knock_state"}, {"leave", ""}}

// isInSection reports whether a room is in a section of "rooms", provided that it has news.
func (q *query) isInSection(c candidateRoom, section string, forgotten map[string]bool) (is bool) {
	switch c.membership {
	case event.MembershipJoin:
		is = section == "join"
	case event.MembershipInvite, event.MembershipKnock:
		if q.ignored[c.sender] {
			is = section == "leave" && !q.initial && q.isNew(c)
		} else {
			is = section == c.membership && (q.initial || q.fullState || q.allInvites || q.isNew(c))
		}
	case event.MembershipLeave, event.MembershipBan:
		is = section == "leave" &&
			(!q.initial && !(q.eventsFromStart && c.forgotten) && q.isNew(c) || forgotten != nil && !forgotten[c.room])
	}
	return is && q.filter.Room.room(c.room)
}

// isNew reports whether the membership is newer than the token.
func (q *query) isNew(c candidateRoom) bool {
	return c.pos > q.since[eventsAt+q.s.Rooms.Stream().Shard(c.room)]
}

// forgottenRooms returns which of the user's rooms are forgotten, by room id, when the request asks for rooms that were left before the
// token; else nil. Forgetting a room appends to no stream, so it is read from the database.
func (q *query) forgottenRooms(ctx context.Context) (map[string]bool, error) {
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

// readAccountData reads the account data that is new.
func (q *query) readAccountData(ctx context.Context) error {
	var list []accounts.AccountDatum
	var err error
	if q.initial {
		list, err = q.s.Accounts.AllAccountData(ctx, q.user.id)
	} else if q.since[accountDataAt] < q.upto[accountDataAt] {
		list, err = q.s.Accounts.AccountDataSince(ctx, q.user.id, q.since[accountDataAt], q.upto[accountDataAt])
	}
	if err != nil {
		return err
	}
	q.roomData, q.global, q.allInvites = nil, nil, false
	for _, d := range list {
		q.allInvites = q.allInvites || d.RoomID == "" && d.Type == ignoredUsers
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
	if (q.initial || changed) && q.filter.AccountData.MatchType(pushRules) {
		rules, err := q.s.Push.Ruleset(ctx, q.user.id)
		if err != nil {
			return err
		}
		q.global = append(q.global, accounts.AccountDatum{Type: pushRules, Content: rules})
	}
	return nil
}

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
	pushRules    = "m.push_rules" // account data that is stored as differences and sent as a whole
	ignoredUsers = "m.ignored_user_list"
)

const (
	// toDeviceLimit is how many messages for a device are in an answer at most.
	toDeviceLimit = 100
	// The events of timelines take at most so many bytes, in a room and in the whole answer. Then timelines are limited, but each room
	// has its newest event.
	timelineBytes = 1 << 20
	answerBytes   = 8 << 20
)

// toDevice reads the messages for the device, the oldest first. When there are more than toDeviceLimit, the answer ends at the last one
// in this stream, so that the next request brings the rest.
func (q *query) toDevice(ctx context.Context) (list []json.RawMessage, err error) {
	if q.device == "" {
		return nil, nil
	}
	list, last, err := q.s.Devices.ToDevice(ctx, q.user.id, q.device, devices.MessageRange{
		After: q.since[toDeviceAt], Upto: q.upto[toDeviceAt], Limit: toDeviceLimit,
	})
	if len(list) > 0 {
		q.upto[toDeviceAt] = last
	}
	return list, err
}

// writeKeyCounts writes how many one-time keys of the device the server has, and which fallback keys are unused.
func (q *query) writeKeyCounts(ctx context.Context, w *writer) error {
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
