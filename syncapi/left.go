package syncapi

import (
	"cmp"
	"context"
	"maps"
	"slices"

	"lyceum/matrix/event"
	"lyceum/rooms"
)

// leftRoom writes the section of a room that the user left since.
func (q *query) leftRoom(ctx context.Context, w *writer, roomID string, p *place) error {
	shard := q.s.Rooms.Stream().Shard(roomID)
	since := q.since[eventsAt+shard]
	p, err := q.beforeIgnored(ctx, p, since)
	if err != nil || p == nil {
		return err
	}
	end, last, err := q.ended(ctx, p, since)
	if err != nil {
		return err
	}
	limit := q.filter.timelineLimit()
	further := last != nil && last != end // a ban after a leave, or an invite that is no more
	shown := further && q.shows(last)
	give, gap := shown && limit > 0, false
	var before *rooms.Event // with which the user's time as a member ended, if the client was told only that he was invited since
	if further {
		span := span{roomID: roomID, shard: shard, after: since, upto: last.Pos - 1}
		if gap, before, err = q.gap(ctx, span, end, last); err != nil {
			return err
		}
	}
	switch {
	case gap:
		limit = 0 // of what is before
	case give:
		limit--
	}
	sec := section{timeline: &timeline{prev: p.pos}}
	if end != nil { // the user was a member: up to then
		ask := want{span: span{roomID: roomID, shard: shard, after: since, upto: end.Pos, limit: limit, see: true}, fresh: q.initial}
		if !q.initial {
			was, _, err := q.joinedAt(ctx, roomID, p, since)
			if err != nil {
				return err
			}
			ask.fresh = !was
		}
		if sec, err = q.section(ctx, ask); err != nil {
			return err
		}
	}
	if before != nil { // the client may have any part of the state
		ask := want{span: span{roomID: roomID, shard: shard, after: since, upto: before.Pos}, fresh: true}
		if sec, err = q.section(ctx, ask); err != nil {
			return err
		}
	}
	if further && len(sec.events) == 0 {
		sec.prev = last.Pos
	}
	if give {
		if len(sec.events) == 0 {
			sec.prev--
		}
		own := timeline{all: []*rooms.Event{last}}
		if _, err := q.fit(ctx, span{roomID: roomID}, &own, []int{0}, 1); err != nil {
			return err
		}
		if sec.extras == nil {
			sec.extras = own.extras
		} else {
			maps.Copy(sec.extras, own.extras)
		}
		sec.events = append(sec.events, last)
		sec.sights = append(sec.sights, rooms.Visibility{Visible: true, Membership: p.membership})
	}
	sec.limited = sec.limited || gap || shown && !give
	sec.who = rooms.Audience{UserID: q.user.id, RoomID: roomID}
	if until := cmp.Or(end, before); until != nil {
		sec.who.Until = until.Pos
	}
	w.key(roomID)
	w.open('{')
	if err := q.writeSection(ctx, w, sec); err != nil {
		return err
	}
	w.data(q.roomData[roomID])
	w.close('}')
	return nil
}

// beforeIgnored is how the user left a room where somebody ignored has invited the user since, nil when that was not after a
// position. Where there is no such invite it is p.
func (q *query) beforeIgnored(ctx context.Context, p *place, after int64) (*place, error) {
	for p.membership == event.MembershipInvite {
		e, err := q.s.Rooms.Event(ctx, p.eventID)
		if err != nil || e == nil || e.Replaces == "" {
			return nil, err
		}
		if e, err = q.s.Rooms.Event(ctx, e.Replaces); err != nil || e == nil || e.Pos <= after {
			return nil, err
		}
		p = &place{membership: e.Membership(), eventID: e.ID, sender: e.Sender, pos: e.Pos}
	}
	if p.membership != event.MembershipLeave && p.membership != event.MembershipBan {
		return nil, nil
	}
	return p, nil
}

// ended finds the event after a position with which the user's time as a member ended, nil when there is
// none, and the newest membership event.
func (q *query) ended(ctx context.Context, p *place, after int64) (end, last *rooms.Event, err error) {
	for id := p.eventID; id != ""; {
		e, err := q.s.Rooms.Event(ctx, id)
		if err != nil || e == nil || e.Pos <= after {
			return nil, last, err
		}
		if last == nil {
			last = e
		}
		if membershipOf(e.PrevContent) == event.MembershipJoin {
			return e, last, nil
		}
		id = e.Replaces
	}
	return nil, last, nil
}

// gap tells whether, in a span that ends before the newest membership event, there may be events that the user may see and
// that the client was not given. While the user is invited or knocks, a room is given without them, and how much of it the
// client got before can not be told from the token; nor how much of the state before the event with which the user's time as
// a member ended.
func (q *query) gap(ctx context.Context, sp span, end, last *rooms.Event) (is bool, before *rooms.Event, err error) {
	if end != nil {
		sp.after = end.Pos
	} else if sp.after, is, before, err = q.untold(ctx, sp.after, last); err != nil || is {
		return is, before, err
	}
	if sp.after >= sp.upto {
		return false, nil, nil
	}
	list, complete, err := q.newest(ctx, sp, defaultTimeline)
	if err != nil {
		return false, nil, err
	}
	list = slices.DeleteFunc(list, func(e *rooms.Event) bool { return !q.shows(e) })
	if complete && len(list) == 0 {
		return false, nil, nil
	}
	visible, err := q.s.Rooms.CanSee(ctx, q.user.id, sp.roomID, list)
	return !complete || slices.Contains(visible, true), nil, err
}

// untold finds, for one who was no member since the token, the position after which the client was given nothing. That is
// not known (gap) when the user was invited or knocked at the token and had been a member before, until the event before.
func (q *query) untold(ctx context.Context, since int64, last *rooms.Event) (after int64, gap bool, before *rooms.Event, err error) {
	e, waited := last, false
	for range mostMoves {
		if e.Pos <= since {
			if m := e.Membership(); !waited && m != event.MembershipInvite && m != event.MembershipKnock {
				return since, false, nil, nil // the leave was given
			}
			waited = true
		}
		if membershipOf(e.PrevContent) == event.MembershipJoin {
			return 0, true, e, nil
		}
		if e.Replaces == "" {
			return last.Pos, false, nil, nil // never a member, to whom no timeline is due
		}
		if e, err = q.s.Rooms.Event(ctx, e.Replaces); err != nil || e == nil {
			return 0, true, nil, err
		}
	}
	return 0, true, nil, nil
}

// mostMoves is how many membership events untold reads.
const mostMoves = 50
