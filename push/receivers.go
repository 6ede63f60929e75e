package push

import (
	"context"

	"lyceum/matrix/event"
	"lyceum/rooms"
)

// receiver is a member of a room who has pushers.
type receiver struct {
	member   rooms.Membership
	pushers  []*pusher
	joinedAt int64 // the position at which the member joined, 0 when it was not read yet; guarded by senderState.mu
}

// receiversOf returns the members of a room who have pushers, from the cache if it has them.
func (p *Push) receiversOf(ctx context.Context, roomID string) ([]*receiver, error) {
	w := &p.sender
	w.mu.Lock()
	known, ok := w.receivers[roomID]
	gen := w.generation
	w.mu.Unlock()
	if ok && p.Now().Before(known.until) {
		return known.list, nil
	}
	list, err := p.readReceivers(ctx, roomID)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.generation == gen {
		if len(w.receivers) >= maxRooms {
			clear(w.receivers)
		}
		w.receivers[roomID] = cachedReceivers{list, p.Now().Add(receiversFor)}
	}
	return list, nil
}

func (p *Push) readReceivers(ctx context.Context, roomID string) ([]*receiver, error) {
	members, err := p.Rooms.Members(ctx, roomID, event.MembershipJoin)
	if err != nil {
		return nil, err
	}
	ids := make([]string, len(members))
	for i, m := range members {
		ids[i] = m.UserID
	}
	all, err := p.queryPushers(ctx, `user_id = ANY($1)`, ids)
	if err != nil {
		return nil, err
	}
	of := map[string][]*pusher{}
	for _, x := range all {
		of[x.UserID] = append(of[x.UserID], x)
	}
	var list []*receiver
	for _, m := range members {
		if len(of[m.UserID]) > 0 {
			list = append(list, &receiver{member: m, pushers: of[m.UserID]})
		}
	}
	return list, nil
}

// wasMemberAt reports whether a receiver was a member when an event was sent. Receivers are the members of now, and a user who joined
// after an event is not notified of it. A membership event after the event does not say that the user joined after it: only the display
// name may have changed.
func (p *Push) wasMemberAt(ctx context.Context, r *receiver, e *rooms.Event) (bool, error) {
	if r.member.Pos <= e.Pos {
		return true, nil
	}
	w := &p.sender
	w.mu.Lock()
	since := r.joinedAt
	w.mu.Unlock()
	if since == 0 {
		var err error
		if since, err = p.Rooms.JoinedAt(ctx, r.member); err != nil {
			return false, err
		}
		w.mu.Lock()
		r.joinedAt = since
		w.mu.Unlock()
	}
	return since <= e.Pos, nil
}

// invited returns the user whom an event invites, unless the invite was taken back, rejected or accepted since.
func (p *Push) invited(ctx context.Context, e *rooms.Event) ([]*receiver, error) {
	if e.Membership() != event.MembershipInvite || e.StateKey == nil {
		return nil, nil
	}
	m, err := p.Rooms.Membership(ctx, *e.StateKey, e.RoomID)
	if err != nil || m.EventID != e.ID {
		return nil, err
	}
	list, err := p.queryPushers(ctx, `user_id = $1`, m.UserID)
	return []*receiver{{member: m, pushers: list}}, err
}
