package syncapi

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/gjson"
)

// TestNothingIsSkippedAroundAnInvite: a room has no timeline while the user is invited or knocks. The older events that the user
// may see come later, or the timeline is limited and /messages returns them, whatever happens and whenever the
// client asks.
func TestNothingIsSkippedAroundAnInvite(t *testing.T) {
	run(t, func(t *testing.T, h *testNode) {
		all := []string{ // without an invite
			"alice kick bob; alice say gone; alice ban bob; alice say gone; alice unban bob",
			"alice kick bob; alice say gone; sync; alice ban bob; alice say gone; alice unban bob",
			"alice kick bob; sync; alice say gone; alice ban bob; sync; alice unban bob",
			"bob leave; alice ban bob; alice unban bob",
		}
		for _, waits := range []string{
			"alice kick bob; alice say gone; alice invite bob; alice say invited",
			"bob leave; alice invite bob",
			"alice ban bob; alice say gone; alice unban bob; alice invite bob",
			"alice kick bob; alice say gone; bob knock; alice say knocked",
			"alice kick bob; sync; alice say gone; alice invite bob",
			"alice kick bob; alice invite bob; sync; bob leave; alice say gone; alice invite bob",
			"alice kick bob; alice invite bob; sync; bob leave; sync; bob knock",
		} {
			for _, then := range []string{
				"bob leave",
				"alice kick bob",
				"alice say gone1; alice ban bob",
				"alice kick bob; alice say gone1; alice ban bob; alice say gone2; alice unban bob",
				"alice kick bob; alice invite bob; bob join; alice say back",
				"alice kick bob; alice invite bob; bob join; alice say back; alice topic back; bob leave",
				"alice kick bob; alice invite bob; sync; carol leave; bob leave",
				"carol leave; sync; alice say gone1; alice ban bob; sync; alice unban bob",
			} {
				all = append(all, waits+"; "+then, waits+"; sync; "+then)
			}
		}
		for i, steps := range all {
			h.around(t, []string{"shared", "joined", "invited", "world_readable"}[(i+i/16)%4], steps)
		}
	})
}

// TestInvitedByWhoIsIgnored: the client is told of a leave before an invite by an ignored user, and of the invite when its sender is no
// longer ignored.
func TestInvitedByWhoIsIgnored(t *testing.T) {
	run(t, func(t *testing.T, h *testNode) {
		alice, bob := h.as(t, "alice"), h.as(t, "bob")
		ignore := func(users obj) {
			bob.Want(200, "PUT "+api+"/user/"+url.PathEscape(id("bob"))+"/account_data/m.ignored_user_list", obj{"ignored_users": users})
		}
		for _, c := range []struct {
			before, after, told string
			events              int // of the timeline
		}{
			{"bob join", "alice say new; alice kick bob; alice say gone; carol invite bob", "leave", 2},
			{"bob join", "alice ban bob; alice unban bob; carol invite bob", "leave", 2},
			{"bob join; alice kick bob", "alice say gone; carol invite bob", "", 0},
			{"alice invite bob", "bob leave; carol invite bob", "leave", 1},
			{"alice kick carol; carol join", "carol invite bob", "", 0},
			{"bob join", "alice kick bob; carol invite bob; bob join; alice say back", "join", 4},
			{"bob join", "alice kick bob; carol invite bob; bob leave", "leave", 2},
		} {
			ignore(obj{id("carol"): obj{}})
			room := alice.create(obj{"preset": "public_chat"})
			h.steps(t, room, "carol join")
			h.steps(t, room, strings.Split(c.before, "; ")...)
			bob.sync("set_presence", "offline")
			h.steps(t, room, strings.Split(c.after, "; ")...)
			a := gjson.ParseBytes(bob.sync("set_presence", "offline").Body)
			told := ""
			var sec gjson.Result
			for _, part := range roomSections {
				if s := a.Get("rooms." + part.name).Map()[room]; s.Exists() {
					told, sec = told+part.name, s
				}
			}
			if n := int(sec.Get("timeline.events.#").Int()); told != c.told || n != c.events || sec.Get("timeline.limited").Bool() {
				t.Errorf("%s; sync; %s: expected %q with %d events, found %q: %s", c.before, c.after, c.told, c.events, told, a)
			}
			again := gjson.ParseBytes(bob.sync("set_presence", "offline").Body)
			if again.Get("rooms").Map()[room].Exists() {
				t.Errorf("%s; sync; %s: told again: %s", c.before, c.after, again)
			}
			ignore(obj{})
			waits := strings.HasSuffix(c.after, "carol invite bob")
			if invite := gjson.ParseBytes(bob.sync("set_presence", "offline").Body).Get("rooms.invite").Map()[room]; invite.Exists() != waits {
				t.Errorf("%s; sync; %s: once nobody is ignored, an invite is there: %v", c.before, c.after, invite.Exists())
			}
		}
	})
}

