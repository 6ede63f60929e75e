package syncapi

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"lyceum/matrix/event"
	"lyceum/rooms"
)

// departure is how a user left a room after a token.
type departure struct {
	candidateRoom              // with the membership by which the user left
	since         int64        // position of the token in the room's shard
	end           *rooms.Event // by which the user's time as a member ended; nil when the user was not a member after the token
	last          *rooms.Event // the newest membership event; nil when it is not after the token
	gap           bool         // the user may see events before last that the client was not given
	// before is the event by which the user's time as a member ended before the token, when the client was told only of an invite or
	// a knock since: the client may have any part of the state before it.
	before *rooms.Event
}

// isFurther reports whether there is a membership event after the end: a ban after a leave, or an invite that was taken back.
func (d *departure) isFurther() bool { return d.last != nil && d.last != d.end }

// leftRoom writes the section of a room that the user left after the token.
func (q *query) leftRoom(ctx context.Context, w *writer, c candidateRoom) error {
	d, left, err := q.departure(ctx, c)
	if err != nil || !left {
		return err
	}
	limit := q.filter.timelineLimit()
	shown := d.isFurther() && q.wantsInTimeline(d.last)
	appends := shown && limit > 0
	switch {
	case d.gap:
		limit = 0 // for the events before last
	case appends:
		limit--
	}
	sec, err := q.departedSection(ctx, &d, limit)
	if err != nil {
		return err
	}
	if appends {
		if err := q.appendDeparture(ctx, &sec, &d); err != nil {
			return err
		}
	}
	sec.limited = sec.limited || d.gap || shown && !appends
	sec.audience = rooms.Audience{UserID: q.user.id, RoomID: c.room}
	if until := cmp.Or(d.end, d.before); until != nil {
		sec.audience.Until = until.Pos
	}
	w.key(c.room)
	w.open('{')
	if err := q.writeSection(ctx, w, sec); err != nil {
		return err
	}
	w.accountData(q.roomData[c.room])
	w.close('}')
	return nil
}

// departure reads how the user left a room; not left when that was not after the token.
func (q *query) departure(ctx context.Context, c candidateRoom) (d departure, left bool, err error) {
	shard := q.s.Rooms.Stream().Shard(c.room)
	d = departure{candidateRoom: c, since: q.since[eventsAt+shard]}
	if d.roomMembership, err = q.membershipBeforeIgnoredInvite(ctx, c.roomMembership, d.since); err != nil || d.roomMembership == nil {
		return d, false, err
	}
	if d.end, d.last, err = q.membershipEnd(ctx, d.roomMembership, d.since); err != nil {
		return d, false, err
	}
	if d.isFurther() {
		r := eventRange{roomID: c.room, shard: shard, after: d.since, upto: d.last.Pos - 1}
		d.gap, d.before, err = q.hasGap(ctx, r, d.end, d.last)
	}
	return d, true, err
}

// departedSection reads the events up to the end of the user's time as a member.
func (q *query) departedSection(ctx context.Context, d *departure, limit int) (section, error) {
	shard := q.s.Rooms.Stream().Shard(d.room)
	sec := section{timeline: &timeline{prev: d.pos}}
	if d.end != nil {
		req := sectionRequest{
			eventRange: eventRange{roomID: d.room, shard: shard, after: d.since, upto: d.end.Pos, limit: limit, checkVisibility: true},
			fresh:      q.initial,
		}
		if !q.initial {
			was, _, err := q.joinedAt(ctx, d.candidateRoom, d.since)
			if err != nil {
				return sec, err
			}
			req.fresh = !was
		}
		var err error
		if sec, err = q.section(ctx, req); err != nil {
			return sec, err
		}
	}
	if d.before != nil {
		req := sectionRequest{eventRange: eventRange{roomID: d.room, shard: shard, after: d.since, upto: d.before.Pos}, fresh: true}
		var err error
		if sec, err = q.section(ctx, req); err != nil {
			return sec, err
		}
	}
	if d.isFurther() && len(sec.events) == 0 {
		sec.prev = d.last.Pos
	}
	return sec, nil
}

