package rooms

import (
	"context"
	"encoding/json"

	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/rooms/state"
)

// Those who are invited or look at a room from outside get what strangers wrote, and can not refuse it before they have seen it. So
// a content of usual size is given as it is, and of a larger one only what the room is shown by.
const (
	strippedWhole = 2 << 10 // bytes of a content that is given as it is
	strippedCut   = 1 << 10 // bytes of what is given of a larger one
)

// strippedFields are what is given of large contents, as far as there is space. The first one of a type is what the event is for:
// without it there is nothing to show.
var strippedFields = map[string][]string{
	event.TypeCreate:         {"room_version", "creator", "type", "additional_creators"},
	event.TypeMember:         {"membership", "displayname", "avatar_url", "is_direct"},
	event.TypeJoinRules:      {"join_rule", "allow"},
	event.TypeCanonicalAlias: {"alias"},
	event.TypeAvatar:         {"url"},
	event.TypeName:           {"name"},
	event.TypeEncryption:     {"algorithm"},
	event.TypeTopic:          {"topic"},
	TypeSpaceChild:           {"via", "suggested", "order"},
}

// TypeSpaceChild is the type of the state that makes a room, its state key, a child of a space.
const TypeSpaceChild = "m.space.child"

// Stripped gives a state event as those see it who are no members (Client-Server API, "Stripped state"): with at most 2 KiB of
// content. It is nil for an event of which there is nothing to show; there always is of a membership.
func Stripped(e *Event) json.RawMessage {
	content := strippedContent(e.Event)
	if content == nil {
		return nil
	}
	return event.StrippedJSON(nil, e.Event, content)
}

func strippedContent(e *event.Event) []byte {
	if len(e.Content) <= strippedWhole {
		return e.Content
	}
	out := []byte{'{'}
	for i, field := range strippedFields[e.Type] {
		value, left := matrix.Lookup(e.Content, field), strippedCut-len(out)-len(field)-len(`,"":}`)
		if field == "via" {
			value = firstElements(value, left/2) // any server of the list will do
		}
		switch {
		case value != nil && len(value) <= left:
			if len(out) > 1 {
				out = append(out, ',')
			}
			out = append(matrix.AppendString(out, field), ':')
			out = append(out, value...)
		case i == 0 && e.Type != event.TypeMember:
			return nil
		}
	}
	if len(out) == 1 && e.Type != event.TypeMember {
		return nil
	}
	return append(out, '}')
}

// firstElements is a canonical array with as many of its first elements as fit into so many bytes; nil when none does.
func firstElements(array []byte, most int) []byte {
	if len(array) == 0 || array[0] != '[' {
		return nil
	}
	end := 0
	for i := 1; ; {
		_, next, ok := matrix.NextElement(array, i)
		if !ok || next > most {
			break
		}
		i, end = next, next
	}
	if end == 0 {
		return nil
	}
	if array[end-1] == ',' {
		end--
	}
	return append(array[:end:end], ']')
}

// StrippedState gives the state that those see who are invited or knock, in the stripped form: create, join
// rules, canonical alias, avatar, name, encryption, topic, and the memberships of the users named. The create event and the
// memberships have their ids and times: without a time clients would show 1970 (MSC4311 wants the create event whole).
func (r *Rooms) StrippedState(ctx context.Context, root state.ID, members ...string) ([]json.RawMessage, error) {
	keys := []state.Key{
		{Type: event.TypeCreate},
		{Type: event.TypeJoinRules},
		{Type: event.TypeCanonicalAlias},
		{Type: event.TypeAvatar},
		{Type: event.TypeName},
		{Type: event.TypeEncryption},
		{Type: event.TypeTopic},
	}
	for _, user := range members {
		keys = append(keys, state.Key{Type: event.TypeMember, StateKey: user})
	}
	found, err := r.StateEvents(ctx, root, keys...)
	if err != nil {
		return nil, err
	}
	out := make([]json.RawMessage, 0, len(found))
	for _, k := range keys {
		e := found[k]
		if e == nil {
			continue
		}
		delete(found, k)
		switch content := strippedContent(e.Event); {
		case content == nil:
		case k.Type == event.TypeCreate, k.Type == event.TypeMember:
			out = append(out, event.StrippedJSONWithTime(nil, e.Event, content))
		default:
			out = append(out, event.StrippedJSON(nil, e.Event, content))
		}
	}
	return out, nil
}
