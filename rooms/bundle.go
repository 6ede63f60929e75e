package rooms

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
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

// relationKinds tells which relations there are to an event: edits, those of a thread, references.
type relationKinds [3]bool

const (
	replaced = iota
	threaded
	referred
)

// bundledAggregations gives the bundled aggregations of events of a room, the value of unsigned's m.relations, by event id; events
// without any are left out. The latest edit, the thread summary and the references are what the user may
// see (Client-Server API, "Server-side aggregation of relationships"). It stops after about
// maxBytes of them; fit is how many of the events, from the first, were completed, at least one.
func (r *Rooms) bundledAggregations(
	ctx context.Context, userID string, events []*Event, maxBytes int,
) (out map[string]json.RawMessage, fit int, err error) {
	kinds, err := r.findRelationKinds(ctx, events)
	if err != nil || len(kinds) == 0 {
		return nil, len(events), err
	}
	ignored, err := r.Accounts.Ignored(ctx, userID)
	if err != nil {
		return nil, 0, err
	}
	s, ok, err := r.findMembershipView(ctx, userID, events[0].RoomID)
	if err != nil || !ok {
		return nil, len(events), err
	}
	b := bundler{
		r: r, ctx: ctx, user: userID, ignored: ignored, events: events, maxBytes: maxBytes, kinds: kinds, membershipView: s,
		children: map[string]*Event{}, isVisible: map[string]bool{}, erased: map[string]bool{},
	}
	if b.visibleRanges, err = r.visibleRangesOf(ctx, s); err != nil {
		return nil, 0, err
	}
	out, err = b.run()
	return out, len(b.events), err
}

// findRelationKinds finds which of the events have what relations, in one statement: mostly none has any.
func (r *Rooms) findRelationKinds(ctx context.Context, events []*Event) (map[string]relationKinds, error) {
	ids := make([]string, 0, len(events))
	for _, e := range events {
		ids = append(ids, e.ID)
	}
	if len(ids) == 0 {
		return nil, nil
	}
	out := map[string]relationKinds{}
	err := db.Each(func(row db.Row) error {
		var id string
		var has relationKinds
		err := row.Scan(&id, &has[replaced], &has[threaded], &has[referred])
		if has != (relationKinds{}) {
			out[id] = has
		}
		return err
	})(r.Process.DB.Query(ctx, selectKinds, ids))
	return out, err
}

// relationsTo begins a statement that reads relations to an event t; what kind of them comes next.
const relationsTo = ` FROM relations x WHERE x.target = t.event_id AND x.room_id = t.room_id AND x.rel_type = `

// selectKinds asks first if there is any relation: mostly there is none.
const selectKinds = `SELECT t.event_id, EXISTS (SELECT 1` + relationsTo + `'m.replace'), EXISTS (SELECT 1` + relationsTo + `'m.thread'),
	EXISTS (SELECT 1` + relationsTo + `'m.reference')
	FROM events t WHERE t.event_id = ANY($1) AND EXISTS (SELECT 1 FROM relations x WHERE x.target = t.event_id AND x.room_id = t.room_id)`

// bundler collects the aggregations of some events of a room.
type bundler struct {
	r              *Rooms
	ctx            context.Context
	user           string
	ignored        map[string]bool
	events         []*Event // in the order in which they are given: beyond maxBytes the last ones are taken away
	maxBytes       int      // bytes of the children of one kind, and of what is given; the last may go beyond
	kinds          map[string]relationKinds
	children       map[string]*Event
	unchecked      []*Event // children whose visibility is not decided yet
	isVisible      map[string]bool
	erased         map[string]bool // children whose sender was erased
	membershipView membershipView
	visibleRanges  visibleRanges // what is counted and ranked: children out of sight leave no trace
}

// repliesCounted is up to where the events of a thread are counted.
const repliesCounted = 10_000

type threadSummary struct {
	latest string
	count  int
	mine   bool
}

