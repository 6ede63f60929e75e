package rooms

import (
	"context"
	"io"
)

// WriteState writes the state of a room as a user gets it, a JSON array: the newest, or that of the user's leave. It holds a
// part of it in memory at a time. Error: M_FORBIDDEN, before anything is written.
func (r *Rooms) WriteState(ctx context.Context, w io.Writer, userID, roomID string) error {
	v, err := r.roomView(ctx, userID, roomID)
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

// arrayBytes is how much of an array is written at once, about: what waits for a client is held twice, as events and as text.
const arrayBytes = 64 << 10

// arrayWriter writes the members of a JSON array or object part by part.
type arrayWriter struct {
	w     io.Writer
	b     []byte // what is not written yet
	comma bool
}

func newArray(w io.Writer, begin string) *arrayWriter { return &arrayWriter{w: w, b: []byte(begin)} }

// next gives what the next member is appended to.
func (a *arrayWriter) next() []byte {
	if a.comma {
		a.b = append(a.b, ',')
	}
	a.comma = true
	return a.b
}

func (a *arrayWriter) flush() error {
	_, err := a.w.Write(a.b)
	a.b = a.b[:0]
	return err
}

// end writes the end, unless there was an error.
func (a *arrayWriter) end(err error, end string) error {
	if err != nil {
		return err
	}
	a.b = append(a.b, end...)
	return a.flush()
}
