package push

import (
	"cmp"
	"context"
	"slices"

	"lyceum/rooms"
)

// loadCount reads the receipts of a user and evaluates the events after them. The caller holds evaluating of the count.
func (p *Push) loadCount(ctx context.Context, u unreadQuery) error {
	l, e := u.log, u.count
	l.mu.Lock()
	e.loaded, e.unread = false, nil
	floor := l.completeAbove // events at or before it are stored already
	l.mu.Unlock()
	read, err := p.Receipts.ReadUpTo(ctx, u.user, u.room)
	if err != nil {
		return err
	}
	joined, err := p.joinPosition(ctx, u.user, u.room)
	if err != nil {
		return err
	}
	base := max(joined, read[""])
	from := max(base, read[mainThread])
	l.mu.Lock()
	for thread, pos := range read {
		e.markRead(thread, pos)
	}
	e.markRead("", base)
	e.rules, e.loaded = u.rules, true
	e.evaluatedTo = max(floor, from)
	l.mu.Unlock()
	pages := []rooms.Page{{RoomID: u.room, From: 1 << 62, To: from, Backward: true}}
	if base < from { // threads may have unread events before the receipt of the main timeline
		pages = append(pages, rooms.Page{RoomID: u.room, From: from + 1, To: base, Backward: true, Threaded: true})
	}
	for _, page := range pages {
		if err = p.readPage(ctx, u, page); err != nil {
			break
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	e.loaded = e.loaded && err == nil
	slices.SortFunc(e.unread, func(a, b unreadEvent) int { return cmp.Compare(a.pos, b.pos) })
	return err
}

// readPage evaluates the newest maxUnread events of a page, in parts as they may be large, the newest part first. An event that an event of
// an earlier part redacts is read redacted.
func (p *Push) readPage(ctx context.Context, u unreadQuery, page rooms.Page) error {
	page.Bytes = unreadBytes
	for left, whole := maxUnread, false; left > 0 && !whole; {
		page.Limit = left
		events, err := p.Rooms.Timeline(ctx, page)
		if err != nil || len(events) == 0 {
			return err
		}
		whole = page.Complete(events)
		left, page.From = left-len(events), events[len(events)-1].Pos
		slices.Reverse(events)
		if err := p.advance(ctx, u, events); err != nil {
			return err
		}
	}
	return nil
}

// joinPosition returns the position at which a member joined, 0 for a user who is not a member.
func (p *Push) joinPosition(ctx context.Context, userID, roomID string) (int64, error) {
	m, err := p.Rooms.Membership(ctx, userID, roomID)
	if err != nil {
		return 0, err
	}
	return p.Rooms.JoinedAt(ctx, m)
}
