package syncapi

import (
	"context"
)

// strippedRoom writes the section of a room that the user is invited to or knocks at: its stripped state under the given name.
func (q *query) strippedRoom(ctx context.Context, w *writer, c candidateRoom, name string) error {
	root, err := q.rootAt(ctx, c.room, c.pos)
	if err != nil {
		return err
	}
	members := []string{q.user.id}
	if c.sender != q.user.id {
		members = append(members, c.sender)
	}
	events, err := q.s.Rooms.StrippedState(ctx, root, members...)
	if err != nil {
		return err
	}
	w.key(c.room)
	w.open('{')
	w.events(name, events)
	w.close('}')
	return nil
}