// TestTheStateComesAfterAnInvite: while the user is invited, the client is not told what changed before the user left.
func TestTheStateComesAfterAnInvite(t *testing.T) {
	run(t, func(t *testing.T, h *testNode) {
		alice, bob := h.as(t, "alice"), h.as(t, "bob")
		for _, parameters := range [][]string{nil, {"use_state_after", "true"}} {
			for _, waits := range []string{"alice kick bob; alice invite bob", "bob leave; alice invite bob; bob leave; alice invite bob"} {
				room := alice.create(obj{"preset": "public_chat"})
				h.steps(t, room, "bob join", "alice topic old")
				bob.sync(append(parameters, "set_presence", "offline")...)
				h.steps(t, room, "alice topic new")
				h.steps(t, room, strings.Split(waits, "; ")...)
				bob.sync(append(parameters, "set_presence", "offline")...)
				h.steps(t, room, "alice topic hidden", "alice kick bob")
				a := bob.sync(append(parameters, "set_presence", "offline")...)
				topics := in(a, "leave", room, `state*.events.#(type=="m.room.topic")#.content.topic`).Array()
				if len(topics) != 1 || topics[0].String() != "new" || !in(a, "leave", room, "timeline.limited").Bool() {
					t.Errorf("%s %v: the topics are %v: %s", waits, parameters, topics, a.Body)
				}
			}
		}
	})
}

// around takes steps after bob's client has all of a room, and compares what it gets until the end with what
// /messages returns.
func (h *testNode) around(t *testing.T, history, steps string) {
	t.Helper()
	alice, bob := h.as(t, "alice"), h.as(t, "bob")
	room := alice.create(
		obj{
			"preset":        "public_chat",
			"initial_state": []obj{{"type": "m.room.history_visibility", "content": obj{"history_visibility": history}}},
		},
	)
	h.steps(t, room, "bob join", "carol join", "alice say old")
	alice.state(room, "m.room.join_rules", "", obj{"join_rule": "knock"})
	bob.sync("set_presence", "offline")
	start := bob.since
	h.steps(t, room, "alice say new1", "alice topic new", "alice say new2")
	pages := func(from, to string) (out []string) {
		for more := true; more; more = from != "" {
			q := url.Values{"dir": {"b"}, "limit": {"50"}}
			for name, at := range map[string]string{"from": from, "to": to} {
				if at != "" {
					q.Set(name, at)
				}
			}
			m := bob.Want(200, "GET "+at(room, "messages?"+q.Encode()), nil)
			out, from = append(out, ids(m.Get("chunk"))...), m.Get("end").String()
		}
		return out
	}
	told := func(sec gjson.Result) []string {
		out := ids(sec.Get("timeline.events"))
		if sec.Get("timeline.limited").Bool() {
			out = append(out, pages(sec.Get("timeline.prev_batch").String(), start)...)
		}
		return out
	}
	section := func(a gjson.Result) (name string, sec gjson.Result) {
		for _, part := range roomSections {
			if s := a.Get("rooms." + part.name).Map()[room]; s.Exists() {
				if name != "" {
					t.Errorf("%s, %s: under %s and %s", history, steps, name, part.name)
				}
				name, sec = part.name, s
			}
		}
		return name, sec
	}
	var before []string
	for _, step := range strings.Split(steps, "; ") {
		if step != "sync" {
			h.steps(t, room, step)
			continue
		}
		_, sec := section(gjson.ParseBytes(bob.sync("set_presence", "offline").Body))
		before = append(before, told(sec)...)
	}
	truth, all := pages("", start), pages("", "")
	if len(truth) < 4 { // what was said, and who let bob go
		t.Fatalf("%s, %s: /messages gives %d events", history, steps, len(truth))
	}
	for _, limit := range []int{0, 1, 2, 4, 20} {
		what := fmt.Sprintf("%s, %s, limit %d", history, steps, limit)
		_, sec := section(
			gjson.ParseBytes(bob.peek("set_presence", "offline", "filter", fmt.Sprintf(`{"room":{"timeline":{"limit":%d}}}`, limit)).Body),
		)
		if n := sec.Get("timeline.events.#").Int(); n > int64(limit) {
			t.Errorf("%s: %d events", what, n)
		}
		got := slices.Concat(before, told(sec))
		for _, e := range truth {
			if !slices.Contains(got, e) {
				t.Errorf("%s: skipped %s", what, bob.Want(200, "GET "+at(room, "event/"+url.PathEscape(e)), nil).Body)
			}
		}
		for _, e := range sec.Get("timeline.events").Array() {
			if !slices.Contains(all, e.Get("event_id").String()) && e.Get("state_key").String() != id("bob") {
				t.Errorf("%s: not to be seen: %s", what, e)
			}
		}
	}
}
