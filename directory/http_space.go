package directory

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"lyceum/matrix"
	"lyceum/platform/web"
	"lyceum/rooms"
)

const (
	hierarchyDefault = 50
	hierarchyMax     = 100
	depthMax         = 50
	// hierarchyBytes is the size in bytes after which a page ends, and at which the children of one space are cut.
	hierarchyBytes = 4 << 20
)

// spaceRoom is one room of a hierarchy.
type spaceRoom struct {
	rooms.Summary
	Children []json.RawMessage `json:"children_state"`
}

// hierarchyWalk is one page of a hierarchy, depth first. Pages are not kept: each walks from the start and skips
// what the pages before it gave.
type hierarchyWalk struct {
	d         *Directory
	user      string
	suggested bool
	maxDepth  int
	skip      int
	limit     int
	most      int // hierarchyBytes
	seen      map[string]bool
	page      []json.RawMessage
	bytes     int // of the page
	more      bool
}

func (d *Directory) getHierarchy(r *web.Request) (any, error) {
	w := hierarchyWalk{d: d, user: r.UserID(), most: hierarchyBytes, seen: map[string]bool{}, page: []json.RawMessage{}}
	var err error
	if w.limit, err = r.Int("limit", hierarchyDefault, hierarchyMax); err != nil {
		return nil, err
	}
	if w.limit == 0 {
		return nil, matrix.InvalidParam("limit: expected more than 0")
	}
	if w.maxDepth, err = r.Int("max_depth", depthMax, depthMax); err != nil {
		return nil, err
	}
	if w.suggested, err = r.Bool("suggested_only", false); err != nil {
		return nil, err
	}
	if from := r.QueryParam("from"); from != "" {
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
	ok, err := w.visit(r.Context(), r.Path("roomID"), 0)
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
func (w *hierarchyWalk) visit(ctx context.Context, roomID string, depth int) (ok bool, err error) {
	w.seen[roomID] = true
	s, _, ok, err := w.d.Rooms.SummaryFor(ctx, w.user, roomID)
	if err != nil || !ok {
		return false, err
	}
	var children []child
	if s.RoomType == "m.space" {
		if children, err = w.children(ctx, roomID); err != nil {
			return false, err
		}
	}
	switch {
	case w.skip > 0:
		w.skip--
	case len(w.page) == w.limit, w.bytes >= w.most:
		w.more = true
		return true, nil
	default:
		room, err := json.Marshal(spaceRoom{s, texts(children)})
		if err != nil {
			return true, err
		}
		w.page, w.bytes = append(w.page, room), w.bytes+len(room)
	}
	for i := range children {
		children[i].text = nil // what lies below may be much
	}
	if depth >= w.maxDepth {
		return true, nil
	}
	for _, c := range children {
		if w.seen[c.roomID] {
			continue
		}
		if _, err := w.visit(ctx, c.roomID, depth+1); err != nil {
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
func (w *hierarchyWalk) children(ctx context.Context, roomID string) ([]child, error) {
	h, ok, err := w.d.Rooms.Head(ctx, roomID)
	if err != nil || !ok {
		return nil, err
	}
	entries, err := w.d.Rooms.Tree(h.Root).All(ctx)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, e := range entries {
		if e.Type == rooms.TypeSpaceChild && matrix.ValidRoomID(e.StateKey) {
			ids = append(ids, e.EventID)
		}
	}
	var list []child
	err = w.d.Rooms.EachEvent(ctx, ids, func(events []*rooms.Event) error {
		for _, e := range events {
			if c, ok := childOf(e, w.suggested); ok {
				list = append(list, c)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(list, func(a, b child) int {
		return cmp.Or(cmp.Compare(a.order, b.order), cmp.Compare(a.ts, b.ts), cmp.Compare(a.roomID, b.roomID))
	})
	size := 0
	for i, c := range list {
		if size += len(c.text); size > w.most {
			return list[:i], nil
		}
	}
	return list, nil
}

// child is a child of a space, with the stripped event that clients get.
type child struct {
	roomID, order string
	ts            int64
	text          json.RawMessage
}

// childOf reads a m.space.child; not ok when it makes no child.
func childOf(e *rooms.Event, suggested bool) (c child, ok bool) {
	var content struct {
		Via       []string `json:"via"`
		Order     string   `json:"order"`
		Suggested bool     `json:"suggested"`
	}
	_ = json.Unmarshal(e.Content, &content) // a field of a wrong type counts as missing
	if len(content.Via) == 0 || suggested && !content.Suggested {
		return c, false
	}
	text := rooms.Stripped(e)
	if text == nil {
		return c, false
	}
	text = fmt.Appendf(text[:len(text)-1], `,"origin_server_ts":%d}`, e.OriginServerTS)
	return child{*e.StateKey, childOrder(content.Order), e.OriginServerTS, text}, true
}

// childOrder sorts children without a valid order behind all others.
func childOrder(order string) string {
	const last = "\x7f"
	if order != "" && len(order) <= 50 && !slices.ContainsFunc([]byte(order), func(b byte) bool { return b < 0x20 || b > 0x7e }) {
		return order
	}
	return last
}

func texts(children []child) []json.RawMessage {
	out := make([]json.RawMessage, len(children))
	for i, c := range children {
		out[i] = c.text
	}
	return out
}
