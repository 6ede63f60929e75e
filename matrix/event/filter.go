package event

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"lyceum/matrix"
)

// Filter is a RoomEventFilter (Client-Server API, "Filtering"). A list that is nil excludes nothing; one
// that is there and empty lets nothing through.
type Filter struct {
	Limit             *int     `json:"limit"`
	Types             []string `json:"types"`
	NotTypes          []string `json:"not_types"`
	Senders           []string `json:"senders"`
	NotSenders        []string `json:"not_senders"`
	Rooms             []string `json:"rooms"`
	NotRooms          []string `json:"not_rooms"`
	ContainsURL       *bool    `json:"contains_url"`
	LazyMembers       bool     `json:"lazy_load_members"`
	RedundantMembers  bool     `json:"include_redundant_members"`
	RelatedBySenders  []string `json:"related_by_senders"`
	RelatedByRelTypes []string `json:"related_by_rel_types"`
	ThreadUnreads     bool     `json:"unread_thread_notifications"`
	// RelTypes and NotRelTypes are about the rel_type of the event itself (MSC3874); an event without one has the type "".
	RelTypes    []string `json:"org.matrix.msc3874.rel_types"`
	NotRelTypes []string `json:"org.matrix.msc3874.not_rel_types"`
}

const maxFilterList = 1000

// ParseFilter reads a filter; no text is no filter. Errors: M_NOT_JSON, M_BAD_JSON.
func ParseFilter(text string) (*Filter, error) {
	f := &Filter{}
	if text == "" {
		return f, nil
	}
	if err := matrix.ValidateJSON([]byte(text), matrix.Limits{Bytes: 64 << 10, Depth: 10, Object: true}); err != nil {
		return nil, matrix.NotJSON("The filter must be a JSON object of at most 64 KiB").With(err)
	}
	if err := json.Unmarshal([]byte(text), f); err != nil {
		return nil, matrix.BadJSON("The filter has a wrong shape").With(err)
	}
	return f, f.check()
}

func (f *Filter) check() error {
	lists := [...][]string{
		f.Types, f.NotTypes, f.Senders, f.NotSenders, f.Rooms, f.NotRooms,
		f.RelatedBySenders, f.RelatedByRelTypes, f.RelTypes, f.NotRelTypes,
	}
	for _, list := range lists {
		if len(list) > maxFilterList {
			return matrix.BadJSON(fmt.Sprintf("A list of a filter has at most %d entries", maxFilterList))
		}
		for _, s := range list {
			if strings.Contains(s, "\x00") {
				return matrix.BadJSON("The filter must not hold NUL")
			}
		}
	}
	if f.Limit != nil && *f.Limit < 0 {
		return matrix.BadJSON("The limit of a filter must not be negative")
	}
	return nil
}

// Room tells that the filter lets a room through.
func (f *Filter) Room(roomID string) bool {
	return (f.Rooms == nil || slices.Contains(f.Rooms, roomID)) && !slices.Contains(f.NotRooms, roomID)
}

// Excludes reports whether there is anything that the filter does not let through by what an event says or by its room.
func (f *Filter) Excludes() bool {
	return f.Types != nil || f.NotTypes != nil || f.Senders != nil || f.NotSenders != nil || f.Rooms != nil || f.NotRooms != nil ||
		f.ContainsURL != nil || f.RelTypes != nil || f.NotRelTypes != nil
}

// MatchType reports whether a type passes. In the types of a filter, * stands for any text.
func (f *Filter) MatchType(typ string) bool {
	like := func(pattern string) bool { return matchType(pattern, typ) }
	return (f.Types == nil || slices.ContainsFunc(f.Types, like)) && !slices.ContainsFunc(f.NotTypes, like)
}

// MatchSender reports whether a sender passes.
func (f *Filter) MatchSender(id string) bool {
	return (f.Senders == nil || slices.Contains(f.Senders, id)) && !slices.Contains(f.NotSenders, id)
}

// Match reports whether the filter lets an event through by what the event itself says. It does not check rooms,
// related_by_senders and related_by_rel_types.
func (f *Filter) Match(e *Event) bool {
	if !f.MatchSender(e.Sender) || !f.MatchType(e.Type) {
		return false
	}
	if f.RelTypes != nil || len(f.NotRelTypes) > 0 {
		rel, ok := RelationOf(e)
		if !ok {
			rel.Type = ""
		}
		if f.RelTypes != nil && !slices.Contains(f.RelTypes, rel.Type) || slices.Contains(f.NotRelTypes, rel.Type) {
			return false
		}
	}
	if f.ContainsURL != nil {
		raw := matrix.Lookup(e.Content, "url")
		return (len(raw) > 0 && raw[0] == '"') == *f.ContainsURL
	}
	return true
}

// matchType matches a type against a pattern where * stands for any text.
func matchType(pattern, typ string) bool {
	first, rest, wild := strings.Cut(pattern, "*")
	if !wild {
		return pattern == typ
	}
	typ, ok := strings.CutPrefix(typ, first)
	if !ok {
		return false
	}
	parts := strings.Split(rest, "*")
	for _, part := range parts[:len(parts)-1] {
		i := strings.Index(typ, part)
		if i < 0 {
			return false
		}
		typ = typ[i+len(part):]
	}
	return strings.HasSuffix(typ, parts[len(parts)-1])
}
