package syncapi

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/maypok86/otter/v2"

	"lyceum/matrix"
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

type eventFilter struct {
	Limit                     *int      `json:"limit"`
	Types                     *[]string `json:"types"`
	NotTypes                  []string  `json:"not_types"`
	Senders                   *[]string `json:"senders"`
	NotSenders                []string  `json:"not_senders"`
	Rooms                     *[]string `json:"rooms"`
	NotRooms                  []string  `json:"not_rooms"`
	ContainsURL               *bool     `json:"contains_url"`
	LazyLoadMembers           bool      `json:"lazy_load_members"`
	IncludeRedundantMembers   bool      `json:"include_redundant_members"`
	UnreadThreadNotifications bool      `json:"unread_thread_notifications"`
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

// passes is event for ephemeral events and account data, which have a type and maybe a sender and a room.
func (f *eventFilter) passes(typ, sender, roomID string) bool {
	return f.typed(typ) && (sender == "" || allows(f.Senders, f.NotSenders, sender)) &&
		(roomID == "" || allows(f.Rooms, f.NotRooms, roomID))
}

// room reports whether anything of a room passes the filter.
func (f *roomFilter) room(id string) bool {
	return allows(f.Rooms, f.NotRooms, id)
}

// allows reports whether a value is in only, if that is given, and not in not.
func allows(only *[]string, not []string, s string) bool {
	return (only == nil || slices.Contains(*only, s)) && !slices.Contains(not, s)
}

// typed reports whether a type passes. In the types of a filter, * stands for any text.
func (f *eventFilter) typed(typ string) bool {
	match := func(pattern string) bool { return glob(pattern, typ) }
	return (f.Types == nil || slices.ContainsFunc(*f.Types, match)) && !slices.ContainsFunc(f.NotTypes, match)
}

// all reports whether all events pass, as for most clients.
func (f *eventFilter) all() bool {
	return f.Types == nil && f.NotTypes == nil && f.Senders == nil && f.NotSenders == nil &&
		f.Rooms == nil && f.NotRooms == nil && f.ContainsURL == nil
}

// event reports whether an event passes.
func (f *eventFilter) event(e *rooms.Event) bool {
	if f.all() {
		return true
	}
	if !f.typed(e.Type) || !allows(f.Senders, f.NotSenders, e.Sender) || !allows(f.Rooms, f.NotRooms, e.RoomID) {
		return false
	}
	if f.ContainsURL != nil {
		_, has := e.ContentString("url")
		return has == *f.ContainsURL
	}
	return true
}

// glob matches a pattern in which * stands for any text.
func glob(pattern, s string) bool {
	head, rest, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == s
	}
	if !strings.HasPrefix(s, head) {
		return false
	}
	s = s[len(head):]
	for {
		part, more, found := strings.Cut(rest, "*")
		if !found {
			return strings.HasSuffix(s, part)
		}
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s, rest = s[i+len(part):], more
	}
}
