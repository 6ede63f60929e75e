package settings

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strings"

	"lyceum/accounts"
	"lyceum/matrix"
)

// The types of account data that are copied.
const (
	typeTags      = "m.tag"
	typeDirect    = "m.direct"
	typePushRules = "m.push_rules"
)

// maxPushRules is how many bytes of push rules a user may have.
const maxPushRules = 256 << 10

// copier copies the settings of one user.
type copier struct {
	accounts *accounts.Accounts
	userID   string
}

// change makes the new content of a piece of account data out of the present one; nil to leave it as it is.
type change func(now json.RawMessage) json.RawMessage

// Copy gives the room to the settings that a local user has for the room from. Settings that do not fit, as the user has too many,
// are left out without an error.
func Copy(ctx context.Context, a *accounts.Accounts, userID, from, to string) error {
	tags, err := a.Tags(ctx, userID, from)
	if err != nil {
		return err
	}
	c := &copier{a, userID}
	for _, x := range []struct {
		room, typ string
		change    change
	}{
		{to, typeTags, func(now json.RawMessage) json.RawMessage { return addTags(now, tags) }},
		{"", typeDirect, func(now json.RawMessage) json.RawMessage { return addDirectRoom(now, from, to) }},
		{"", typePushRules, func(now json.RawMessage) json.RawMessage { return copyPushRules(now, from, to) }},
	} {
		if err := c.changeData(ctx, x.room, x.typ, x.change); err != nil && !matrix.IsRefusal(err) {
			return err
		}
	}
	return nil
}

// changeData replaces a piece of account data by what change makes of it; nil changes nothing.
func (c *copier) changeData(ctx context.Context, roomID, typ string, change change) error {
	content, err := c.accounts.AccountData(ctx, c.userID, roomID, typ)
	if err != nil {
		return err
	}
	for now := cmp.Or(string(content), "{}"); ; {
		fresh := change(json.RawMessage(now))
		if fresh == nil {
			return nil
		}
		swap := accounts.DataSwap{RoomID: roomID, Type: typ, Old: now, New: fresh}
		if now, err = c.accounts.SwapAccountData(ctx, c.userID, swap); err != nil || now == "" {
			return err
		}
	}
}

// addTags gives a room tags, if it has none.
func addTags(now json.RawMessage, tags map[string]json.RawMessage) json.RawMessage {
	if len(tags) == 0 || string(now) != "{}" {
		return nil
	}
	return encode(map[string]any{"tags": tags})
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
			lists[user], changed = encode(append(ids, to)), true
		}
	}
	if !changed {
		return nil
	}
	return encode(lists)
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
		byKind[kind] = encode(fresh)
	}
	if !changed {
		return nil
	}
	stored["rules"] = encode(byKind)
	if fresh := encode(stored); len(fresh) <= maxPushRules {
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
		out["rule_id"] = quote(to)
		return out
	}
	var conditions []map[string]json.RawMessage
	if json.Unmarshal(rule["conditions"], &conditions) != nil {
		return nil
	}
	about := false
	for _, c := range conditions {
		if string(c["key"]) == `"room_id"` && ruleText(c["pattern"]) == from {
			c["pattern"], about = quote(to), true
		}
	}
	if !about {
		return nil
	}
	out["rule_id"], out["conditions"] = quote(id[:strings.LastIndex(id, "/")+1]+to), encode(conditions)
	return out
}

func ruleText(raw json.RawMessage) (s string) {
	_ = json.Unmarshal(raw, &s) // what is no text is no room
	return s
}

// encode is v as JSON with <, > and & as they are; what this package encodes can not fail.
func encode(v any) json.RawMessage {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err)
	}
	return bytes.TrimSpace(b.Bytes())
}

func quote(s string) json.RawMessage { return matrix.AppendString(nil, s) }
