package auth

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"lyceum/matrix"
	"lyceum/matrix/event"
)

const (
	alice = "@alice:a.example" // creator
	bob   = "@bob:b.example"
	carol = "@carol:c.example"
)

func ptr(s string) *string { return &s }

func version(t testing.TB, id string) event.Version {
	v, ok := event.VersionByID(id)
	if !ok {
		t.Fatal(id)
	}
	return v
}

// room makes events of one room version without hashes: the rules look at
// members only.
type room struct {
	t     testing.TB
	v     event.Version
	id    string
	n     int
	state Map
}

// make reads an event with the given members over defaults.
func (r *room) make(over map[string]any) *event.Event {
	r.n++
	m := map[string]any{
		"sender": alice, "content": map[string]any{}, "depth": r.n, "origin_server_ts": r.n, "prev_events": []string{"$prev"},
		"auth_events": []string{}, "hashes": map[string]any{}, "signatures": map[string]any{}, "room_id": r.id,
	}
	for k, v := range over {
		m[k] = v
	}
	if m["room_id"] == "" {
		delete(m, "room_id")
	}
	raw, err := json.Marshal(m)
	if err != nil {
		r.t.Fatal(err)
	}
	if raw, err = r.v.Canonical(raw); err != nil {
		r.t.Fatal(err)
	}
	id := fmt.Sprintf("$e%042d", r.n)
	if r.v.IDFormat == event.IDField {
		id = fmt.Sprintf("$e%d:%s", r.n, matrix.ServerOf(m["sender"].(string)))
	}
	e, err := event.ParseTrusted(r.v, raw, id)
	if err != nil {
		r.t.Fatal(err)
	}
	return e
}

type content = map[string]any

func (r *room) set(typ, key, sender string, c content) *event.Event {
	e := r.make(map[string]any{"type": typ, "state_key": key, "sender": sender, "content": c})
	r.state[KeyOf(e)] = e
	return e
}

func (r *room) member(user, membership string) {
	r.set(event.TypeMember, user, user, content{"membership": membership})
}

// newRoom makes a room with alice as joined creator, and nothing else.
func newRoom(t testing.TB, v event.Version, create content) *room {
	r := &room{t: t, v: v, id: "!r:a.example", state: Map{}}
	c := content{"room_version": v.ID}
	if v.CreatorInContent {
		c["creator"] = alice
	}
	for k, x := range create {
		c[k] = x
	}
	over := map[string]any{"type": event.TypeCreate, "state_key": "", "content": c, "prev_events": []string{}}
	if v.RoomIDIsCreateHash {
		over["room_id"] = ""
	}
	e := r.make(over)
	r.id = e.RoomID
	r.state[KeyOf(e)] = e
	r.member(alice, "join")
	return r
}

func (r *room) check(name string, e *event.Event, rule string) {
	r.t.Helper()
	err := Allowed(r.v, e, r.state)
	switch {
	case rule == "" && err != nil:
		r.t.Errorf("v%s %s: %v; want allowed", r.v.ID, name, err)
	case rule != "" && (!errors.Is(err, ErrDenied) || !strings.Contains(err.Error(), rule)):
		r.t.Errorf("v%s %s: got %v; want a denial by %q", r.v.ID, name, err, rule)
	}
}

func each(t *testing.T, from, to int, f func(t *testing.T, v event.Version)) {
	for n := from; n <= to; n++ {
		t.Run(fmt.Sprint("v", n), func(t *testing.T) { f(t, version(t, fmt.Sprint(n))) })
	}
}