func (b *bundler) run() (map[string]json.RawMessage, error) {
	threads, err := b.threads(b.withRelations(threaded))
	if err != nil {
		return nil, err
	}
	var latest []relatedEvent
	for i, e := range b.events {
		if t, ok := threads[e.ID]; ok {
			latest = append(latest, relatedEvent{t.latest, i})
		}
	}
	if err := b.read(latest); err != nil {
		return nil, err
	}
	edits, err := b.edits(threads)
	if err != nil {
		return nil, err
	}
	references, err := b.references(b.withRelations(referred))
	if err != nil {
		return nil, err
	}
	if err := b.decideVisibility(); err != nil {
		return nil, err
	}
	out, size := map[string]json.RawMessage{}, 0
	for i, e := range b.events {
		var p []byte
		add := func(kind string, value []byte) {
			p = append(p, ',')
			p = append(matrix.AppendString(p, kind), ':')
			p = append(p, value...)
		}
		if list := references[e.ID]; list != nil {
			add(relReference, list)
		}
		if edit := edits[e.ID]; edit != nil && b.kinds[e.ID][replaced] {
			add(relReplace, edit.AppendClient(nil, ClientOptions{RoomID: true}))
		}
		if t, ok := threads[e.ID]; ok && b.children[t.latest] != nil && b.isVisible[t.latest] {
			add(relThread, b.summary(e, t, edits[t.latest]))
		}
		if p == nil {
			continue
		}
		p[0] = '{'
		out[e.ID] = append(p, '}')
		if size += len(p); size >= b.maxBytes {
			b.events = b.events[:i+1]
			break
		}
	}
	return out, nil
}

// summary is that of the thread below an event. The latest event of a thread comes with its own latest edit.
func (b *bundler) summary(root *Event, t threadSummary, edit *Event) []byte {
	v := ClientOptions{RoomID: true, Erased: b.erased[t.latest]}
	if edit != nil {
		text := edit.AppendClient([]byte(`"m.relations":{"m.replace":`), ClientOptions{RoomID: true})
		v.Extra = append(v.Extra, append(text, '}'))
	}
	value := append([]byte(`{"count":`), strconv.Itoa(t.count)...)
	value = append(value, `,"current_user_participated":`...)
	value = strconv.AppendBool(value, t.mine || root.Sender == b.user)
	value = append(value, `,"latest_event":`...)
	return append(b.children[t.latest].AppendClient(value, v), '}')
}

// withRelations gives the ids of the events that have relations of a kind.
func (b *bundler) withRelations(kind int) (ids []string) {
	for _, e := range b.events {
		if b.kinds[e.ID][kind] {
			ids = append(ids, e.ID)
		}
	}
	return ids
}

// relatedEvent is an event to be given with that of a place among the bundler's events.
type relatedEvent struct {
	id    string
	index int
}

// read reads children, which are in the order of the events, as long as there is room for them. From there on nothing is given:
// neither of events.
func (b *bundler) read(list []relatedEvent) error {
	ids := make([]string, len(list))
	for i, c := range list {
		ids[i] = c.id
	}
	size, next := 0, 0
	err := b.r.EachEvent(b.ctx, ids, func(part []*Event) error {
		for _, e := range part {
			b.children[e.ID] = e
			b.unchecked = append(b.unchecked, e)
			next += slices.Index(ids[next:], e.ID)
			if size += e.text(); size >= b.maxBytes {
				b.events = b.events[:list[next].index+1]
				return errTooLarge
			}
		}
		return nil
	})
	if errors.Is(err, errTooLarge) {
		return nil
	}
	return err
}

// editable tells whether an event may have edits.
func editable(e *Event) bool {
	if e == nil || e.IsState() || e.RedactedBy != "" {
		return false
	}
	rel, ok := event.RelationOf(e.Event)
	return !ok || rel.Type != relReplace
}

// editCounts tells whether an edit that was read is one that counts and that the user may see.
func (b *bundler) editCounts(e *Event) bool {
	if e == nil || !b.isVisible[e.ID] || b.erased[e.ID] {
		return false
	}
	content := matrix.Lookup(e.Content, "m.new_content")
	return e.Type == event.TypeEncrypted || len(content) > 0 && content[0] == '{'
}

// editsRanked is how many edits of an event, the newest ones, are put in the order of their times.
const editsRanked = 100

func selectEdits(seen string) string {
	return `WITH original AS MATERIALIZED (
		SELECT t.event_id, t.room_id, t.sender, t.type,
			COALESCE((SELECT x.pos` + relationsTo + `'m.replace' AND x.sender = t.sender` + seen + `
				ORDER BY x.pos DESC LIMIT 1 OFFSET $2), 0) AS since
		FROM events t WHERE t.event_id = ANY($1)
		) SELECT target, event_id FROM (
		SELECT x.target, x.event_id, ROW_NUMBER() OVER (PARTITION BY x.target ORDER BY e.ts DESC, e.event_id DESC) AS n
		FROM original JOIN relations x ON x.target = original.event_id AND x.room_id = original.room_id
			AND x.sender = original.sender AND x.rel_type = 'm.replace' AND x.pos >= original.since
		JOIN events e ON e.event_id = x.event_id WHERE x.type = original.type` + seen + `
		) ranked WHERE n <= 3 ORDER BY target, n`
}

