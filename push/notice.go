package push

import (
	"context"
	"encoding/json"

	"lyceum/matrix/event"
	"lyceum/rooms/state"
)

// notice is the body of POST /_matrix/push/v1/notify (push gateway API).
type notice struct {
	ID           string          `json:"id,omitempty"` // the event id, for older gateways
	EventID      string          `json:"event_id,omitempty"`
	RoomID       string          `json:"room_id,omitempty"`
	Type         string          `json:"type,omitempty"`
	Sender       string          `json:"sender,omitempty"`
	SenderName   string          `json:"sender_display_name,omitempty"`
	RoomName     string          `json:"room_name,omitempty"`
	RoomAlias    string          `json:"room_alias,omitempty"`
	Membership   string          `json:"membership,omitempty"`
	UserIsTarget *bool           `json:"user_is_target,omitempty"` // of membership events
	Prio         string          `json:"prio,omitempty"`
	Content      json.RawMessage `json:"content,omitempty"`
	Counts       noticeCounts    `json:"counts"`
	Devices      []noticeDevice  `json:"devices"`
}

type noticeCounts struct {
	Unread int `json:"unread"`
}

type noticeDevice struct {
	AppID   string                     `json:"app_id"`
	Pushkey string                     `json:"pushkey"`
	Set     int64                      `json:"pushkey_ts"` // seconds
	Data    map[string]json.RawMessage `json:"data"`
	Tweaks  map[string]json.RawMessage `json:"tweaks,omitzero"`
}

// body returns the body of the request to the gateway.
func (p *Push) body(ctx context.Context, n notification) ([]byte, error) {
	unread, err := p.badge(ctx, n.pusher.UserID)
	if err != nil {
		return nil, err
	}
	tweaks := tweaksOf(n.actions)
	device := deviceOf(n.pusher, tweaks)
	out := notice{
		EventID: n.event.ID, RoomID: n.event.RoomID, Prio: "low", Counts: noticeCounts{unread},
		Devices: []noticeDevice{device},
	}
	// Notifications with a sound, and encrypted events, whose importance is not known, have high priority.
	if tweaks["sound"] != nil || tweaks["highlight"] != nil || n.event.Type == event.TypeEncrypted {
		out.Prio = "high"
	}
	if string(device.Data["format"]) != `"event_id_only"` {
		if err := p.describe(ctx, n, &out); err != nil {
			return nil, err
		}
	}
	return json.Marshal(map[string]notice{"notification": out})
}

// deviceOf returns a pusher in the form for its gateway.
func deviceOf(x *pusher, tweaks map[string]json.RawMessage) noticeDevice {
	data := map[string]json.RawMessage{}
	_ = json.Unmarshal(x.Data, &data) // it was checked when it was stored
	delete(data, "url")
	return noticeDevice{x.AppID, x.Pushkey, x.setAt / 1000, data, tweaks}
}

// describe adds the properties of the full format.
func (p *Push) describe(ctx context.Context, n notification, out *notice) error {
	e := n.event
	sender := state.Key{Type: event.TypeMember, StateKey: e.Sender}
	name, alias := state.Key{Type: event.TypeName}, state.Key{Type: event.TypeCanonicalAlias}
	found, err := p.Rooms.StateEvents(ctx, e.Root, sender, name, alias)
	if err != nil {
		return err
	}
	out.ID, out.Type, out.Sender, out.Content = e.ID, e.Type, e.Sender, e.Content
	if e.Type == event.TypeMember && e.StateKey != nil {
		target := *e.StateKey == n.pusher.UserID
		out.Membership, out.UserIsTarget = e.Membership(), &target
	}
	for _, part := range []struct {
		key    state.Key
		member string
		to     *string
	}{{sender, "displayname", &out.SenderName}, {name, "name", &out.RoomName}, {alias, "alias", &out.RoomAlias}} {
		if s := found[part.key]; s != nil {
			*part.to, _ = s.ContentString(part.member)
		}
	}
	return nil
}

// tweaksOf returns the tweaks of a list of actions by name.
func tweaksOf(actions json.RawMessage) map[string]json.RawMessage {
	out := map[string]json.RawMessage{}
	var list []json.RawMessage
	_ = json.Unmarshal(actions, &list) // it was checked when it was stored
	for _, a := range list {
		var tweak struct {
			Name  string          `json:"set_tweak"`
			Value json.RawMessage `json:"value"`
		}
		if json.Unmarshal(a, &tweak) != nil || tweak.Name == "" {
			continue
		}
		if tweak.Value == nil && tweak.Name == "highlight" {
			tweak.Value = json.RawMessage("true")
		}
		out[tweak.Name] = tweak.Value
	}
	return out
}
