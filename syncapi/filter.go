package syncapi

import (
	"encoding/json"
	"errors"
	"slices"

	"github.com/maypok86/otter/v2"

	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/rooms"
)

// filter is a Filter of the specification (client-server API, "Filtering").
type filter struct {
	EventFields []string    `json:"event_fields"`
	Room        roomFilter  `json:"room"`
	Presence    eventFilter `json:"presence"`
	AccountData eventFilter `json:"account_data"`
}

type roomFilter struct {
	Rooms        *[]string   `json:"rooms"`
	NotRooms     []string    `json:"not_rooms"`
	IncludeLeave bool        `json:"include_leave"`
	Timeline     eventFilter `json:"timeline"`
	State        eventFilter `json:"state"`
	Ephemeral    eventFilter `json:"ephemeral"`
	AccountData  eventFilter `json:"account_data"`
}

// eventFilter is the part of a filter for one kind of events.
type eventFilter struct {
	event.Filter
	isSet bool // it excludes something
}

// relationFields are the fields that were not read when filters were first stored, so a stored filter may have anything there.
var relationFields = []string{
	"related_by_senders", "related_by_rel_types", "org.matrix.msc3874.rel_types", "org.matrix.msc3874.not_rel_types",
}

// UnmarshalJSON reads a part of a filter. A client may have stored the filter long ago, and /sync must not fail for it: so the limits of
// event.ParseFilter do not count, and relationFields of a wrong type are ignored.
func (f *eventFilter) UnmarshalJSON(raw []byte) error {
	err := json.Unmarshal(raw, &f.Filter)
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && slices.Contains(relationFields, e.Field) {
		f.RelatedBySenders, f.RelatedByRelTypes, f.RelTypes, f.NotRelTypes, err = nil, nil, nil, nil, nil
	}
	f.RelatedBySenders, f.RelatedByRelTypes = askable(f.RelatedBySenders), askable(f.RelatedByRelTypes)
	f.isSet = f.Excludes()
	return err
}

// maxRelatedBy is how many entries a list may have that the database is asked about, as in event.ParseFilter.
const maxRelatedBy = 1000

// askable returns a list that the database is asked about; one that is too long counts as not given.
func askable(list []string) []string {
	if len(list) > maxRelatedBy {
		return nil
	}
	return list
}

// How many events a timeline has at most, when the filter does not say it and when it says more.
const (
	defaultTimeline = 10
	maxTimeline     = 100
)

// filters keeps parsed filters by their text, as clients send the same text with each request. A parsed filter is never changed.
type filters struct{ cache *otter.Cache[string, *filter] }

func newFilters() filters {
	return filters{otter.Must(&otter.Options[string, *filter]{MaximumSize: 2000})}
}

// maxKeptFilter is how long the text of a filter is at most that is kept, in bytes.
const maxKeptFilter = 4096

func (c filters) parse(raw json.RawMessage) (*filter, error) {
	if f, ok := c.cache.GetIfPresent(string(raw)); ok {
		return f, nil
	}
	f, err := parseFilter(raw)
	if err == nil && len(raw) <= maxKeptFilter {
		c.cache.Set(string(raw), f)
	}
	return f, err
}

func parseFilter(raw json.RawMessage) (*filter, error) {
	f := &filter{}
	if len(raw) == 0 {
		return f, nil
	}
	if err := json.Unmarshal(raw, f); err != nil {
		return nil, matrix.InvalidParam("filter: expected a filter object").With(err)
	}
	return f, nil
}

func (f *filter) timelineLimit() int {
	if f.Room.Timeline.Limit == nil {
		return defaultTimeline
	}
	return min(max(*f.Room.Timeline.Limit, 0), maxTimeline)
}

// passes is the same check as method event, for ephemeral events and account data, which have a type and maybe a sender and a room.
func (f *eventFilter) passes(typ, sender, roomID string) bool {
	return f.MatchType(typ) && (sender == "" || f.MatchSender(sender)) && (roomID == "" || f.Room(roomID))
}

// room reports whether anything of a room passes the filter.
func (f *roomFilter) room(id string) bool {
	return allows(f.Rooms, f.NotRooms, id)
}

// allows reports whether a value is in only, if that is given, and not in not.
func allows(only *[]string, not []string, s string) bool {
	return (only == nil || slices.Contains(*only, s)) && !slices.Contains(not, s)
}

// event reports whether an event passes. For most clients all events do.
func (f *eventFilter) event(e *rooms.Event) bool {
	return !f.isSet || f.Room(e.RoomID) && f.Match(e.Event)
}
