package rooms

import (
	"context"
	"fmt"

	"lyceum/matrix/event"
)

// Users who ended their account with "erase" are forgotten by those who come later: what they wrote is given
// redacted to readers who were no members when it was sent (Client-Server API, "Account deactivation"). Nothing
// is deleted, so those who were there keep what they have.

// hideErased marks the visibility of events whose text, or what they replaced, is of an erased user.
func (r *Rooms) hideErased(ctx context.Context, reader string, events []*Event, visibility []Visibility) error {
	var ask []string
	asked := map[string]bool{}
	foreign := func(i int) bool { return visibility[i].Visible && visibility[i].Membership != event.MembershipJoin }
	for i, e := range events {
		if !foreign(i) {
			continue
		}
		for _, user := range [...]string{e.Sender, e.PrevSender} {
			if user != "" && user != reader && !asked[user] {
				asked[user] = true
				ask = append(ask, user)
			}
		}
	}
	if len(ask) == 0 {
		return nil
	}
	erased, err := r.Accounts.Erased(ctx, ask)
	if err != nil || len(erased) == 0 {
		return err
	}
	for i, e := range events {
		if foreign(i) {
			visibility[i].Erased, visibility[i].PrevHidden = erased[e.Sender], visibility[i].PrevHidden || erased[e.PrevSender]
		}
	}
	return nil
}

// VisibleState gives state events as they are shown to a user. What they replaced is left out when the user may not see it, and
// when its sender was erased: it is no state of the room any more. In the state of a time at which the user was no member, what
// erased users set is redacted too. The state of now is the room's, whoever set it.
func (r *Rooms) VisibleState(ctx context.Context, a *Audience, events []*Event) ([]*Event, error) {
	hidden, err := r.hidePrevious(ctx, a, events)
	if err != nil {
		return nil, err
	}
	var ask []string
	asked := map[string]bool{}
	want := func(user string) {
		if user != "" && !asked[user] {
			asked[user] = true
			ask = append(ask, user)
		}
	}
	for _, e := range events {
		if e.PrevContent != nil && !hidden[e.ID] {
			want(e.PrevSender)
		}
		if a.Past {
			want(e.Sender)
		}
	}
	var erased map[string]bool
	if len(ask) > 0 {
		if erased, err = r.Accounts.Erased(ctx, ask); err != nil {
			return nil, err
		}
	}
	if len(hidden)+len(erased) == 0 {
		return events, nil
	}
	out := make([]*Event, len(events))
	for i, e := range events {
		switch {
		case a.Past && erased[e.Sender]:
			e = e.erased()
		case e.PrevContent != nil && (hidden[e.ID] || erased[e.PrevSender]):
			e = e.withoutPrevious()
		}
		out[i] = e
	}
	return out, nil
}

// withoutPrevious is the event without what it replaced.
func (e *Event) withoutPrevious() *Event {
	return &Event{Event: e.Event, Shard: e.Shard, Pos: e.Pos, Root: e.Root, Replaces: e.Replaces, RedactedBy: e.RedactedBy}
}

// erased is the event as strangers get it when its sender was erased: redacted, without what it replaced.
func (e *Event) erased() *Event {
	text, err := event.Redact(e.Version(), e.JSON)
	if err == nil {
		var pdu *event.Event
		if pdu, err = event.ParseTrusted(e.Version(), text, e.ID); err == nil {
			return &Event{Event: pdu, Shard: e.Shard, Pos: e.Pos, Root: e.Root, Replaces: e.Replaces, RedactedBy: e.RedactedBy}
		}
	}
	panic(fmt.Sprintf("rooms: the stored event %s can not be redacted: %v", e.ID, err))
}
