package directory

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"

	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/platform/web"
	"lyceum/rooms"
)

const (
	searchDefault = 10
	searchMax     = 100
	searchLooked  = 500 // newest matches that one request looks at
	aroundMax     = 20
	// of the results of one answer, but for the last of them, and of the matches that are held while they are looked at
	searchBytes = 2 << 20
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

func contextLimit(n *int) int {
	if n == nil {
		return 5
	}
	return min(max(*n, 0), aroundMax)
}

// hit is a match without its event: there may be many matches, and an answer has few of them.
type hit struct {
	id         string
	ts         int64 // ms since 1970
	visibility rooms.Visibility
	rank       float64
}

func (d *Directory) postSearch(r *web.Request, b *struct {
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
	offset, from, err := readCursor(r.QueryParam("next_batch"), byRank)
	if err != nil {
		return nil, err
	}
	hits, last, err := d.search(r.Context(), r.UserID(), c, f, from)
	if err != nil {
		return nil, err
	}
	count := cmp.Or(from.count, len(hits)) // of the first page, as other servers tell it
	if byRank {
		slices.SortStableFunc(hits, func(a, b hit) int { return cmp.Compare(b.rank, a.rank) })
	}
	reply := map[string]any{"count": count, "highlights": append([]string{}, words(lowerCase(c.Term))...)}
	page := hits[min(offset, len(hits)):]
	given, ids, err := d.writeResults(r, c, page[:min(len(page), limit)], reply)
	if err != nil {
		return nil, err
	}
	switch {
	case byRank && given < len(page):
		reply["next_batch"] = "o" + strconv.Itoa(offset+given)
	case byRank:
	case given > 0 && (given < len(page) || given == limit): // clients expect a next_batch after a full page
		reply["next_batch"] = cursor{page[given-1].ts, page[given-1].id, count}.token()
	case last.id != "":
		last.count = count
		reply["next_batch"] = last.token()
	}
	if !c.IncludeState {
		return map[string]any{"search_categories": map[string]any{"room_events": reply}}, nil
	}
	head, err := json.Marshal(reply)
	if err != nil {
		return nil, err
	}
	return &web.Pieces{Write: func(w io.Writer) error { return d.writeWithStates(r, w, head, ids) }}, nil
}

// writeWithStates writes the answer to a search with the states of some rooms, which may be large. head is the answer without
// them.
func (d *Directory) writeWithStates(r *web.Request, w io.Writer, head []byte, roomIDs []string) error {
	part := append([]byte(`{"search_categories":{"room_events":`), head[:len(head)-1]...)
	part = append(part, `,"state":{`...)
	for i, roomID := range roomIDs {
		if i > 0 {
			part = append(part, ',')
		}
		part = append(matrix.AppendString(part, roomID), ':')
		if _, err := w.Write(part); err != nil {
			return err
		}
		part = part[:0]
		if err := d.Rooms.WriteState(r.Context(), w, r.UserID(), roomID); err != nil {
			return err
		}
	}
	_, err := w.Write(append(part, "}}}}"...))
	return err
}

func (c *criteria) check() (*event.Filter, int, error) {
	f, err := event.ParseFilter(string(c.Filter))
	if err != nil {
		return nil, 0, err
	}
	if len(words(lowerCase(c.Term))) == 0 {
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
	ts    int64
	id    string
	count int // of the first page
}

func (c cursor) token() string {
	return "r" + strconv.FormatInt(c.ts, 10) + "_" + strconv.Itoa(c.count) + "_" + c.id
}

// behind tells that an event comes after c, when the newest come first.
func (c cursor) behind(ts int64, id string) bool { return ts < c.ts || ts == c.ts && id < c.id }

func readCursor(token string, byRank bool) (offset int, from cursor, err error) {
	from.ts = 1 << 62
	if token == "" {
		return 0, from, nil
	}
	if byRank {
		offset, err = readOffset("o", token)
		return offset, from, err
	}
	parts := strings.SplitN(strings.TrimPrefix(token, "r"), "_", 3)
	bad := matrix.InvalidParam("next_batch: this token was not given out by this endpoint")
	if len(parts) != 3 || !matrix.ValidEventID(parts[2]) {
		return 0, from, bad
	}
	from.id = parts[2]
	if from.ts, err = strconv.ParseInt(parts[0], 10, 64); err != nil {
		return 0, from, bad
	}
	if from.count, err = strconv.Atoi(parts[1]); err != nil || from.count < 0 {
		return 0, from, bad
	}
	return 0, from, nil
}

// visibleHits returns the matches that the user may see and that pass the filter, in the order given.
func (d *Directory) visibleHits(
	ctx context.Context,
	userID string,
	f *event.Filter,
	order []string,
	ranks map[string]float64,
) ([]hit, error) {
	ignored, err := d.Accounts.Ignored(ctx, userID)
	if err != nil {
		return nil, err
	}
	var hits []hit
	var held []*rooms.Event
	size := 0
	look := func() error {
		byRoom := map[string][]*rooms.Event{}
		for _, e := range held {
			byRoom[e.RoomID] = append(byRoom[e.RoomID], e)
		}
		seen := map[string]rooms.Visibility{}
		for roomID, list := range byRoom {
			visibility, err := d.Rooms.VisibilityOf(ctx, userID, roomID, list)
			if err != nil {
				return err
			}
			for i, e := range list {
				seen[e.ID] = visibility[i]
			}
		}
		for _, e := range held {
			if s := seen[e.ID]; s.Visible && !s.Erased {
				hits = append(hits, hit{e.ID, e.OriginServerTS, s, ranks[e.ID]})
			}
		}
		held, size = nil, 0
		return nil
	}
	err = d.Rooms.EachEvent(ctx, order, func(events []*rooms.Event) error {
		for _, e := range events {
			if e.RedactedBy == "" && f.Match(e.Event) && !ignored[e.Sender] {
				held, size = append(held, e), size+len(e.JSON)+len(e.PrevContent)
			}
		}
		if size < searchBytes {
			return nil
		}
		return look()
	})
	if err != nil {
		return nil, err
	}
	return hits, look()
}

// rank is the share of a text that the words take.
func rank(body string, words []string) float64 {
	n := 0
	for _, w := range words {
		n += strings.Count(body, w) * len(w)
	}
	return float64(n) / float64(len(body)+1)
}

// errFull says that an answer has as many bytes as it may have.
var errFull = errors.New("the answer is full")

// writeResults writes results of a page into the answer until it is full. given is how many matches of the page were handled, and roomIDs
// are their rooms.
func (d *Directory) writeResults(r *web.Request, c *criteria, page []hit, reply map[string]any) (given int, roomIDs []string, err error) {
	results := make([]map[string]any, 0, len(page))
	groups := map[string]map[string]*group{}
	for _, g := range c.Groupings.By {
		groups[g.Key] = map[string]*group{}
	}
	size := 0
	err = d.Rooms.EachEvent(r.Context(), idsOf(page), func(events []*rooms.Event) error {
		for _, e := range events {
			for given++; page[given-1].id != e.ID; { // what is not there any more
				given++
			}
			result, n, err := d.result(r, c.Context, e, page[given-1])
			if err != nil {
				return err
			}
			results = append(results, result)
			for key, byValue := range groups {
				value := e.RoomID
				if key == "sender" {
					value = e.Sender
				}
				if byValue[value] == nil {
					byValue[value] = &group{Order: len(results)}
				}
				byValue[value].Results = append(byValue[value].Results, e.ID)
			}
			if !slices.Contains(roomIDs, e.RoomID) {
				roomIDs = append(roomIDs, e.RoomID)
			}
			if size += n; size >= searchBytes {
				return errFull
			}
		}
		return nil
	})
	switch {
	case err == nil:
		given = len(page)
	case !errors.Is(err, errFull):
		return 0, nil, err
	}
	reply["results"] = results
	if len(groups) > 0 {
		reply["groups"] = groups
	}
	return given, roomIDs, nil
}

func idsOf(page []hit) []string {
	ids := make([]string, len(page))
	for i, h := range page {
		ids[i] = h.id
	}
	return ids
}

// result is a match in the form of the API, with its context when wanted, and its approximate size in bytes.
func (d *Directory) result(r *web.Request, wanted *contextWanted, e *rooms.Event, h hit) (result map[string]any, size int, err error) {
	who := rooms.Reader{UserID: r.UserID(), Device: r.TransactionScope()}
	result = map[string]any{"rank": h.rank}
	if wanted == nil {
		list, err := d.Rooms.Render(r.Context(), who, []*rooms.Event{e}, []rooms.Visibility{h.visibility})
		if err != nil {
			return nil, 0, err
		}
		result["result"] = list[0]
		return result, len(list[0]), nil
	}
	a, err := d.Rooms.EventContext(r.Context(), who, e, contextLimit(wanted.Before), contextLimit(wanted.After))
	if err != nil {
		return nil, 0, err
	}
	around := map[string]any{"events_before": a.Before, "events_after": a.After, "start": a.Start, "end": a.End}
	if wanted.Profile {
		around["profile_info"] = profilesIn(a)
	}
	result["context"], result["result"] = around, a.Event
	size = len(a.Event)
	for _, list := range [...][]json.RawMessage{a.Before, a.After} {
		for _, text := range list {
			size += len(text)
		}
	}
	return result, size, nil
}

// group holds the matches of one room or one sender.
type group struct {
	Order   int      `json:"order"`
	Results []string `json:"results"`
}

type profile struct {
	Name   string `json:"displayname,omitempty"`
	Avatar string `json:"avatar_url,omitempty"`
}

// profilesIn gives the names in the room of those who sent the events of a context.
func profilesIn(a *rooms.EventContext) map[string]profile {
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
