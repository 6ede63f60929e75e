package rooms

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strings"

	"lyceum/accounts"
	"lyceum/matrix"
	"lyceum/matrix/event"
	"lyceum/rooms/state"
)

// What a user has set for a room holds for the one that replaces it: the account data m.tag, the entries of m.direct, and the push
// rules about the room. A user gets it with the new room: when it is made, or at the join. All of it may be done again.
const (
	typeTags      = "m.tag"
	typeDirect    = "m.direct"
	typePushRules = "m.push_rules"
)

// maxPushRules is how many bytes of push rules a user may have.
const maxPushRules = 256 << 10

// predecessor is the room that a new one says it replaces; "" for none.
func predecessor(create *event.Event) string {
	id, _ := matrix.LookupString(matrix.Lookup(create.Content, "predecessor"), "room_id")
	return id
}

// replacementOf is the room that a tombstone names.
func replacementOf(tombstone *event.Event) string {
	id, _ := matrix.LookupString(tombstone.Content, "replacement_room")
	return id
}

// carryOverFrom carries over what a user, who joins a room, has set for the room before it. Anybody may make a room that says it
// replaces another: only what the other one says too counts.
func (r *Rooms) carryOverFrom(ctx context.Context, userID string, h Head) error {
	key := state.Key{Type: event.TypeCreate}
	found, err := r.StateEvents(ctx, h.Root, key)
	if err != nil || found[key] == nil {
		return err
	}
	before := predecessor(found[key].Event)
	if before == "" {
		return nil
	}
	old, ok, err := r.Head(ctx, before)
	if err != nil || !ok {
		return err
	}
	key = state.Key{Type: event.TypeTombstone}
	if found, err = r.StateEvents(ctx, old.Root, key); err != nil || found[key] == nil || replacementOf(found[key].Event) != h.RoomID {
		return err
	}
	return r.carryOver(ctx, userID, before, h.RoomID)
}

// carryOver copies what a user of this server has set for a room to another one, if the user knows both.
func (r *Rooms) carryOver(ctx context.Context, userID, from, to string) error {
	if !r.Accounts.Local(userID) || from == to {
		return nil
	}
	m, err := r.Membership(ctx, userID, from)
	if err != nil || m.RoomID == "" || m.Forgotten {
		return err
	}
	tags, err := r.Accounts.Tags(ctx, userID, from)
	if err != nil {
		return err
	}
	for _, c := range []struct {
		room, typ string
		change    func(content json.RawMessage) json.RawMessage
	}{
		{to, typeTags, func(now json.RawMessage) json.RawMessage { return addTags(now, tags) }},
		{"", typeDirect, func(now json.RawMessage) json.RawMessage { return addDirectRoom(now, from, to) }},
		{"", typePushRules, func(now json.RawMessage) json.RawMessage { return copyPushRules(now, from, to) }},
	} {
		if err := r.changeData(ctx, userID, c.room, c.typ, c.change); err != nil && !isRefusal(err) { // what does not fit stays away
			return err
		}
	}
	return nil
}

// changeData replaces a piece of account data by what change makes of it; nil changes nothing.
func (r *Rooms) changeData(ctx context.Context, userID, roomID, typ string, change func(now json.RawMessage) json.RawMessage) error {
	content, err := r.Accounts.AccountData(ctx, userID, roomID, typ)
	if err != nil {
		return err
	}
	for now := cmp.Or(string(content), "{}"); ; {
		fresh := change(json.RawMessage(now))
		if fresh == nil {
			return nil
		}
		was := now
		now, err = r.Accounts.SwapAccountData(ctx, userID, accounts.DataSwap{RoomID: roomID, Type: typ, Old: was, New: fresh})
		if err != nil || now == "" {
			return err
		}
	}
}

// addTags gives a room tags, if it has none.
func addTags(now json.RawMessage, tags map[string]json.RawMessage) json.RawMessage {
	if len(tags) == 0 || string(now) != "{}" {
		return nil
	}
	return encodeJSON(map[string]any{"tags": tags})
}

// addDirectRoom adds a room to the lists of direct rooms that another one is in.
func addDirectRoom(now json.RawMessage, from, to string) json.RawMessage {
	var lists map[string]json.RawMessage
	if json.Unmarshal(now, &lists) != nil {
		return nil
	}
	changed := false
	for user, raw := range lists {
		var ids []string
		if json.Unmarshal(raw, &ids) == nil && slices.Contains(ids, from) && !slices.Contains(ids, to) {
			lists[user], changed = encodeJSON(append(ids, to)), true
		}
	}
	if !changed {
		return nil
	}
	return encodeJSON(lists)
}

// copyPushRules copies the push rules about a room: the one of the kind "room", whose id is the room's, and those of other kinds with a
// condition on the room's id. The form is that in which the rules are stored: rules.<kind> is a list.
func copyPushRules(now json.RawMessage, from, to string) json.RawMessage {
	var stored, byKind map[string]json.RawMessage
	if !bytes.Contains(now, []byte(from)) || json.Unmarshal(now, &stored) != nil || json.Unmarshal(stored["rules"], &byKind) != nil {
		return nil
	}
	changed := false
	for _, kind := range []string{"override", "room", "underride"} {
		var list []map[string]json.RawMessage
		if json.Unmarshal(byKind[kind], &list) != nil {
			continue
		}
		ids := map[string]bool{}
		for _, rule := range list {
			ids[ruleID(rule)] = true
		}
		var fresh []map[string]json.RawMessage
		for _, rule := range list {
			fresh = append(fresh, rule)
			if other := aboutRoom(kind, rule, from, to); other != nil && !ids[ruleID(other)] {
				fresh, changed = append(fresh, other), true
			}
		}
		byKind[kind] = encodeJSONUnescaped(fresh)
	}
	if !changed {
		return nil
	}
	stored["rules"] = encodeJSONUnescaped(byKind)
	if fresh := encodeJSONUnescaped(stored); len(fresh) <= maxPushRules {
		return fresh
	}
	return nil
}

func ruleID(rule map[string]json.RawMessage) (id string) {
	_ = json.Unmarshal(rule["rule_id"], &id) // one without an id is like no other
	return id
}

// aboutRoom is the copy for another room of a push rule; nil for one that is not about the room.
func aboutRoom(kind string, rule map[string]json.RawMessage, from, to string) map[string]json.RawMessage {
	id := ruleID(rule)
	out := make(map[string]json.RawMessage, len(rule))
	for k, v := range rule {
		out[k] = v
	}
	if kind == "room" {
		if id != from {
			return nil
		}
		out["rule_id"] = quoteJSON(to)
		return out
	}
	var conditions []map[string]json.RawMessage
	if json.Unmarshal(rule["conditions"], &conditions) != nil {
		return nil
	}
	about := false
	for _, c := range conditions {
		if string(c["key"]) == `"room_id"` && ruleText(c["pattern"]) == from {
			c["pattern"], about = quoteJSON(to), true
		}
	}
	if !about {
		return nil
	}
	out["rule_id"], out["conditions"] = quoteJSON(id[:strings.LastIndex(id, "/")+1]+to), encodeJSONUnescaped(conditions)
	return out
}

func ruleText(raw json.RawMessage) (s string) {
	_ = json.Unmarshal(raw, &s) // what is no text is no room
	return s
}