func TestCreate(t *testing.T) {
	each(t, 1, 12, func(t *testing.T, v event.Version) {
		r := newRoom(t, v, nil)
		base := func(over map[string]any, c content) *event.Event {
			m := map[string]any{"type": event.TypeCreate, "state_key": "", "prev_events": []string{}}
			if v.RoomIDIsCreateHash {
				m["room_id"] = ""
			}
			cc := content{"room_version": v.ID}
			if v.CreatorInContent {
				cc["creator"] = alice
			}
			for k, x := range c {
				cc[k] = x
				if x == nil {
					delete(cc, k)
				}
			}
			m["content"] = cc
			for k, x := range over {
				m[k] = x
			}
			return r.make(m)
		}
		r.check("create", base(nil, nil), "")
		r.check("no version", base(nil, content{"room_version": nil}), "")
		r.check("prev_events", base(map[string]any{"prev_events": []string{"$x"}}, nil), "prev_events")
		r.check("unknown version", base(nil, content{"room_version": "x.y"}), "room_version")
		r.check("version is no string", base(nil, content{"room_version": 6}), "room_version")
		if v.RoomIDIsCreateHash {
			r.check("room_id", base(map[string]any{"room_id": r.id}, nil), "room_id")
			r.check("additional", base(nil, content{"additional_creators": []string{bob}}), "")
			r.check("additional type", base(nil, content{"additional_creators": bob}), "additional_creators")
			r.check("additional element", base(nil, content{"additional_creators": []any{1}}), "additional_creators")
			r.check("additional id", base(nil, content{"additional_creators": []any{"bob"}}), "additional_creators")
		} else {
			r.check("domain", base(map[string]any{"sender": bob}, nil), "another server")
			r.check("additional ignored", base(nil, content{"additional_creators": 1}), "")
		}
		rule := "creator"
		if !v.CreatorInContent {
			rule = ""
		}
		r.check("creator", base(nil, content{"creator": nil}), rule)
	})
}

func TestRoomAndFederation(t *testing.T) {
	each(t, 1, 12, func(t *testing.T, v event.Version) {
		r := newRoom(t, v, content{"m.federate": false})
		r.set(event.TypeJoinRules, "", alice, content{"join_rule": "public"})
		msg := func(sender string) *event.Event {
			return r.make(map[string]any{"type": event.TypeMessage, "sender": sender})
		}
		r.check("own", msg(alice), "")
		r.check("foreign", msg(bob), "federate")
		other := msg(alice)
		other.RoomID = "!other:a.example"
		r.check("other room", other, "another m.room.create")
		delete(r.state, Key{event.TypeCreate, ""})
		r.check("no create", msg(alice), "no m.room.create")
	})
}

func (r *room) change(sender, target, membership string, extra content) *event.Event {
	c := content{"membership": membership}
	for k, x := range extra {
		c[k] = x
	}
	return r.make(map[string]any{"type": event.TypeMember, "state_key": target, "sender": sender, "content": c})
}

func TestMemberForm(t *testing.T) {
	each(t, 1, 12, func(t *testing.T, v event.Version) {
		r := newRoom(t, v, nil)
		r.check("no state_key", r.make(map[string]any{"type": event.TypeMember, "content": content{"membership": "join"}}), "no state_key")
		r.check("no membership", r.make(map[string]any{"type": event.TypeMember, "state_key": alice}), "unknown membership")
		r.check(
			"type of membership",
			r.make(map[string]any{"type": event.TypeMember, "state_key": alice, "content": content{"membership": 1}}),
			"unknown membership",
		)
		r.check("other membership", r.change(alice, alice, "dance", nil), "unknown membership")
	})
}

func TestFirstJoin(t *testing.T) {
	each(t, 1, 12, func(t *testing.T, v event.Version) {
		r := newRoom(t, v, nil)
		delete(r.state, Key{event.TypeMember, alice})
		create := r.state.Get(event.TypeCreate, "")
		join := func(user string, prev ...string) *event.Event {
			return r.make(
				map[string]any{
					"type":        event.TypeMember,
					"state_key":   user,
					"sender":      user,
					"content":     content{"membership": "join"},
					"prev_events": prev,
				},
			)
		}
		r.check("creator", join(alice, create.ID), "")
		r.check("other", join(bob, create.ID), "join rule")
		r.check("two prev", join(alice, create.ID, "$x"), "join rule")
		r.check("other prev", join(alice, "$x"), "join rule")
	})
}

func TestJoinRules(t *testing.T) {
	each(t, 1, 12, func(t *testing.T, v event.Version) {
		has := map[string]bool{
			"invite": true, "public": true, "knock": v.Knock, "restricted": v.Restricted, "knock_restricted": v.KnockRestricted, "private": false,
		}
		for rule, known := range has {
			r := newRoom(t, v, nil)
			r.set(event.TypeJoinRules, "", alice, content{"join_rule": rule})
			join := func() *event.Event { return r.change(bob, bob, "join", nil) }
			for _, current := range []string{"", "leave", "invite", "join", "ban", "knock"} {
				if current != "" {
					r.member(bob, current)
				}
				want := "member, join"
				if rule == "public" && current != "ban" || known && (current == "invite" || current == "join") {
					want = ""
				}
				r.check(rule+" "+current, join(), want)
			}
			r.check("for another", r.change(alice, bob, "join", nil), "can not join for")
		}
		r := newRoom(t, v, nil)
		r.check("no rule", r.change(bob, bob, "join", nil), "member, join")
		r.member(bob, "invite")
		r.check("no rule, invited", r.change(bob, bob, "join", nil), "")
	})
}

