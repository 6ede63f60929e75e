package rooms

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"lyceum/matrix/event"
	"lyceum/platform/db"
)

// usesDatabase reports whether the database decides a part of a filter.
func usesDatabase(f *event.Filter) bool {
	where, _ := filterCondition(f, nil, knownRelations{})
	return where != ""
}

// usesRelations reports whether relations to an event decide if a filter lets the event through.
func usesRelations(f *event.Filter) bool {
	return f.RelatedBySenders != nil || f.RelatedByRelTypes != nil
}

// The relations to an event e of which one decides, and how many are looked at.
const (
	selectRelated     = "SELECT x.pos, x.sender FROM relations x WHERE x.target = e.event_id AND x.room_id = e.room_id AND x."
	maxRelationsTried = 1000
)

// knownRelations says which relations to events a reader knows of. Others decide nothing.
type knownRelations struct {
	visible visibleRanges
	ignored []string // senders
}

// filterCondition returns the part of a filter that the database can decide, as SQL about the table e, and args with its own arguments
// added. Filter.Match decides the same again, except related_by_senders and related_by_rel_types.
func filterCondition(f *event.Filter, args []any, known knownRelations) (string, []any) {
	var parts []string
	add := func(text string, arg any) {
		args = append(args, arg)
		parts = append(parts, strings.ReplaceAll(text, "?", fmt.Sprintf("$%d", len(args))))
	}
	by := func(column string, values []string) {
		seen := ""
		args = append(args, values, known.ignored)
		text := fmt.Sprintf("EXISTS (SELECT 1 FROM ("+selectRelated+"%s = ANY($%d) LIMIT %d) x WHERE NOT (x.sender = ANY($%d))",
			column, len(args)-1, maxRelationsTried, len(args))
		seen, args = known.visible.where("x.pos", args)
		parts = append(parts, text+seen+")")
	}
	plain := func(list []string) bool {
		return !slices.ContainsFunc(list, func(s string) bool { return strings.Contains(s, "*") })
	}
	if f.Types != nil && plain(f.Types) {
		add("e.type = ANY(?)", f.Types)
	}
	if len(f.NotTypes) > 0 && plain(f.NotTypes) {
		add("NOT (e.type = ANY(?))", f.NotTypes)
	}
	if f.Senders != nil {
		add("e.sender = ANY(?)", f.Senders)
	}
	if len(f.NotSenders) > 0 {
		add("NOT (e.sender = ANY(?))", f.NotSenders)
	}
	if f.RelatedBySenders != nil {
		by("sender", f.RelatedBySenders)
	}
	if f.RelatedByRelTypes != nil {
		by("rel_type", f.RelatedByRelTypes)
	}
	return strings.Join(parts, " AND "), args
}

// MatchingRelations returns which events of a room pass related_by_senders and related_by_rel_types of a filter for a user, by id; nil when
// the filter has neither, so that all pass.
func (r *Rooms) MatchingRelations(
	ctx context.Context, userID, roomID string, f *event.Filter, events []*Event,
) (map[string]bool, error) {
	if !usesRelations(f) {
		return nil, nil
	}
	out := map[string]bool{}
	s, ok, err := r.findMembershipView(ctx, userID, roomID)
	if err != nil || !ok || len(events) == 0 {
		return out, err
	}
	var known knownRelations
	if known.visible, err = r.visibleRangesOf(ctx, s); err != nil {
		return nil, err
	}
	ignored, err := r.Accounts.Ignored(ctx, userID)
	if err != nil {
		return nil, err
	}
	known.ignored = listOf(ignored)
	ids := make([]string, len(events))
	for i, e := range events {
		ids[i] = e.ID
	}
	relations := &event.Filter{RelatedBySenders: f.RelatedBySenders, RelatedByRelTypes: f.RelatedByRelTypes}
	where, args := filterCondition(relations, []any{ids}, known)
	list, err := db.Texts(r.Process.DB.Query(ctx, "SELECT e.event_id FROM events e WHERE e.event_id = ANY($1) AND "+where, args...))
	for _, id := range list {
		out[id] = true
	}
	return out, err
}
