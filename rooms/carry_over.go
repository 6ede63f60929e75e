package rooms

import (
	"context"

	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/rooms/settings"
	"lyceum/rooms/state"
)

// predecessor is the room that a new one says it replaces; "" for none.
func predecessor(create *event.Event) string {
	id, _ := matrix.LookupString(matrix.Lookup(create.Content, "predecessor"), "room_id")
	return id
}

// replacementOf is the room that a tombstone names.
func replacementOf(tombstone *event.Event) string {
	id, _ := matrix.LookupString(tombstone.Content, "replacement_room")
	return id
}

// carryOverFrom carries over what a user, who joins a room, has set for the room before it. Anybody may make a room that says it
// replaces another: only what the other one says too counts.
func (r *Rooms) carryOverFrom(ctx context.Context, userID string, h Head) error {
	key := state.Key{Type: event.TypeCreate}
	found, err := r.StateEvents(ctx, h.Root, key)
	if err != nil || found[key] == nil {
		return err
	}
	before := predecessor(found[key].Event)
	if before == "" {
		return nil
	}
	old, ok, err := r.Head(ctx, before)
	if err != nil || !ok {
		return err
	}
	key = state.Key{Type: event.TypeTombstone}
	if found, err = r.StateEvents(ctx, old.Root, key); err != nil || found[key] == nil || replacementOf(found[key].Event) != h.RoomID {
		return err
	}
	return r.carryOver(ctx, userID, before, h.RoomID)
}

// carryOver copies what a user of this server has set for a room to another one, if the user knows both.
func (r *Rooms) carryOver(ctx context.Context, userID, from, to string) error {
	if !r.Accounts.Local(userID) || from == to {
		return nil
	}
	m, err := r.Membership(ctx, userID, from)
	if err != nil || m.RoomID == "" || m.Forgotten {
		return err
	}
	return settings.Copy(ctx, r.Accounts, userID, from, to)
}