// appendDeparture appends the newest membership event to the timeline.
func (q *query) appendDeparture(ctx context.Context, sec *section, d *departure) error {
	if len(sec.events) == 0 {
		sec.prev--
	}
	own := timeline{all: []*rooms.Event{d.last}}
	if _, err := q.readExtras(ctx, eventRange{roomID: d.room}, &own, []int{0}, 1); err != nil {
		return err
	}
	if sec.extras == nil {
		sec.extras = own.extras
	} else {
		maps.Copy(sec.extras, own.extras)
	}
	sec.events = append(sec.events, d.last)
	sec.visibility = append(sec.visibility, rooms.Visibility{Visible: true, Membership: d.membership})
	return nil
}

// membershipBeforeIgnoredInvite returns the membership by which the user left a room that an ignored user has invited the user to since;
// nil when the user did not leave after the given position. When there is no such invite it returns m.
func (q *query) membershipBeforeIgnoredInvite(ctx context.Context, m *roomMembership, after int64) (*roomMembership, error) {
	for m.membership == event.MembershipInvite {
		e, err := q.s.Rooms.Event(ctx, m.eventID)
		if err != nil || e == nil || e.Replaces == "" {
			return nil, err
		}
		if e, err = q.s.Rooms.Event(ctx, e.Replaces); err != nil || e == nil || e.Pos <= after {
			return nil, err
		}
		m = &roomMembership{membership: e.Membership(), eventID: e.ID, sender: e.Sender, pos: e.Pos}
	}
	if m.membership != event.MembershipLeave && m.membership != event.MembershipBan {
		return nil, nil
	}
	return m, nil
}

// membershipEnd finds the event after a position by which the user's time as a member ended, nil when there is none, and the newest
// membership event, nil when it is not after the position.
func (q *query) membershipEnd(ctx context.Context, m *roomMembership, after int64) (end, last *rooms.Event, err error) {
	for id := m.eventID; id != ""; {
		e, err := q.s.Rooms.Event(ctx, id)
		if err != nil || e == nil || e.Pos <= after {
			return nil, last, err
		}
		if last == nil {
			last = e
		}
		if e.PrevMembership() == event.MembershipJoin {
			return e, last, nil
		}
		id = e.Replaces
	}
	return nil, last, nil
}

// hasGap reports whether there may be events, in a range that ends before the newest membership event, that the user may see and that
// the client was not given. While the user is invited or knocks, the client gets a room without its events, so the token does not say
// how many of them it got before. Nor does it say how much the client has of the state before the event by which the user's time as a
// member ended: then that event is returned as before.
func (q *query) hasGap(ctx context.Context, r eventRange, end, last *rooms.Event) (is bool, before *rooms.Event, err error) {
	if end != nil {
		r.after = end.Pos
	} else if r.after, is, before, err = q.firstUnsent(ctx, r.after, last); err != nil || is {
		return is, before, err
	}
	if r.after >= r.upto {
		return false, nil, nil
	}
	list, complete, err := q.newestEvents(ctx, r, gapEvents)
	if err != nil {
		return false, nil, err
	}
	list = slices.DeleteFunc(list, func(e *rooms.Event) bool { return !q.wantsInTimeline(e) })
	if complete && len(list) == 0 {
		return false, nil, nil
	}
	visible, err := q.s.Rooms.CanSee(ctx, q.user.id, r.roomID, list)
	return !complete || slices.Contains(visible, true), nil, err
}

// firstUnsent finds the position after which the client was given no events, for a user who was not a member after the token. The
// position is not known (gap) when the user was invited or knocked at the token and had been a member before, until the event before.
func (q *query) firstUnsent(
	ctx context.Context, since int64, last *rooms.Event,
) (after int64, gap bool, before *rooms.Event, err error) {
	e, waited := last, false
	for range maxMembershipsRead {
		if e.Pos <= since {
			if m := e.Membership(); !waited && m != event.MembershipInvite && m != event.MembershipKnock {
				return since, false, nil, nil // the client was given the leave
			}
			waited = true
		}
		if e.PrevMembership() == event.MembershipJoin {
			return 0, true, e, nil
		}
		if e.Replaces == "" {
			return last.Pos, false, nil, nil // the user was never a member, so there is no timeline for them
		}
		if e, err = q.s.Rooms.Event(ctx, e.Replaces); err != nil || e == nil {
			return 0, true, nil, err
		}
	}
	return 0, true, nil, nil
}

// gapEvents is how many of the newest events hasGap looks at.
const gapEvents = 10

// maxMembershipsRead is how many membership events firstUnsent reads.
const maxMembershipsRead = 50
