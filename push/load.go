package push

import (
	"cmp"
	"context"
	"slices"

	"lyceum/rooms"
)

// loadEntry reads the receipts and what came after them. The caller holds work of the entry.
func (p *Push) loadCount(ctx context.Context, u unreadQuery) error {
	l, e := u.log, u.entry
	l.mu.Lock()
	e.loaded, e.unread = false, nil
	floor := l.completeAbove // what is not above it is stored already
	l.mu.Unlock()
	read, err := p.Receipts.ReadUpTo(ctx, u.user, u.room)
	if err != nil {
		return err
	}
	joined, err := p.joinedAt(ctx, u.user, u.room)
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
	if base < from { // threads are read apart from the main timeline
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

// readPage evaluates the newest events of a page, maxUnread of them, part by part and the newest part first: they may be large.
// What a later part redacts was read redacted.
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

// joinedAt gives the position at which a member came, 0 for who is none.
func (p *Push) joinedAt(ctx context.Context, userID, roomID string) (int64, error) {
	m, err := p.Rooms.Membership(ctx, userID, roomID)
	if err != nil {
		return 0, err
	}
	return p.Rooms.JoinedAt(ctx, m)
}
