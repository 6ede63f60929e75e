package directory

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/platform/web"
	"lyceum/rooms"
)

const (
	typeSpaceChild   = "m.space.child"
	hierarchyDefault = 50
	hierarchyMax     = 100
	depthMax         = 50
)

// spaceRoom is one room of a hierarchy.
type spaceRoom struct {
	rooms.Summary
	Children []json.RawMessage `json:"children_state"`
}

// walk is one page of a hierarchy, depth first. Pages are not kept: each walks from the start and skips
// what the pages before it gave.
type walk struct {
	d         *Directory
	user      string
	suggested bool
	maxDepth  int
	skip      int
	limit     int
	seen      map[string]bool
	page      []spaceRoom
	more      bool
}

func (d *Directory) getHierarchy(q *web.Request) (any, error) {
	w := walk{d: d, user: q.UserID(), seen: map[string]bool{}, page: []spaceRoom{}}
	var err error
	if w.limit, err = q.Int("limit", hierarchyDefault, hierarchyMax); err != nil {
		return nil, err
	}
	if w.limit == 0 {
		return nil, matrix.InvalidParam("limit: expected more than 0")
	}
	if w.maxDepth, err = q.Int("max_depth", depthMax, depthMax); err != nil {
		return nil, err
	}
	if w.suggested, err = q.Bool("suggested_only", false); err != nil {
		return nil, err
	}
	if from := q.Query1("from"); from != "" {
		var depth int
		var suggested bool
		if _, err := fmt.Sscanf(from, "h%d_%d_%t", &w.skip, &depth, &suggested); err != nil || w.skip < 0 {
			return nil, matrix.InvalidParam("from: this token was not given out by this endpoint")
		}
		if depth != w.maxDepth || suggested != w.suggested {
			return nil, matrix.InvalidParam("suggested_only and max_depth can not change from page to page")
		}
	}
	start := w.skip
	ok, err := w.visit(q.Context(), q.Path("roomID"), 0)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, matrix.Forbidden("You may not view this room")
	}
	reply := map[string]any{"rooms": w.page}
	if w.more {
		reply["next_batch"] = fmt.Sprintf("h%d_%d_%t", start+len(w.page), w.maxDepth, w.suggested)
	}
	return reply, nil
}

// visit adds a room and what lies below it; not ok when the user may not see the room.
func (w *walk) visit(ctx context.Context, roomID string, depth int) (ok bool, err error) {
	w.seen[roomID] = true
	s, _, ok, err := w.d.Rooms.SummaryFor(ctx, w.user, roomID)
	if err != nil || !ok {
		return false, err
	}
	var children []*rooms.Event
	if s.RoomType == "m.space" {
		if children, err = w.d.children(ctx, roomID, w.suggested); err != nil {
			return false, err
		}
	}
	switch {
	case w.skip > 0:
		w.skip--
	case len(w.page) == w.limit:
		w.more = true
		return true, nil
	default:
		w.page = append(w.page, spaceRoom{s, renderChildren(children)})
	}
	if depth >= w.maxDepth {
		return true, nil
	}
	for _, c := range children {
		if w.seen[*c.StateKey] {
			continue
		}
		if _, err := w.visit(ctx, *c.StateKey, depth+1); err != nil {
			return true, err
		}
		if w.more {
			break
		}
	}
	return true, nil
}

// children reads the m.space.child events of a space in their order (Client-Server API, "Ordering of
// children within a space").
func (d *Directory) children(ctx context.Context, roomID string, suggested bool) ([]*rooms.Event, error) {
	h, ok, err := d.Rooms.Head(ctx, roomID)
	if err != nil || !ok {
		return nil, err
	}
	entries, err := d.Rooms.Tree(h.Root).All(ctx)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, e := range entries {
		if e.Type == typeSpaceChild && matrix.ValidRoomID(e.StateKey) {
			ids = append(ids, e.EventID)
		}
	}
	found, err := d.Rooms.Events(ctx, ids)
	if err != nil {
		return nil, err
	}
	var list []child
	for _, e := range found {
		c := child{Event: e}
		_ = json.Unmarshal(e.Content, &c.content) // what is of a wrong type is as if it were not there
		if len(c.content.Via) > 0 && (!suggested || c.content.Suggested) {
			list = append(list, c)
		}
	}
	slices.SortFunc(list, func(a, b child) int {
		return cmp.Or(cmp.Compare(a.order(), b.order()), cmp.Compare(a.OriginServerTS, b.OriginServerTS), cmp.Compare(*a.StateKey, *b.StateKey))
	})
	out := make([]*rooms.Event, len(list))
	for i, c := range list {
		out[i] = c.Event
	}
	return out, nil
}

type child struct {
	*rooms.Event
	content struct {
		Via       []string `json:"via"`
		Order     string   `json:"order"`
		Suggested bool     `json:"suggested"`
	}
}

// order sorts children without a valid order behind all others.
func (c child) order() string {
	const last = "\x7f"
	if o := c.content.Order; o != "" && len(o) <= 50 && !slices.ContainsFunc([]byte(o), func(b byte) bool { return b < 0x20 || b > 0x7e }) {
		return o
	}
	return last
}

func renderChildren(events []*rooms.Event) []json.RawMessage {
	out := make([]json.RawMessage, len(events))
	for i, e := range events {
		b := event.StrippedJSON(nil, e.Event)
		out[i] = fmt.Appendf(b[:len(b)-1], `,"origin_server_ts":%d}`, e.OriginServerTS)
	}
	return out
}