func TestRestrictedJoin(t *testing.T) {
	each(t, 8, 12, func(t *testing.T, v event.Version) {
		rules := []string{"restricted"}
		if v.KnockRestricted {
			rules = append(rules, "knock_restricted")
		}
		for _, rule := range rules {
			r := newRoom(t, v, nil)
			r.set(event.TypeJoinRules, "", alice, content{"join_rule": rule})
			via := func(user any) *event.Event {
				return r.change(bob, bob, "join", content{"join_authorised_via_users_server": user})
			}
			r.check("via creator", via(alice), "")
			r.check("via stranger", via(carol), "not joined")
			r.check("via nothing", r.change(bob, bob, "join", nil), "needs")
			r.check("via number", via(1), "needs")
			r.member(carol, "join")
			r.check("via member, invite level 0", via(carol), "")
			users := content{}
			if !v.PrivilegedCreators {
				users[alice] = 100
			}
			r.set(event.TypePowerLevels, "", alice, content{"invite": 50, "users": users})
			r.check("via weak member", via(carol), "below the invite level")
			r.check("via strong member", via(alice), "")
			r.member(bob, "ban")
			r.check("banned", via(alice), "banned")
		}
	})
	each(t, 1, 7, func(t *testing.T, v event.Version) {
		r := newRoom(t, v, nil)
		r.set(event.TypeJoinRules, "", alice, content{"join_rule": "restricted"})
		r.check("before v8", r.change(bob, bob, "join", content{"join_authorised_via_users_server": alice}), "join rule")
	})
}

func TestInvite(t *testing.T) {
	each(t, 1, 12, func(t *testing.T, v event.Version) {
		r := newRoom(t, v, nil)
		r.check("invite", r.change(alice, bob, "invite", nil), "")
		r.check("by a stranger", r.change(carol, bob, "invite", nil), "not joined")
		for current, rule := range map[string]string{"join": "joined already", "ban": "banned", "leave": "", "invite": "", "knock": ""} {
			r.member(bob, current)
			r.check("of "+current, r.change(alice, bob, "invite", nil), rule)
		}
		r.member(bob, "leave")
		r.member(carol, "join")
		r.set(event.TypePowerLevels, "", alice, content{"invite": 10, "users": content{carol: 9}})
		r.check("level", r.change(carol, bob, "invite", nil), "invite level")
		r.set(event.TypePowerLevels, "", alice, content{"invite": 10, "users": content{carol: 10}})
		r.check("level", r.change(carol, bob, "invite", nil), "")
	})
}

