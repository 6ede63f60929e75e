package push

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"lyceum/matrix/event"
	"lyceum/rooms"
	"lyceum/rooms/state"
)

// notification is an event for a pusher.
type notification struct {
	pusher  *pusher
	event   *rooms.Event
	actions json.RawMessage
}

// receiver is a member of a room who has pushers.
type receiver struct {
	member  rooms.Membership
	pushers []*pusher
	since   int64 // since when member is joined, 0 as long as nobody asked; under the lock of workers
}

// receiversOf gives the members of a room who have pushers.
func (p *Push) receiversOf(ctx context.Context, roomID string) ([]*receiver, error) {
	w := &p.sender
	w.mu.Lock()
	known, ok := w.receivers[roomID]
	gen := w.generation
	w.mu.Unlock()
	if ok && p.Now().Before(known.until) {
		return known.list, nil
	}
	list, err := p.readReceivers(ctx, roomID)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.generation == gen {
		if len(w.receivers) >= maxRooms {
			clear(w.receivers)
		}
		w.receivers[roomID] = receivers{list, p.Now().Add(receiversFor)}
	}
	return list, nil
}

func (p *Push) readReceivers(ctx context.Context, roomID string) ([]*receiver, error) {
	members, err := p.Rooms.Members(ctx, roomID, event.MembershipJoin)
	if err != nil {
		return nil, err
	}
	ids := make([]string, len(members))
	for i, m := range members {
		ids[i] = m.UserID
	}
	all, err := p.queryPushers(ctx, `user_id = ANY($1)`, ids)
	if err != nil {
		return nil, err
	}
	of := map[string][]*pusher{}
	for _, x := range all {
		of[x.UserID] = append(of[x.UserID], x)
	}
	var list []*receiver
	for _, m := range members {
		if len(of[m.UserID]) > 0 {
			list = append(list, &receiver{member: m, pushers: of[m.UserID]})
		}
	}
	return list, nil
}

// wasThere tells that a receiver was a member already when an event was sent: the members are those of now, and who came since
// is told nothing of before. Most memberships are older than the event; of one that is not, it may be the name that changed.
func (p *Push) wasThere(ctx context.Context, r *receiver, e *rooms.Event) (bool, error) {
	if r.member.Pos <= e.Pos {
		return true, nil
	}
	w := &p.sender
	w.mu.Lock()
	since := r.since
	w.mu.Unlock()
	if since == 0 {
		var err error
		if since, err = p.Rooms.JoinedAt(ctx, r.member); err != nil {
			return false, err
		}
		w.mu.Lock()
		r.since = since
		w.mu.Unlock()
	}
	return since <= e.Pos, nil
}

// invited gives the user whom an event invites, unless the invite is gone: taken back, refused or followed by a join.
func (p *Push) invited(ctx context.Context, e *rooms.Event) ([]*receiver, error) {
	if e.Membership() != event.MembershipInvite || e.StateKey == nil {
		return nil, nil
	}
	m, err := p.Rooms.Membership(ctx, *e.StateKey, e.RoomID)
	if err != nil || m.EventID != e.ID {
		return nil, err
	}
	list, err := p.queryPushers(ctx, `user_id = $1`, m.UserID)
	return []*receiver{{member: m, pushers: list}}, err
}

// notifications gives what an event is to tell whom.
func (p *Push) notifications(ctx context.Context, e *rooms.Event) ([]notification, error) {
	if e.RedactedBy != "" {
		return nil, nil
	}
	members, err := p.receiversOf(ctx, e.RoomID)
	if err != nil {
		return nil, err
	}
	invited, err := p.invited(ctx, e)
	if err != nil {
		return nil, err
	}
	var out []notification
	var failed error
	for _, r := range slices.Concat(members, invited) {
		res, err := p.forReceiver(ctx, r, e)
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		if !res.Notify {
			continue
		}
		for _, x := range r.pushers {
			out = append(out, notification{x, e, res.Actions})
		}
	}
	return out, failed
}

// forReceiver is evaluate for a member of now.
func (p *Push) forReceiver(ctx context.Context, r *receiver, e *rooms.Event) (Result, error) {
	if there, err := p.wasThere(ctx, r, e); err != nil || !there {
		return Result{}, err
	}
	return p.evaluate(ctx, r.member.UserID, e)
}

// isOld tells that an event is no news whoever gets it.
func (p *Push) isOld(e *rooms.Event) bool {
	return p.Now().Sub(time.UnixMilli(e.OriginServerTS)) > maxEventAge
}

// evaluate tells what the rules of a user say of an event.
func (p *Push) evaluate(ctx context.Context, userID string, e *rooms.Event) (Result, error) {
	if e.Sender == userID {
		return Result{}, nil
	}
	ignored, err := p.Accounts.Ignored(ctx, userID)
	if err != nil || ignored[e.Sender] {
		return Result{}, err
	}
	rules, err := p.rulesOf(ctx, userID)
	if err != nil {
		return Result{}, err
	}
	l, entry := p.userCount(userID, e.RoomID)
	facts, err := p.factsFor(ctx, userID, l, entry, e)
	if err != nil {
		return Result{}, err
	}
	return Evaluate(rules.compiled, NewSubject(e.Event), &facts), nil
}

// notice is the body of POST /_matrix/push/v1/notify (push gateway API).
type notice struct {
	ID           string          `json:"id,omitempty"` // the event id, as gateways of before know it
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
	// What makes a sound or may be of any importance wakes a device.
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

// deviceOf is a pusher as its gateway knows it.
func deviceOf(x *pusher, tweaks map[string]json.RawMessage) noticeDevice {
	data := map[string]json.RawMessage{}
	_ = json.Unmarshal(x.Data, &data) // it was checked when it was stored
	delete(data, "url")
	return noticeDevice{x.AppID, x.Pushkey, x.set / 1000, data, tweaks}
}

// describe adds what the full format tells.
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

// badge is the number of unread notifications of a user in all rooms.
func (p *Push) badge(ctx context.Context, userID string) (int, error) {
	list, err := p.Rooms.Memberships(ctx, userID)
	if err != nil {
		return 0, err
	}
	total := 0
	for _, m := range list {
		switch m.Membership {
		case event.MembershipInvite:
			total++
		case event.MembershipJoin:
			c, err := p.Unread(ctx, userID, m.RoomID)
			if err != nil {
				return 0, err
			}
			total += c.Notify
			for _, t := range c.Threads {
				total += t.Notify
			}
		}
	}
	return total, nil
}
