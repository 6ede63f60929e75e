package directory

import (
	"cmp"
	"context"
	"encoding/json"
	"io"
	"slices"
	"strconv"
	"strings"

	"lyceum/matrix"
	"lyceum/platform/db"
	"lyceum/platform/web"
	"lyceum/rooms"
)

const (
	searchDefault = 10
	searchMax     = 100
	searchLooked  = 500 // newest matches that one request looks at
	aroundMax     = 20
)

func dollar(n int) string { return "$" + strconv.Itoa(n) }

// criteria is search_categories.room_events of POST /search.
type criteria struct {
	Term         string          `json:"search_term"`
	Keys         []string        `json:"keys"`
	Filter       json.RawMessage `json:"filter"`
	OrderBy      string          `json:"order_by"`
	Context      *contextWanted  `json:"event_context"`
	IncludeState bool            `json:"include_state"`
	Groupings    struct {
		By []struct {
			Key string `json:"key"`
		} `json:"group_by"`
	} `json:"groupings"`
}

type contextWanted struct {
	Before  *int `json:"before_limit"`
	After   *int `json:"after_limit"`
	Profile bool `json:"include_profile"`
}

func orFive(n *int) int {
	if n == nil {
		return 5
	}
	return min(max(*n, 0), aroundMax)
}

type hit struct {
	event *rooms.Event
	sight rooms.Sight
	rank  float64
}

func (d *Directory) postSearch(q *web.Request, b *struct {
	Categories struct {
		Events *criteria `json:"room_events"`
	} `json:"search_categories"`
},
) (any, error) {
	c := b.Categories.Events
	if c == nil {
		return map[string]any{"search_categories": map[string]any{}}, nil
	}
	f, limit, err := c.check()
	if err != nil {
		return nil, err
	}
	byRank := c.OrderBy != "recent"
	offset, before, err := readCursor(q.Query1("next_batch"), byRank)
	if err != nil {
		return nil, err
	}
	hits, err := d.search(q.Context(), q.UserID(), c, f, before)
	if err != nil {
		return nil, err
	}
	if byRank {
		slices.SortStableFunc(hits, func(a, b hit) int { return cmp.Compare(b.rank, a.rank) })
	}
	reply := map[string]any{"count": len(hits), "highlights": append([]string{}, words(fold(c.Term))...)}
	page := hits[min(offset, len(hits)):]
	if len(page) > limit {
		page = page[:limit]
		if byRank {
			reply["next_batch"] = "o" + strconv.Itoa(offset+limit)
		} else {
			last := page[limit-1].event
			reply["next_batch"] = "r" + strconv.FormatInt(last.OriginServerTS, 10) + "_" + last.ID
		}
	}
	if err := d.fill(q, c, page, reply); err != nil {
		return nil, err
	}
	if !c.IncludeState {
		return map[string]any{"search_categories": map[string]any{"room_events": reply}}, nil
	}
	head, err := json.Marshal(reply)
	if err != nil {
		return nil, err
	}
	return &web.Pieces{Write: func(w io.Writer) error { return d.writeWithStates(q, w, head, page) }}, nil
}

// writeWithStates writes the answer to a search with the states of the rooms of a page, which may be large. head is the
// answer without them.
func (d *Directory) writeWithStates(q *web.Request, w io.Writer, head []byte, page []hit) error {
	part := append([]byte(`{"search_categories":{"room_events":`), head[:len(head)-1]...)
	part = append(part, `,"state":{`...)
	done := map[string]bool{}
	for _, h := range page {
		roomID := h.event.RoomID
		if done[roomID] {
			continue
		}
		if len(done) > 0 {
			part = append(part, ',')
		}
		done[roomID] = true
		part = append(matrix.AppendString(part, roomID), ':')
		if _, err := w.Write(part); err != nil {
			return err
		}
		part = part[:0]
		if err := d.Rooms.WriteState(q.Context(), w, q.UserID(), roomID); err != nil {
			return err
		}
	}
	_, err := w.Write(append(part, "}}}}"...))
	return err
}

func (c *criteria) check() (*rooms.Filter, int, error) {
	f, err := rooms.ParseFilter(string(c.Filter))
	if err != nil {
		return nil, 0, err
	}
	if len(words(fold(c.Term))) == 0 {
		return nil, 0, matrix.InvalidParam("search_term: expected one word at least")
	}
	for _, key := range c.Keys {
		if key != "content.body" && key != "content.name" && key != "content.topic" {
			return nil, 0, matrix.InvalidParam("keys: expected content.body, content.name or content.topic")
		}
	}
	if c.OrderBy != "" && c.OrderBy != "rank" && c.OrderBy != "recent" {
		return nil, 0, matrix.InvalidParam("order_by: expected rank or recent")
	}
	for _, g := range c.Groupings.By {
		if g.Key != "room_id" && g.Key != "sender" {
			return nil, 0, matrix.InvalidParam("group_by: expected room_id or sender")
		}
	}
	limit := searchDefault
	if f.Limit != nil {
		limit = *f.Limit
	}
	return f, min(max(limit, 1), searchMax), nil
}

// cursor is where a search by time goes on: before this event.
type cursor struct {
	ts int64
	id string
}

func readCursor(token string, byRank bool) (offset int, before cursor, err error) {
	before = cursor{1 << 62, ""}
	if token == "" {
		return 0, before, nil
	}
	if byRank {
		offset, err = readOffset("o", token)
		return offset, before, err
	}
	ts, id, ok := strings.Cut(strings.TrimPrefix(token, "r"), "_")
	if before.ts, err = strconv.ParseInt(ts, 10, 64); err != nil || !ok || !matrix.ValidEventID(id) {
		return 0, before, matrix.InvalidParam("next_batch: this token was not given out by this endpoint")
	}
	before.id = id
	return 0, before, nil
}