// edits finds the newest edits that count, by the own senders, of the events and of the latest ones of their threads. Of
// each there may be three that count; they are large, so the second is read only where the first does not, and then the third.
func (b *bundler) edits(threads map[string]threadSummary) (map[string]*Event, error) {
	var targets []relatedEvent
	known := map[string]bool{}
	add := func(e *Event, of int) {
		if editable(e) && !known[e.ID] {
			known[e.ID] = true
			targets = append(targets, relatedEvent{e.ID, of})
		}
	}
	for i, e := range b.events {
		if b.kinds[e.ID][replaced] {
			add(e, i)
		}
		if t, ok := threads[e.ID]; ok {
			add(b.children[t.latest], i)
		}
	}
	if len(targets) == 0 {
		return nil, nil
	}
	ids := make([]string, len(targets))
	for i, t := range targets {
		ids[i] = t.id
	}
	seen, args := b.visibleRanges.where("x.pos", []any{ids, editsRanked - 1})
	found, err := b.pairs(selectEdits(seen), args...)
	if err != nil {
		return nil, err
	}
	out := map[string]*Event{}
	for rank := 0; len(targets) > 0; rank++ {
		var list []relatedEvent
		left := targets[:0]
		for _, t := range targets {
			if edits := found[t.id]; rank < len(edits) && t.index < len(b.events) {
				left, list = append(left, t), append(list, relatedEvent{edits[rank], t.index})
			}
		}
		if err := b.read(list); err != nil {
			return nil, err
		}
		if err := b.decideVisibility(); err != nil {
			return nil, err
		}
		targets = left[:0]
		for i, t := range left {
			if e := b.children[list[i].id]; b.editCounts(e) {
				out[t.id] = e
			} else {
				delete(b.children, list[i].id)
				targets = append(targets, t)
			}
		}
	}
	return out, nil
}

const referencesShown = 1000

func selectReferences(seen string) string {
	return `WITH original AS MATERIALIZED (
		SELECT t.event_id, t.room_id,
			COALESCE((SELECT x.pos` + relationsTo + `'m.reference'` + seen + ` ORDER BY x.pos LIMIT 1 OFFSET $3), 9223372036854775807) AS upto
		FROM events t WHERE t.event_id = ANY($1)
		) SELECT x.target, x.event_id FROM original JOIN relations x ON x.target = original.event_id
			AND x.room_id = original.room_id AND x.rel_type = 'm.reference' AND x.pos <= original.upto
		WHERE TRUE` + seen + ` ORDER BY x.target, x.pos`
}

// references lists what refers to events. Where there is no room for all lists, they are read anew for half of the events.
func (b *bundler) references(ids []string) (map[string][]byte, error) {
	for len(ids) > 0 {
		out, err := b.listReferences(ids)
		if !errors.Is(err, errTooLarge) {
			return out, err
		}
		ids = ids[:len(ids)/2]
		last := ids[len(ids)-1]
		b.events = b.events[:1+slices.IndexFunc(b.events, func(e *Event) bool { return e.ID == last })]
	}
	return nil, nil
}

// listReferences fails with errTooLarge when the lists of several events have more bytes than there is room for.
func (b *bundler) listReferences(ids []string) (map[string][]byte, error) {
	seen, args := b.visibleRanges.where("x.pos", []any{ids, listOf(b.ignored), referencesShown - 1})
	seen += " AND NOT (x.sender = ANY($2))"
	out, size := map[string][]byte{}, 0
	err := db.Each(func(row db.Row) error {
		var target, child string
		if err := row.Scan(&target, &child); err != nil {
			return err
		}
		list := out[target]
		if list == nil {
			list = []byte(`{"chunk":[`)
		} else {
			list = append(list, ',')
		}
		out[target] = append(matrix.AppendString(append(list, `{"event_id":`...), child), '}')
		if size += len(child) + 16; size >= b.maxBytes && len(ids) > 1 {
			return errTooLarge
		}
		return nil
	})(b.r.Process.DB.Query(b.ctx, selectReferences(seen), args...))
	for id, list := range out {
		out[id] = append(list, "]}"...)
	}
	return out, err
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
	seen, args := b.visibleRanges.where("x.pos", []any{ids, b.user, listOf(b.ignored), repliesCounted})
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

// decideVisibility finds which of the children, as far as they are new, the user may see.
func (b *bundler) decideVisibility() error {
	if len(b.unchecked) == 0 {
		return nil
	}
	seen, err := b.r.decideVisibility(b.ctx, b.membershipView, b.unchecked)
	if err != nil {
		return err
	}
	for i, e := range b.unchecked {
		b.isVisible[e.ID], b.erased[e.ID] = seen[i].Visible, seen[i].Erased
	}
	b.unchecked = b.unchecked[:0]
	return nil
}
