package event

import (
	"strings"

	"lyceum/matrix"
)

// Relation is what m.relates_to of an event says (Client-Server API, "Forming relationships between events").
type Relation struct {
	Target string // the event that it relates to
	Type   string // rel_type
	Key    string // of an annotation, "" otherwise
}

// RelationOf reads m.relates_to. It is not ok when the event relates to none, is a state event, or when a text of the relation has NUL
// or is too long.
func RelationOf(e *Event) (rel Relation, ok bool) {
	if e.IsState() {
		return rel, false
	}
	raw := matrix.Lookup(e.Content, "m.relates_to")
	if len(raw) == 0 || raw[0] != '{' {
		return rel, false
	}
	rel.Type, _ = matrix.LookupString(raw, "rel_type")
	rel.Target, _ = matrix.LookupString(raw, "event_id")
	rel.Key, _ = matrix.LookupString(raw, "key")
	if strings.Contains(rel.Type+rel.Target+rel.Key, "\x00") { // databases do not take it as text
		return rel, false
	}
	return rel, rel.Type != "" && rel.Target != "" && len(rel.Type) <= 255 && len(rel.Target) <= 255 && len(rel.Key) <= 1024
}
