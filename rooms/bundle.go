package rooms

import (
	"context"
	"database/sql"
	"encoding/json"
	"maps"
	"slices"
	"strconv"

	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/platform/db"
)

// Relation types that the server looks into.
const (
	relReplace    = "m.replace"
	relThread     = "m.thread"
	relReference  = "m.reference"
	relAnnotation = "m.annotation"
)

// Reader is who gets events.
type Reader struct {
	UserID, Device string // Device is that of Send
	// Since is that of Audience for the room of the events; 0 also when it is not known.
	Since int64

	standing *standing // to that room; nil to be looked up
}

// at is the reader with what is known of how the user stands to the room of the events.
func (who Reader) at(s standing) Reader {
	who.Since, who.standing = s.since(), &s
	return who
}

// Bundle gives the bundled aggregations of events, the value of unsigned's m.relations, by event id; events
// without any are left out. The latest edit, the thread summary and the references are what the user may
// see (Client-Server API, "Server-side aggregation of relationships").
func (r *Rooms) Bundle(ctx context.Context, userID string, events []*Event) (map[string]json.RawMessage, error) {
	kinds, err := r.relationKinds(ctx, events)
	if err != nil || len(kinds) == 0 {
		return nil, err
	}
	ignored, err := r.Accounts.Ignored(ctx, userID)
	if err != nil {
		return nil, err
	}
	byRoom := map[string]map[string]*Event{}
	for _, e := range events {
		if byRoom[e.RoomID] == nil {
			byRoom[e.RoomID] = map[string]*Event{}
		}
		byRoom[e.RoomID][e.ID] = e
	}
	out := map[string]json.RawMessage{}
	for _, originals := range byRoom { // one, but in a search
		related := map[string][]string{}
		for kind, ids := range kinds {
			for _, id := range ids {
				if originals[id] != nil {
					related[kind] = append(related[kind], id)
				}
			}
		}
		if len(related) == 0 {
			continue
		}
		b := bundler{r: r, ctx: ctx, user: userID, ignored: ignored, originals: originals, children: map[string]*Event{}, visible: map[string]bool{}, erased: map[string]bool{}}
		parts, err := b.bundle(related)
		if err != nil {
			return nil, err
		}
		maps.Copy(out, parts)
	}
	return out, nil
}

// relationKinds finds which of the events have what relations, in one statement: mostly none has any.
func (r *Rooms) relationKinds(ctx context.Context, events []*Event) (map[string][]string, error) {
	ids := make([]string, 0, len(events))
	for _, e := range events {
		ids = append(ids, e.ID)
	}
	if len(ids) == 0 {
		return nil, nil
	}
	out := map[string][]string{}
	err := db.Each(func(row db.Row) error {
		var id string
		var has [3]bool
		err := row.Scan(&id, &has[0], &has[1], &has[2])
		for i, kind := range [...]string{relReplace, relThread, relReference} {
			if has[i] {
				out[kind] = append(out[kind], id)
			}
		}
		return err
	})(r.Process.DB.Query(ctx, selectKinds, ids))
	return out, err
}

// relationsTo begins a statement that reads relations to an event t; what kind of them comes next.
const relationsTo = ` FROM relations x WHERE x.target = t.event_id AND x.room_id = t.room_id AND x.rel_type = `

// selectKinds asks first if there is any relation: mostly there is none.
const selectKinds = `SELECT t.event_id, EXISTS (SELECT 1` + relationsTo + `'m.replace'), EXISTS (SELECT 1` + relationsTo + `'m.thread'), EXISTS (SELECT 1` + relationsTo + `'m.reference')
	FROM events t WHERE t.event_id = ANY($1) AND EXISTS (SELECT 1 FROM relations x WHERE x.target = t.event_id AND x.room_id = t.room_id)`

// bundler collects the aggregations of some events of a room.
type bundler struct {
	r         *Rooms
	ctx       context.Context
	user      string
	ignored   map[string]bool
	originals map[string]*Event
	children  map[string]*Event
	visible   map[string]bool
	erased    map[string]bool // children whose sender was erased
	standing  standing
	horizon   horizon // what is counted and ranked: children out of sight leave no trace
}

// repliesCounted is up to where the events of a thread are counted.
const repliesCounted = 10_000