// search finds the newest matches that the user may see, the newest first.
func (d *Directory) search(ctx context.Context, userID string, c *criteria, f *rooms.Filter, before cursor) ([]hit, error) {
	all, err := d.Rooms.Memberships(ctx, userID)
	if err != nil {
		return nil, err
	}
	ids := []string{}
	for _, m := range all {
		if !m.Forgotten && f.Room(m.RoomID) {
			ids = append(ids, m.RoomID)
		}
	}
	term := fold(c.Term)
	where, args := likeAll("body", term)
	args = append(args, ids, before.ts, before.id, searchLooked)
	n := len(args)
	where += " AND room_id = ANY(" + dollar(n-3) + ") AND (ts < " + dollar(n-2) + " OR ts = " + dollar(n-2) + " AND event_id < " + dollar(n-1) + ")"
	if len(c.Keys) > 0 {
		args = append(args, c.Keys)
		where += " AND part = ANY(" + dollar(n+1) + ")"
	}
	var order []string
	bodies := map[string]string{}
	err = db.Each(func(row db.Row) error {
		var id, body string
		err := row.Scan(&id, &body)
		order, bodies[id] = append(order, id), body
		return err
	})(d.Process.DB.Query(ctx, "SELECT event_id, body FROM search_texts WHERE "+where+" ORDER BY ts DESC, event_id DESC LIMIT "+dollar(n), args...))
	if err != nil {
		return nil, err
	}
	return d.sift(ctx, userID, f, order, func(id string) float64 { return rank(bodies[id], words(term)) })
}

// sift keeps what the user may see and the filter lets through, in the order given.
func (d *Directory) sift(ctx context.Context, userID string, f *rooms.Filter, order []string, rank func(id string) float64) ([]hit, error) {
	events, err := d.Rooms.Events(ctx, order)
	if err != nil {
		return nil, err
	}
	ignored, err := d.Accounts.Ignored(ctx, userID)
	if err != nil {
		return nil, err
	}
	byRoom := map[string][]*rooms.Event{}
	for _, id := range order {
		if e := events[id]; e != nil && e.RedactedBy == "" && f.Match(e) && !ignored[e.Sender] {
			byRoom[e.RoomID] = append(byRoom[e.RoomID], e)
		}
	}
	seen := map[string]rooms.Sight{}
	for roomID, list := range byRoom {
		sights, err := d.Rooms.See(ctx, userID, roomID, list)
		if err != nil {
			return nil, err
		}
		for i, e := range list {
			seen[e.ID] = sights[i]
		}
	}
	var hits []hit
	for _, id := range order {
		if s := seen[id]; s.Visible && !s.Erased {
			hits = append(hits, hit{events[id], s, rank(id)})
		}
	}
	return hits, nil
}

// rank is the share of a text that the words take.
func rank(body string, words []string) float64 {
	n := 0
	for _, w := range words {
		n += strings.Count(body, w) * len(w)
	}
	return float64(n) / float64(len(body)+1)
}

// fill writes the results of a page into the answer.
func (d *Directory) fill(q *web.Request, c *criteria, page []hit, reply map[string]any) error {
	ctx, who := q.Context(), rooms.Reader{UserID: q.UserID(), Device: q.Sender()}
	results := make([]map[string]any, len(page))
	groups := map[string]map[string]*group{}
	for _, g := range c.Groupings.By {
		groups[g.Key] = map[string]*group{}
	}
	for i, h := range page {
		result := map[string]any{"rank": h.rank}
		if c.Context != nil {
			a, err := d.Rooms.Around(ctx, who, h.event, orFive(c.Context.Before), orFive(c.Context.After))
			if err != nil {
				return err
			}
			around := map[string]any{"events_before": a.Before, "events_after": a.After, "start": a.Start, "end": a.End}
			if c.Context.Profile {
				around["profile_info"] = profilesIn(a)
			}
			result["context"], result["result"] = around, a.Event
		} else {
			list, err := d.Rooms.Render(ctx, who, []*rooms.Event{h.event}, []rooms.Sight{h.sight})
			if err != nil {
				return err
			}
			result["result"] = list[0]
		}
		for key, byValue := range groups {
			value := h.event.RoomID
			if key == "sender" {
				value = h.event.Sender
			}
			if byValue[value] == nil {
				byValue[value] = &group{Order: i + 1}
			}
			byValue[value].Results = append(byValue[value].Results, h.event.ID)
		}
		results[i] = result
	}
	reply["results"] = results
	if len(groups) > 0 {
		reply["groups"] = groups
	}
	return nil
}

// group is the matches that share a room or a sender.
type group struct {
	Order   int      `json:"order"`
	Results []string `json:"results"`
}

type profile struct {
	Name   string `json:"displayname,omitempty"`
	Avatar string `json:"avatar_url,omitempty"`
}

// profilesIn gives the names in the room of those who sent the events of a context.
func profilesIn(a *rooms.Around) map[string]profile {
	members := map[string]profile{}
	for _, e := range a.State {
		if e.Type == "m.room.member" {
			name, _ := e.ContentString("displayname")
			avatar, _ := e.ContentString("avatar_url")
			members[*e.StateKey] = profile{name, avatar}
		}
	}
	out := map[string]profile{}
	for _, raw := range slices.Concat(a.Before, a.After, []json.RawMessage{a.Event}) {
		var e struct {
			Sender string `json:"sender"`
		}
		if json.Unmarshal(raw, &e) == nil {
			out[e.Sender] = members[e.Sender]
		}
	}
	return out
}