func TestThirdPartyInvite(t *testing.T) {
	each(t, 1, 12, func(t *testing.T, v event.Version) {
		key, _ := matrix.NewSigningKey("0", make([]byte, 32))
		other, _ := matrix.NewSigningKey("0", []byte(strings.Repeat("x", 32)))
		sign := func(k matrix.SigningKey, raw string) json.RawMessage {
			b, err := matrix.SignJSON([]byte(raw), "id.example", k)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		r := newRoom(t, v, nil)
		good := sign(key, `{"mxid":"`+bob+`","token":"tok"}`)
		invite := func(signed any) *event.Event {
			return r.change(alice, bob, "invite", content{"third_party_invite": content{"signed": signed, "display_name": "b"}})
		}
		r.check("no origin", invite(good), "no m.room.third_party_invite")
		public := matrix.Base64(key.Public())
		r.set(event.TypeThirdPartyInvite, "tok", alice, content{"public_key": public})
		r.check("public_key", invite(good), "")
		keys := []content{{"public_key": "%"}, {"public_key": public}}
		r.set(event.TypeThirdPartyInvite, "tok", alice, content{"public_key": matrix.Base64(other.Public()), "public_keys": keys})
		r.check("public_keys", invite(good), "")
		r.check("wrong key", invite(sign(other, `{"mxid":"`+bob+`","token":"tok","x":1}`)), "")
		r.set(event.TypeThirdPartyInvite, "tok", alice, content{"public_keys": []content{{"public_key": public}}})
		r.check("wrong key", invite(sign(other, `{"mxid":"`+bob+`","token":"tok"}`)), "no signature")
		r.check("unsigned", invite(content{"mxid": bob, "token": "tok"}), "no signature")
		r.check("mxid", invite(sign(key, `{"mxid":"`+carol+`","token":"tok"}`)), "made for")
		r.check("token", invite(sign(key, `{"mxid":"`+bob+`"}`)), "no mxid or token")
		r.check("signed", r.change(alice, bob, "invite", content{"third_party_invite": content{}}), "not signed")
		r.check("sender", r.change(carol, bob, "invite", content{"third_party_invite": content{"signed": good}}), "the sender is not")
		r.member(bob, "ban")
		r.check("banned", invite(good), "banned")

		r.set(event.TypePowerLevels, "", alice, content{"invite": 10})
		r.member(carol, "join")
		send := func(user string) *event.Event {
			return r.make(map[string]any{"type": event.TypeThirdPartyInvite, "state_key": "t2", "sender": user})
		}
		r.check("send, weak", send(carol), "third_party_invite")
		r.set(event.TypePowerLevels, "", alice, content{"invite": 10, "users": content{carol: 10}})
		r.check("send", send(carol), "")
	})
}

func TestLeaveKickBan(t *testing.T) {
	each(t, 1, 12, func(t *testing.T, v event.Version) {
		r := newRoom(t, v, nil)
		for _, c := range []struct {
			current string
			ok      bool
		}{{"join", true}, {"invite", true}, {"knock", v.Knock}, {"ban", false}, {"leave", false}} {
			r.member(bob, c.current)
			rule := "neither"
			if c.ok {
				rule = ""
			}
			r.check("leave after "+c.current, r.change(bob, bob, "leave", nil), rule)
		}
		r.check("leave never joined", r.change(carol, carol, "leave", nil), "neither")
		r.member(bob, "join")
		r.check("kick by stranger", r.change(carol, bob, "leave", nil), "not joined")
		r.check("ban by stranger", r.change(carol, bob, "ban", nil), "not joined")
		r.member(carol, "join")
		levels := func(bobs, carols int) {
			r.set(event.TypePowerLevels, "", alice, content{"kick": 40, "ban": 60, "users": content{bob: bobs, carol: carols}})
		}
		levels(0, 39)
		r.check("kick, weak", r.change(carol, bob, "leave", nil), "kick level")
		levels(0, 40)
		r.check("kick", r.change(carol, bob, "leave", nil), "")
		r.check("ban, weak", r.change(carol, bob, "ban", nil), "ban level")
		levels(40, 40)
		r.check("kick an equal", r.change(carol, bob, "leave", nil), "not below")
		levels(59, 60)
		r.check("ban", r.change(carol, bob, "ban", nil), "")
		levels(60, 60)
		r.check("ban an equal", r.change(carol, bob, "ban", nil), "not below")
		r.member(bob, "ban")
		levels(0, 59)
		r.check("unban, weak", r.change(carol, bob, "leave", nil), "ban level")
		levels(0, 60)
		r.check("unban", r.change(carol, bob, "leave", nil), "")
	})
}

func TestKnock(t *testing.T) {
	each(t, 1, 12, func(t *testing.T, v event.Version) {
		for _, rule := range []string{"knock", "knock_restricted", "public", "invite", "restricted"} {
			r := newRoom(t, v, nil)
			r.set(event.TypeJoinRules, "", alice, content{"join_rule": rule})
			ok := v.Knock && rule == "knock" || v.KnockRestricted && rule == "knock_restricted"
			want := "member, knock"
			if !v.Knock {
				want = "unknown membership"
			}
			if !ok {
				r.check("knock on "+rule, r.change(bob, bob, "knock", nil), want)
				continue
			}
			r.check("knock", r.change(bob, bob, "knock", nil), "")
			r.check("for another", r.change(alice, bob, "knock", nil), "knock for")
			for current, want := range map[string]string{"ban": "ban", "invite": "invite", "join": "join", "leave": "", "knock": ""} {
				r.member(bob, current)
				r.check("knock after "+current, r.change(bob, bob, "knock", nil), want)
			}
		}
	})
}

func TestSendLevels(t *testing.T) {
	each(t, 1, 12, func(t *testing.T, v event.Version) {
		r := newRoom(t, v, nil)
		msg := func(user string) *event.Event {
			return r.make(map[string]any{"type": event.TypeMessage, "sender": user})
		}
		state := func(user, typ, key string) *event.Event {
			return r.make(map[string]any{"type": typ, "sender": user, "state_key": key})
		}
		r.check("stranger", msg(bob), "not joined")
		r.member(bob, "invite")
		r.check("invited", msg(bob), "not joined")
		r.member(bob, "join")
		r.check("message, no levels", msg(bob), "")
		r.check("state, no levels", state(bob, "x", ""), "power")
		r.check("state of the creator, no levels", state(alice, "x", ""), "")
		r.set(event.TypePowerLevels, "", alice, content{"events_default": 5, "events": content{"x": 7}, "users": content{bob: 5}})
		r.check("message", msg(bob), "")
		r.check("state default 50", state(bob, "y", ""), "power")
		r.check("type", state(bob, "x", ""), "power")
		r.set(event.TypePowerLevels, "", alice, content{"events_default": 6, "state_default": 5, "users_default": 5})
		r.check("message", msg(bob), "power")
		r.check("state", state(bob, "x", ""), "")
		r.check("own key", state(bob, "x", bob), "")
		r.check("key of another", state(bob, "x", alice), "state_key")
	})
}

func TestAliases(t *testing.T) {
	each(t, 1, 12, func(t *testing.T, v event.Version) {
		r := newRoom(t, v, nil)
		aliases := func(over map[string]any) *event.Event {
			m := map[string]any{"type": event.TypeAliases, "sender": bob}
			for k, x := range over {
				m[k] = x
			}
			return r.make(m)
		}
		if v.AliasesAuth {
			r.check("own server", aliases(map[string]any{"state_key": "b.example"}), "")
			r.check("other server", aliases(map[string]any{"state_key": "a.example"}), "aliases")
			r.check("no key", aliases(nil), "aliases")
		} else {
			r.check("no special rule", aliases(map[string]any{"state_key": "b.example"}), "not joined")
		}
	})
}

func TestRedactionRule(t *testing.T) {
	each(t, 1, 12, func(t *testing.T, v event.Version) {
		r := newRoom(t, v, nil)
		r.member(bob, "join")
		redact := func(target string) *event.Event {
			c := content{}
			if v.RedactsInContent {
				c["redacts"] = target
			}
			return r.make(map[string]any{"type": event.TypeRedaction, "sender": bob, "redacts": target, "content": c})
		}
		rule := ""
		if v.RedactionAuth {
			rule = "redaction"
		}
		r.check("foreign", redact("$x:a.example"), rule)
		r.check("own", redact("$x:b.example"), "")
		p := NewPower(v, r.state.Get(event.TypeCreate, ""), nil)
		if p.RedactionHolds(bob, alice) || !p.RedactionHolds(bob, "@x:b.example") || !p.RedactionHolds(alice, bob) {
			t.Error("RedactionHolds")
		}
		by := func(sender, typ string) *event.Event {
			return r.make(map[string]any{"type": typ, "sender": sender, "state_key": ""})
		}
		for _, c := range []struct {
			user, sender, typ string
			may               bool
		}{
			{bob, bob, "m.room.topic", true},
			{bob, alice, "m.room.topic", false},
			{bob, "@x:b.example", "m.room.topic", false},
			{alice, bob, "m.room.topic", true},
			{alice, alice, event.TypeCreate, false},
			{alice, alice, event.TypeServerACL, false},
			{alice, alice, event.TypeEncryption, false},
		} {
			if err := p.MayRedact(c.user, by(c.sender, c.typ)); (err == nil) != c.may || err != nil && !errors.Is(err, ErrDenied) {
				t.Errorf("MayRedact: %s redacts %s of %s: %v", c.user, c.typ, c.sender, err)
			}
		}
	})
}

func (r *room) levels(sender string, c content) *event.Event {
	return r.make(map[string]any{"type": event.TypePowerLevels, "state_key": "", "sender": sender, "content": c})
}

func TestPowerLevelsForm(t *testing.T) {
	each(t, 1, 12, func(t *testing.T, v event.Version) {
		r := newRoom(t, v, nil)
		r.check("empty", r.levels(alice, content{}), "")
		r.check("users", r.levels(alice, content{"users": content{bob: 7}}), "")
		r.check("users type", r.levels(alice, content{"users": []int{}}), "users")
		r.check("user id", r.levels(alice, content{"users": content{"bob": 7}}), "users")
		r.check("user level", r.levels(alice, content{"users": content{bob: nil}}), "users")
		strings := ""
		if v.IntegerPowerLevels {
			strings = "power_levels"
		}
		for name, c := range map[string]content{
			"ban":           {"ban": " +050 "},
			"users":         {"users": content{bob: "007"}},
			"events":        {"events": content{"x": "-1"}},
			"notifications": {"notifications": content{"room": "1"}},
		} {
			r.check("string "+name, r.levels(alice, c), strings)
		}
		if v.IntegerPowerLevels {
			for _, name := range levelNames {
				r.check(name, r.levels(alice, content{name: "1"}), name)
				r.check(name, r.levels(alice, content{name: nil}), name)
			}
			r.check("events", r.levels(alice, content{"events": 1}), "events")
			r.check("notifications", r.levels(alice, content{"notifications": []int{}}), "notifications")
		}
		if !v.StrictJSON {
			r.set(event.TypePowerLevels, "", alice, content{"users": content{bob: 50.57, alice: "100"}})
			p := NewPower(v, nil, r.state.Get(event.TypePowerLevels, ""))
			if p.UserLevel(bob) != 50 || p.UserLevel(alice) != 100 {
				t.Error(p.Users)
			}
		}
		rule := ""
		if v.PrivilegedCreators {
			rule = "who created the room"
		}
		r.check("creator in users", r.levels(alice, content{"users": content{alice: 100}}), rule)
	})
}

func TestPowerLevelsChange(t *testing.T) {
	each(t, 1, 12, func(t *testing.T, v event.Version) {
		r := newRoom(t, v, nil)
		r.member(bob, "join")
		old := func(over content) content {
			c := content{
				"ban":           50,
				"users_default": 0,
				"events":        content{"low": 10, "high": 90, event.TypePowerLevels: 50},
				"users":         content{bob: 60, carol: 60, "@low:x": 10, "@high:x": 90},
			}
			for k, x := range over {
				c[k] = x
				if x == nil {
					delete(c, k)
				}
			}
			return c
		}
		events := func(e content) content {
			c := content{"low": 10, "high": 90, event.TypePowerLevels: 50}
			for k, x := range e {
				c[k] = x
				if x == nil {
					delete(c, k)
				}
			}
			return content{"events": c}
		}
		users := func(e content) content {
			c := content{bob: 60, carol: 60, "@low:x": 10, "@high:x": 90}
			for k, x := range e {
				c[k] = x
				if x == nil {
					delete(c, k)
				}
			}
			return content{"users": c}
		}
		r.set(event.TypePowerLevels, "", alice, old(content{"redact": 70, "notifications": content{"room": 70}}))
		keep := content{"redact": 70, "notifications": content{"room": 70}}
		notes := "power_levels"
		if !v.NotificationLevels {
			notes = ""
		}
		for name, c := range map[string]struct {
			over content
			rule string
		}{
			"same":              {content{}, ""},
			"ban to own level":  {content{"ban": 60}, ""},
			"ban above":         {content{"ban": 61}, "ban"},
			"remove ban":        {content{"ban": nil}, ""},
			"redact is above":   {content{"redact": 10}, "redact"},
			"remove redact":     {content{"redact": nil}, "redact"},
			"add kick":          {content{"kick": 60}, ""},
			"add kick above":    {content{"kick": 61}, "kick"},
			"invite":            {content{"invite": 61}, "invite"},
			"state_default":     {content{"state_default": 61}, "state_default"},
			"events_default":    {content{"events_default": 61}, "events_default"},
			"users_default":     {content{"users_default": 61}, "users_default"},
			"low up":            {events(content{"low": 60}), ""},
			"low above":         {events(content{"low": 61}), "events"},
			"high down":         {events(content{"high": 0}), "events"},
			"remove high":       {events(content{"high": nil}), "events"},
			"remove low":        {events(content{"low": nil}), ""},
			"new event":         {events(content{"new": 60}), ""},
			"new event above":   {events(content{"new": 61}), "events"},
			"no events":         {content{"events": nil}, "events"},
			"notification":      {content{"notifications": content{"room": 10}}, notes},
			"no notification":   {content{"notifications": nil}, notes},
			"low user":          {users(content{"@low:x": 60}), ""},
			"low user above":    {users(content{"@low:x": 61}), "users"},
			"remove low user":   {users(content{"@low:x": nil}), ""},
			"equal user":        {users(content{carol: 59}), "users"},
			"remove equal user": {users(content{carol: nil}), "users"},
			"high user":         {users(content{"@high:x": 0}), "users"},
			"self down":         {users(content{bob: 10}), ""},
			"self away":         {users(content{bob: nil}), ""},
			"self up":           {users(content{bob: 61}), "users"},
			"new user":          {users(content{"@new:x": 60}), ""},
			"new user above":    {users(content{"@new:x": 61}), "users"},
		} {
			over := content{}
			for k, x := range keep {
				over[k] = x
			}
			for k, x := range c.over {
				over[k] = x
			}
			r.check(name, r.levels(bob, old(over)), c.rule)
		}
	})
}

func TestVersion12Creators(t *testing.T) {
	v := version(t, "12")
	r := newRoom(t, v, content{"additional_creators": []string{bob}})
	r.member(bob, "join")
	r.member(carol, "join")
	r.set(event.TypePowerLevels, "", alice, content{"users": content{carol: 1<<53 - 1}, "events": content{"x": 1<<53 - 1}, "kick": 1<<53 - 1})
	p := NewPower(v, r.state.Get(event.TypeCreate, ""), r.state.Get(event.TypePowerLevels, ""))
	if p.UserLevel(alice) != Infinite || p.UserLevel(bob) != Infinite || p.UserLevel(carol) != 1<<53-1 || p.IsCreator(carol) {
		t.Error(p)
	}
	r.check("creator kicks", r.change(bob, carol, "leave", nil), "")
	r.check("nobody kicks a creator", r.change(carol, bob, "leave", nil), "not below")
	r.check("creator kicks no creator", r.change(alice, bob, "leave", nil), "not below")
	r.check("creator bans no creator", r.change(alice, bob, "ban", nil), "not below")
	r.check("creator changes the highest", r.levels(bob, content{"users": content{carol: 0}}), "")
	r.check("additional creator in users", r.levels(alice, content{"users": content{bob: 0}}), "who created the room")
	r.check("not by carol", r.levels(carol, content{"users": content{carol: 1<<53 - 1, bob: 1}}), "who created the room")
}

func TestAuthTypes(t *testing.T) {
	for _, c := range []struct{ version, typ, key, content, want string }{
		{"11", event.TypeCreate, "", `{}`, ``},
		{"11", event.TypeMessage, "-", `{}`, `create power member:alice`},
		{"12", event.TypeMessage, "-", `{}`, `power member:alice`},
		{"11", event.TypeMember, alice, `{"membership":"join"}`, `create power member:alice join_rules`},
		{"11", event.TypeMember, alice, ` { "x": 1, "membership" : "join" } `, `create power member:alice join_rules`},
		{"11", event.TypeMember, alice, `{`, `create power member:alice`},
		{"11", event.TypeMember, bob, `{"membership":"invite"}`, `create power member:alice member:bob join_rules`},
		{"11", event.TypeMember, bob, `{"membership":"leave"}`, `create power member:alice member:bob`},
		{"11", event.TypeMember, alice, `{"membership":"knock"}`, `create power member:alice join_rules`},
		{"11", event.TypeMember, bob, `{"membership":"invite",` +
			`"third_party_invite":{"signed":{"token":"t"}}}`, `create power member:alice member:bob join_rules third:t`},
		{"11", event.TypeMember, alice, `{"join_authorised_via_users_server":"@carol:c.example",` +
			`"membership":"join"}`, `create power member:alice join_rules member:carol`},
		{"7", event.TypeMember, alice, `{"join_authorised_via_users_server":"@carol:c.example",` +
			`"membership":"join"}`, `create power member:alice join_rules`},
	} {
		p := &event.Proto{Type: c.typ, Sender: alice, Content: json.RawMessage(c.content)}
		if c.key != "-" {
			p.StateKey = ptr(c.key)
		}
		var got []string
		for _, k := range AuthTypes(version(t, c.version), p) {
			s := map[string]string{event.TypeCreate: "create", event.TypePowerLevels: "power", event.TypeJoinRules: "join_rules"}[k.Type]
			switch k.Type {
			case event.TypeMember:
				s = "member:" + matrix.LocalpartOf(k.StateKey)
			case event.TypeThirdPartyInvite:
				s = "third:" + k.StateKey
			}
			got = append(got, s)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("v%s %s %s: got %s, want %s", c.version, c.typ, c.content, got, c.want)
		}
	}
}

func TestCheckAuthEvents(t *testing.T) {
	each(t, 1, 12, func(t *testing.T, v event.Version) {
		r := newRoom(t, v, nil)
		create, member := r.state.Get(event.TypeCreate, ""), r.state.Get(event.TypeMember, alice)
		levels := r.set(event.TypePowerLevels, "", alice, content{})
		rules := r.set(event.TypeJoinRules, "", alice, content{"join_rule": "public"})
		msg := r.make(map[string]any{"type": event.TypeMessage})
		foreign := r.make(map[string]any{"type": event.TypeMember, "state_key": alice, "room_id": "!x:y"})
		good := []*event.Event{levels, member}
		if v.CreateInAuthEvents {
			good = append(good, create)
		}
		with := func(e ...*event.Event) []*event.Event { return append(append([]*event.Event(nil), good...), e...) }
		rejected := func(id string) bool { return id == member.ID }
		for name, c := range map[string]struct {
			auth     []*event.Event
			rejected func(string) bool
			rule     string
		}{
			"good":     {good, nil, ""},
			"double":   {with(member), nil, "two entries"},
			"extra":    {with(rules), nil, "not selected"},
			"message":  {with(msg), nil, "no state event"},
			"foreign":  {append(with()[:0:0], append([]*event.Event{foreign}, good[2:]...)...), nil, "another room"},
			"rejected": {good, rejected, "was rejected"},
		} {
			err := CheckAuthEvents(v, msg, c.auth, c.rejected)
			if c.rule == "" && err != nil || c.rule != "" && (err == nil || !strings.Contains(err.Error(), c.rule)) {
				t.Errorf("%s: %v; want %q", name, err, c.rule)
			}
		}
		err := CheckAuthEvents(v, msg, good[:2], nil)
		if (err != nil) != v.CreateInAuthEvents {
			t.Error(err)
		}
		if !v.CreateInAuthEvents {
			if err := CheckAuthEvents(v, msg, with(create), nil); err == nil {
				t.Error("the create event was taken")
			}
		}
		if err := CheckAuthEvents(v, create, nil, nil); err != nil {
			t.Error(err)
		}
	})
}

type powered struct {
	Map
	p *Power
}

func (p powered) Power() *Power { return p.p }

func TestPoweredState(t *testing.T) {
	v := version(t, "11")
	r := newRoom(t, v, nil)
	r.member(bob, "join")
	e := r.make(map[string]any{"type": "x", "state_key": "", "sender": bob})
	if err := Allowed(v, e, powered{r.state, &Power{StateDefault: 1, UsersDefault: 1}}); err != nil {
		t.Error("the cached levels were not used:", err)
	}
	if err := Allowed(v, e, powered{r.state, nil}); err == nil {
		t.Error("a nil cache must be computed")
	}
}

func TestPowerDefaults(t *testing.T) {
	each(t, 1, 12, func(t *testing.T, v event.Version) {
		r := newRoom(t, v, nil)
		p := NewPower(v, r.state.Get(event.TypeCreate, ""), nil)
		want := int64(100)
		if v.PrivilegedCreators {
			want = Infinite
		}
		if p.UserLevel(alice) != want || p.UserLevel(bob) != 0 || p.Ban != 50 || p.Kick != 50 || p.Redact != 50 || p.Invite != 0 ||
			p.EventLevel("x", true) != 50 || p.EventLevel("x", false) != 0 || p.NotificationLevel("room") != 50 || !p.CanSend(bob, "x", false) {
			t.Errorf("%+v", p)
		}
		e := r.set(event.TypePowerLevels, "", alice, content{"notifications": content{"room": 3}, "users": content{"@a\"b:x": 4}})
		p = NewPower(v, nil, e)
		if p.NotificationLevel("room") != 3 || p.UserLevel("@a\"b:x") != 4 {
			t.Errorf("%+v", p)
		}
	})
}

func BenchmarkAllowed(b *testing.B) {
	v := version(b, "12")
	r := newRoom(b, v, nil)
	r.member(bob, "join")
	users := content{}
	for i := range 100 {
		users[fmt.Sprintf("@u%d:x", i)] = 50
	}
	levels := r.set(event.TypePowerLevels, "", alice, content{"users": users})
	e := r.make(map[string]any{"type": event.TypeMessage, "sender": bob})
	s := powered{r.state, NewPower(v, r.state.Get(event.TypeCreate, ""), levels)}
	b.ReportAllocs()
	for b.Loop() {
		if err := Allowed(v, e, s); err != nil {
			b.Fatal(err)
		}
	}
}