type threadSummary struct {
	latest string
	count  int
	mine   bool
}

func (b *bundler) bundle(kinds map[string][]string) (map[string]json.RawMessage, error) {
	for _, e := range b.originals {
		var ok bool
		var err error
		if b.standing, ok, err = b.r.standing(b.ctx, b.user, e.RoomID); err != nil || !ok {
			return nil, err
		}
		if b.horizon, err = b.r.horizonOf(b.ctx, b.standing); err != nil {
			return nil, err
		}
		break // they are of one room
	}
	threads, err := b.threads(kinds[relThread])
	if err != nil {
		return nil, err
	}
	replaced := kinds[relReplace]
	if len(threads) > 0 { // the latest event of a thread comes with its own latest edit
		latest := make([]string, 0, len(threads))
		for _, t := range threads {
			latest = append(latest, t.latest)
		}
		found, err := b.r.Events(b.ctx, latest)
		if err != nil {
			return nil, err
		}
		for id, e := range found {
			b.originals[id] = e
		}
		replaced = append(slices.Clone(replaced), latest...)
	}
	edits, err := b.edits(replaced)
	if err != nil {
		return nil, err
	}
	references, err := b.references(kinds[relReference])
	if err != nil {
		return nil, err
	}
	for _, t := range threads {
		b.children[t.latest] = b.originals[t.latest]
	}
	if err := b.see(); err != nil {
		return nil, err
	}
	parts := map[string][]byte{}
	add := func(id, kind string, value []byte) {
		p := append(parts[id], ',')
		p = append(matrix.AppendString(p, kind), ':')
		parts[id] = append(p, value...)
	}
	for id, list := range references {
		add(id, relReference, list)
	}
	for id, list := range edits {
		if e := b.edit(id, list); e != nil && slices.Contains(kinds[relReplace], id) {
			add(id, relReplace, e.AppendClient(nil, View{RoomID: true}))
		}
	}
	for id, t := range threads {
		latest := b.children[t.latest]
		if latest == nil || !b.visible[t.latest] {
			continue
		}
		v := View{RoomID: true, Erased: b.erased[t.latest]}
		if e := b.edit(t.latest, edits[t.latest]); e != nil {
			v.Extra = append(v.Extra, slices.Concat([]byte(`"m.relations":{"m.replace":`), e.AppendClient(nil, View{RoomID: true}), []byte("}")))
		}
		value := append([]byte(`{"count":`), strconv.Itoa(t.count)...)
		value = append(value, `,"current_user_participated":`...)
		value = strconv.AppendBool(value, t.mine || b.originals[id].Sender == b.user)
		value = append(value, `,"latest_event":`...)
		value = append(latest.AppendClient(value, v), '}')
		add(id, relThread, value)
	}
	out := make(map[string]json.RawMessage, len(parts))
	for id, p := range parts {
		p[0] = '{'
		out[id] = append(p, '}')
	}
	return out, nil
}

// edit picks the newest of the edits of an event that counts and that the user may see.
func (b *bundler) edit(id string, list []string) *Event {
	original := b.originals[id]
	if original == nil || original.IsState() || original.RedactedBy != "" {
		return nil
	}
	if rel, ok := relationOf(original.Event); ok && rel.relType == relReplace {
		return nil
	}
	for _, editID := range list {
		e := b.children[editID]
		if e == nil || !b.visible[editID] || b.erased[editID] {
			continue
		}
		if content := matrix.Lookup(e.Content, "m.new_content"); e.Type == event.TypeEncrypted || len(content) > 0 && content[0] == '{' {
			return e
		}
	}
	return nil
}

// editsRanked is how many edits of an event, the newest ones, are put in the order of their times.
const editsRanked = 100

func selectEdits(seen string) string {
	return `WITH original AS MATERIALIZED (
		SELECT t.event_id, t.room_id, t.sender, t.type, COALESCE((SELECT x.pos` + relationsTo + `'m.replace' AND x.sender = t.sender` + seen + ` ORDER BY x.pos DESC LIMIT 1 OFFSET $2), 0) AS since
		FROM events t WHERE t.event_id = ANY($1)
		) SELECT target, event_id FROM (
		SELECT x.target, x.event_id, ROW_NUMBER() OVER (PARTITION BY x.target ORDER BY e.ts DESC, e.event_id DESC) AS n
		FROM original JOIN relations x ON x.target = original.event_id AND x.room_id = original.room_id AND x.sender = original.sender AND x.rel_type = 'm.replace' AND x.pos >= original.since
		JOIN events e ON e.event_id = x.event_id WHERE x.type = original.type` + seen + `
		) ranked WHERE n <= 3 ORDER BY target, n`
}

