package rooms

import (
	"context"
	"io"
)

// WriteState writes the state of a room as a user gets it, a JSON array: the newest, or that of the user's leave. It holds a
// part of it in memory at a time. Error: M_FORBIDDEN, before anything is written.
func (r *Rooms) WriteState(ctx context.Context, w io.Writer, userID, roomID string) error {
	v, err := r.findRoomView(ctx, userID, roomID)
	if err != nil {
		return err
	}
	a, who := newArray(w, "["), v.audience(v.root, false)
	err = r.eachState(ctx, v.root, nil, func(events []*Event) error { return r.writeState(ctx, a, who, events) })
	return a.end(err, "]")
}

// writeState adds state events to an array, as VisibleState shows them.
func (r *Rooms) writeState(ctx context.Context, a *arrayWriter, who *Audience, events []*Event) error {
	shown, err := r.VisibleState(ctx, who, events)
	if err != nil {
		return err
	}
	for _, e := range shown {
		a.b = e.AppendClient(a.next(), ClientOptions{RoomID: true})
		if len(a.b) >= arrayBytes {
			if err := a.flush(); err != nil {
				return err
			}
		}
	}
	return a.flush()
}
