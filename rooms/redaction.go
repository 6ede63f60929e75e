package rooms

import (
	"context"

	"lyceum/matrix"
	"lyceum/platform/owned"
)

// redact finds what e redacts and redacts it, when the sender may.
func (r *Rooms) redact(c *owned.Change[room], e *Event, known *knownEvents) error {
	rm := c.State()
	target, err := known.get(r, c, e.Redacts)
	if err != nil {
		return err
	}
	if target == nil || target.RoomID != rm.id {
		return matrix.NotFound("The event to redact is not in this room")
	}
	if err := rm.Power().MayRedact(e.Sender, target.Event); err != nil {
		return matrix.Forbidden("You are not allowed to redact this event: " + denied(err)).With(err)
	}
	if !target.stored() { // its signature may not be there yet
		return c.Need(func(ctx context.Context) (func(*room), error) {
			_ = target.ticket.Wait(ctx) // how it ended is seen in the room
			return nil, ctx.Err()
		})
	}
	e.redact = target.redacted(e.ID)
	return nil
}

// redacted is the event as a redaction leaves it.
func (e *Event) redacted(by string) *Event {
	return &Event{
		Event: e.Redacted(), Shard: e.Shard, Pos: e.Pos, Device: e.Device, Txn: e.Txn, Root: e.Root,
		Replaces: e.Replaces, PrevContent: e.PrevContent, PrevSender: e.PrevSender, PrevPos: e.PrevPos, RedactedBy: by, ticket: e.ticket,
	}
}