// edits finds the newest edits of events by their own senders, the newest first.
func (b *bundler) edits(ids []string) (map[string][]string, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	seen, args := b.horizon.where("x.pos", []any{ids, editsRanked - 1})
	found, err := b.pairs(selectEdits(seen), args...)
	if err != nil {
		return nil, err
	}
	var all []string
	for _, list := range found {
		all = append(all, list...)
	}
	events, err := b.r.Events(b.ctx, all)
	if err != nil {
		return nil, err
	}
	for id, e := range events {
		b.children[id] = e
	}
	return found, nil
}

const referencesShown = 1000

func selectReferences(seen string) string {
	return `WITH original AS MATERIALIZED (
		SELECT t.event_id, t.room_id, COALESCE((SELECT x.pos` + relationsTo + `'m.reference'` + seen + ` ORDER BY x.pos LIMIT 1 OFFSET $3), 9223372036854775807) AS upto
		FROM events t WHERE t.event_id = ANY($1)
		) SELECT x.target, x.event_id FROM original JOIN relations x ON x.target = original.event_id AND x.room_id = original.room_id AND x.rel_type = 'm.reference' AND x.pos <= original.upto
		WHERE TRUE` + seen + ` ORDER BY x.target, x.pos`
}

func (b *bundler) references(ids []string) (map[string][]byte, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	seen, args := b.horizon.where("x.pos", []any{ids, listOf(b.ignored), referencesShown - 1})
	seen += " AND NOT (x.sender = ANY($2))"
	found, err := b.pairs(selectReferences(seen), args...)
	if err != nil {
		return nil, err
	}
	out := map[string][]byte{}
	for id, list := range found {
		value := []byte(`{"chunk":[`)
		for i, child := range list {
			if i > 0 {
				value = append(value, ',')
			}
			value = append(matrix.AppendString(append(value, `{"event_id":`...), child), '}')
		}
		out[id] = append(value, "]}"...)
	}
	return out, nil
}

func (b *bundler) pairs(query string, args ...any) (map[string][]string, error) {
	return db.Groups[string, string](b.r.Process.DB.Query(b.ctx, query, args...))
}

func selectThreads(seen string) string {
	return `SELECT t.event_id, (SELECT x.event_id` + relationsTo + `'m.thread'` + seen + ` ORDER BY x.pos DESC LIMIT 1),
		(SELECT COUNT(*) FROM (SELECT 1` + relationsTo + `'m.thread'` + seen + ` LIMIT $4) counted),
		EXISTS (SELECT 1` + relationsTo + `'m.thread' AND x.sender = $2` + seen + `)
		FROM events t WHERE t.event_id = ANY($1)`
}

func (b *bundler) threads(ids []string) (map[string]threadSummary, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	seen, args := b.horizon.where("x.pos", []any{ids, b.user, listOf(b.ignored), repliesCounted})
	seen += " AND NOT (x.sender = ANY($3))"
	out := map[string]threadSummary{}
	return out, db.Each(func(row db.Row) error {
		var target string
		var latest sql.NullString
		var t threadSummary
		if err := row.Scan(&target, &latest, &t.count, &t.mine); err != nil || !latest.Valid {
			return err
		}
		t.latest = latest.String
		out[target] = t
		return nil
	})(b.r.Process.DB.Query(b.ctx, selectThreads(seen), args...))
}

func listOf(users map[string]bool) []string {
	list := make([]string, 0, len(users)) // not nil, which is NULL
	for user := range users {
		list = append(list, user)
	}
	return list
}

