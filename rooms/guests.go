package rooms

import (
	"context"
	"slices"

	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/rooms/state"
)

// letsGuestsIn tells what m.room.guest_access says; nil for none.
func letsGuestsIn(access *Event) bool {
	if access == nil {
		return false
	}
	value, _ := access.ContentString("guest_access")
	return value == "can_join"
}

// removeGuests makes the guests of this server leave a room that does not let them in.
func (r *Rooms) removeGuests(ctx context.Context, roomID string) error {
	h, ok, err := r.Head(ctx, roomID)
	if err != nil || !ok {
		return err
	}
	key := state.Key{Type: event.TypeGuestAccess}
	found, err := r.StateEvents(ctx, h.Root, key)
	if err != nil || letsGuestsIn(found[key]) {
		return err
	}
	members, err := r.Members(ctx, roomID, event.MembershipJoin)
	if err != nil {
		return err
	}
	for part := range slices.Chunk(members, nodesAtOnce) {
		ids := make([]string, len(part))
		for i, m := range part {
			ids[i] = m.UserID
		}
		guests, err := r.Accounts.GuestsAmong(ctx, ids)
		if err != nil {
			return err
		}
		err = forEachParallel(guests, func(userID string) error {
			_, err := r.setMembership(ctx, roomID, membershipRequest{
				Sender: userID, Target: userID, Membership: event.MembershipLeave, IfMembership: []string{event.MembershipJoin},
				Reason: "This room lets no guests in any more",
			})
			if matrix.IsRefusal(err) { // the guest left meanwhile
				return nil
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
