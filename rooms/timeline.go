package rooms

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"

	"lyceum/matrix/event"
	"lyceum/rooms/state"
)

// eventRange asks for events of a room as a user sees them.
type eventRange struct {
	from, to int64 // places behind positions, as PositionOf reads them; to 0 for none
	backward bool
	limit    int
	bytes    int // of the events that are given, but for the last of them; 0 for Deps.PageBytes
	filter   *event.Filter
}

// eventPage has the events of a range, and where to go on.
type eventPage struct {
	events     []*Event
	visibility []Visibility
	end        int64 // the place to go on from
	more       bool  // there may be more
	taken      int   // of the ids that were asked for

	start    int64 // the place from which it was read
	backward bool
}

// truncate leaves so many of the events, where an answer has no room for more.
func (f *eventPage) truncate(n int) {
	if n == len(f.events) {
		return
	}
	if f.events, f.visibility, f.more = f.events[:n], f.visibility[:n], true; n == 0 {
		f.end = f.start
	} else {
		f.continueAfter(f.events[n-1])
	}
}

// continueAfter sets where to go on behind an event.
func (f *eventPage) continueAfter(e *Event) {
	if f.end = e.Pos; f.backward {
		f.end--
	}
}

// mayContinue tells that a page which has all that there is now gets a token to go on from, as clients expect one with each event that
// they get. There is nothing before the event that made the room.
func (f *eventPage) mayContinue() bool {
	n := len(f.events)
	return n > 0 && (!f.backward || !f.events[n-1].Is(event.TypeCreate, ""))
}

const (
	// scanRounds bounds how much one request reads when nothing of it may be shown, as so many times its limit. A
	// client goes on from the token that it gets.
	scanRounds = 8
	readAtOnce = 100     // events of one statement: each may have 64 KiB
	pageBytes  = 2 << 20 // the default of Deps.PageBytes
)

// readRange gives the visible events of a range that the filter lets through, without those of ignored users.
func (r *Rooms) readRange(ctx context.Context, v roomView, s eventRange) (eventPage, error) {
	out := eventPage{end: s.from, backward: s.backward}
	if !s.filter.Room(v.head.RoomID) || s.limit == 0 {
		return out, nil
	}
	ignored, err := r.Accounts.Ignored(ctx, v.user)
	if err != nil {
		return out, err
	}
	s.limitTo(v)
	out.end, out.start = s.from, s.from
	p, w, err := r.firstPage(ctx, v, s, ignored)
	if err != nil {
		return out, err
	}
	size, maxBytes := 0, cmp.Or(s.bytes, r.PageBytes)
	for scanned := 0; scanned < scanRounds*(s.limit+1); {
		p.Limit = min(s.limit-len(out.events)+1, readAtOnce) // one more tells whether there is more
		p.Bytes = max(maxBytes-size, maxBytes/4, 1)          // not ever less, while what is read is not given
		if p.Backward {
			p.From, p.To = out.end+1, w.after
		} else {
			p.From, p.To = out.end, w.before
		}
		events, err := r.Timeline(ctx, p)
		if err != nil {
			return out, err
		}
		visibility, err := r.decideVisibility(ctx, v.membershipView, events)
		if err != nil {
			return out, err
		}
		for i, e := range events {
			if len(out.events) == s.limit || size >= maxBytes {
				out.more = true
				return out, nil
			}
			out.continueAfter(e)
			if visibility[i].Visible && s.filter.Match(e.Event) && (e.IsState() || !ignored[e.Sender]) {
				out.events, out.visibility = append(out.events, e), append(out.visibility, visibility[i])
				size += e.text()
			}
		}
		if scanned += len(events); p.Complete(events) {
			if out.more = w.truncated; w.truncated {
				out.end = w.end
			}
			return out, nil
		}
	}
	out.more = true
	return out, nil
}

// limitTo ends a range where the view of a room ends.
func (s *eventRange) limitTo(v roomView) {
	s.from, s.to = min(s.from, v.upto), min(s.to, v.upto)
	if !s.backward && s.to == 0 {
		s.to = v.upto
	}
}

// firstPage gives the page with which the reading of a range begins, and the window to which the range is limited: what the
// database filters out is not counted otherwise.
func (r *Rooms) firstPage(ctx context.Context, v roomView, s eventRange, ignored map[string]bool) (p Page, w rangeWindow, err error) {
	p = Page{RoomID: v.head.RoomID, Backward: s.backward, Filter: s.filter}
	if usesRelations(s.filter) {
		p.knownRelations.ignored = listOf(ignored)
		if p.knownRelations.visible, err = r.visibleRangesOf(ctx, v.membershipView); err != nil {
			return p, w, err
		}
	}
	if w.after, w.before = s.bounds(); usesDatabase(s.filter) {
		w, err = r.limitRange(ctx, s, ofRoom, v.head.RoomID)
	}
	return p, w, err
}

// renderPage writes the events of a page. When the answer has no room for all of them with what is bundled, the page is truncated.
func (r *Rooms) renderPage(ctx context.Context, who Reader, s membershipView, f *eventPage) ([]json.RawMessage, error) {
	list, err := r.Render(ctx, who.withView(s), f.events, f.visibility)
	if err == nil {
		f.truncate(len(list))
	}
	return list, err
}

// sendersAt reads the memberships of the senders of events in a state, for clients that load members
// lazily.
func (r *Rooms) sendersAt(ctx context.Context, root state.ID, lists ...[]*Event) ([]*Event, error) {
	seen := map[string]bool{}
	var keys []state.Key
	for _, list := range lists {
		for _, e := range list {
			if !seen[e.Sender] {
				seen[e.Sender] = true
				keys = append(keys, state.Key{Type: event.TypeMember, StateKey: e.Sender})
			}
		}
	}
	members, err := r.StateEvents(ctx, root, keys...)
	out := make([]*Event, 0, len(keys))
	for _, k := range keys {
		if e := members[k]; e != nil {
			out = append(out, e)
		}
	}
	return out, err
}

// pickVisible reads events by their ids, one more than the limit, as far as a page has room for them, and keeps what the user
// may see.
func (r *Rooms) pickVisible(ctx context.Context, st membershipView, ids []string, s eventRange) (eventPage, error) {
	out := eventPage{end: s.from, start: s.from, backward: s.backward}
	wanted, size := ids[:min(len(ids), s.limit)], 0
	var events []*Event
	err := r.EachEvent(ctx, wanted, func(part []*Event) error {
		for _, e := range part {
			events = append(events, e)
			out.taken += slices.Index(wanted[out.taken:], e.ID) + 1
			out.continueAfter(e)
			if size += e.text(); size >= r.PageBytes {
				return errTooLarge
			}
		}
		return nil
	})
	switch {
	case err == nil:
		out.taken = len(wanted)
	case !errors.Is(err, errTooLarge):
		return out, err
	}
	out.more = len(ids) > out.taken
	visibility, err := r.decideVisibility(ctx, st, events)
	if err != nil {
		return out, err
	}
	ignored, err := r.Accounts.Ignored(ctx, st.user)
	if err != nil {
		return out, err
	}
	for i, e := range events {
		if visibility[i].Visible && !ignored[e.Sender] {
			out.events, out.visibility = append(out.events, e), append(out.visibility, visibility[i])
		}
	}
	return out, nil
}