// see finds which of the children the user may see.
func (b *bundler) see() error {
	var events []*Event
	for _, e := range b.children {
		if e != nil {
			events = append(events, e)
		}
	}
	seen, err := b.r.sights(b.ctx, b.standing, events)
	if err != nil {
		return err
	}
	for i, e := range events {
		b.visible[e.ID], b.erased[e.ID] = seen[i].Visible, seen[i].Erased
	}
	return nil
}

// Extras gives what unsigned has besides the event's own data, as View.Extra takes it, by event id: the
// bundled aggregations and, for what was redacted, the redaction. Clients tell by it that an event is redacted, so
// readers who may not see the redaction get it without what was written in it.
func (r *Rooms) Extras(ctx context.Context, who Reader, events []*Event) (map[string][][]byte, error) {
	out := map[string][][]byte{}
	bundles, err := r.Bundle(ctx, who.UserID, events)
	if err != nil {
		return nil, err
	}
	for id, raw := range bundles {
		out[id] = append(out[id], append([]byte(`"m.relations":`), raw...))
	}
	var ids []string
	for _, e := range events {
		if e.RedactedBy != "" {
			ids = append(ids, e.RedactedBy)
		}
	}
	if len(ids) == 0 {
		return out, nil
	}
	redactions, err := r.Events(ctx, ids)
	if err != nil {
		return nil, err
	}
	hidden, err := r.hiddenRedactions(ctx, who, redactions)
	if err != nil {
		return nil, err
	}
	for _, e := range events {
		if by := redactions[e.RedactedBy]; by != nil {
			if hidden[by.ID] {
				by = by.withoutReason()
			}
			out[e.ID] = append(out[e.ID], by.AppendClient([]byte(`"redacted_because":`), View{RoomID: true}))
		}
	}
	return out, nil
}

// hiddenRedactions gives those of some redactions, by id, that a reader may not see. Nothing is read for one who is a member
// since before them.
func (r *Rooms) hiddenRedactions(ctx context.Context, who Reader, redactions map[string]*Event) (map[string]bool, error) {
	out := map[string]bool{}
	horizons := map[string]horizon{} // by room: one
	for id, e := range redactions {
		if who.Since > 0 && e.Pos >= who.Since {
			continue
		}
		z, known := horizons[e.RoomID]
		if !known {
			s, err := r.standingOf(ctx, who, e.RoomID)
			if err != nil {
				return nil, err
			}
			if z, err = r.horizonOf(ctx, s); err != nil {
				return nil, err
			}
			horizons[e.RoomID] = z
		}
		out[id] = !z.holds(e.Pos)
	}
	return out, nil
}

// standingOf is how a reader stands to a room that there is.
func (r *Rooms) standingOf(ctx context.Context, who Reader, roomID string) (standing, error) {
	if who.standing != nil && who.standing.head.RoomID == roomID {
		return *who.standing, nil
	}
	s, ok, err := r.standing(ctx, who.UserID, roomID)
	if err == nil && !ok {
		err = notMember()
	}
	return s, err
}

// withoutReason is a redaction without what was written in it.
func (e *Event) withoutReason() *Event {
	bare := *e.Event
	bare.Content = append(matrix.AppendString([]byte(`{"redacts":`), e.Redacts), '}')
	return &Event{Event: &bare, Shard: e.Shard, Pos: e.Pos}
}

// Render writes events as a client gets them everywhere but in /sync: with room_id and all of unsigned.
// sights come from See; nil leaves the membership out.
func (r *Rooms) Render(ctx context.Context, who Reader, events []*Event, sights []Sight) ([]json.RawMessage, error) {
	extras, err := r.Extras(ctx, who, events)
	if err != nil {
		return nil, err
	}
	out := make([]json.RawMessage, len(events))
	for i, e := range events {
		v := View{Device: who.Device, RoomID: true, Extra: extras[e.ID]}
		if sights != nil {
			v.Membership, v.Erased, v.PrevHidden = sights[i].Membership, sights[i].Erased, sights[i].PrevHidden
		}
		if e.Sender != who.UserID {
			v.Device = ""
		}
		out[i] = e.AppendClient(nil, v)
	}
	return out, nil
}

// renderState writes state events without what needs the database.
func renderState(events []*Event) []json.RawMessage {
	out := make([]json.RawMessage, len(events))
	for i, e := range events {
		out[i] = e.AppendClient(nil, View{RoomID: true})
	}
	return out
}
