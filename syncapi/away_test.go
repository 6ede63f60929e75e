package syncapi

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"lyceum/rooms"
)

// steps lets users do something in a room. A step is "user verb" or "user verb target".
func (h *testNode) steps(t *testing.T, room string, steps ...string) {
	t.Helper()
	for _, step := range steps {
		part := strings.Fields(step)
		c := h.as(t, part[0])
		switch {
		case part[1] == "knock":
			c.Want(200, "POST "+api+"/knock/"+url.PathEscape(room), obj{})
		case part[1] == "say":
			c.say(room, part[2])
		case part[1] == "topic":
			c.state(room, "m.room.topic", "", obj{"topic": part[2]})
		case len(part) == 3:
			c.do(room, part[1], obj{"user_id": id(part[2])})
		default:
			c.do(room, part[1], nil)
		}
	}
}

// TestATimelineBeginsAtTheToken: a user who was a member at the token gets no older events again, whatever happened since. What is
// sent leads to the current state, and /messages returns the rest up to the token.
func TestATimelineBeginsAtTheToken(t *testing.T) {
	away := []string{"alice say gone1", "alice topic gone", "dave join", "alice say gone2", "carol leave"}
	for name, steps := range map[string][]string{
		"leave": slices.Concat([]string{"alice say new", "bob leave"}, away, []string{"bob join", "alice say back"}),
		"kick":  slices.Concat([]string{"alice kick bob"}, away, []string{"bob join"}),
		"ban":   slices.Concat([]string{"alice ban bob"}, away, []string{"alice unban bob", "bob join", "alice topic back"}),
		"invite": slices.Concat([]string{"bob leave"}, away, []string{
			"alice invite bob", "alice say invited", "bob join",
			"alice say back",
		}),
		"twice": slices.Concat([]string{"bob leave"}, away, []string{
			"bob join", "alice say between", "alice kick bob",
			"alice say gone3", "bob join",
		}),
		"and gone":    slices.Concat([]string{"bob leave"}, away, []string{"bob join", "alice say between", "bob leave", "alice say gone3"}),
		"at once":     {"bob leave", "bob join"},
		"only a talk": {"alice say one", "alice topic two", "alice say three"},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(t *testing.T, h *testNode) {
				for _, history := range []string{"shared", "joined", "invited", "world_readable"} {
					h.away(t, history, steps)
				}
			})
		})
	}
}

// away takes steps between two answers for bob, and checks the second answer with several parameters.
func (h *testNode) away(t *testing.T, history string, steps []string) {
	t.Helper()
	alice, bob := h.as(t, "alice"), h.as(t, "bob")
	room := alice.create(
		obj{
			"preset":        "public_chat",
			"initial_state": []obj{{"type": "m.room.history_visibility", "content": obj{"history_visibility": history}}},
		},
	)
	h.steps(t, room, "carol join", "alice say old1", "bob join", "alice say old2", "bob say old3")
	first := newWatcher(bob, "bob", false)
	first.apply(room, in(bob.sync("set_presence", "offline"), "join", room, ""), false)
	seen, err := h.Rooms.Timeline(t.Context(), rooms.Page{RoomID: room, Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	h.steps(t, room, steps...)
	news, err := h.Rooms.Timeline(t.Context(), rooms.Page{RoomID: room, From: seen[len(seen)-1].Pos, Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	visible, err := h.Rooms.CanSee(t.Context(), id("bob"), room, news)
	if err != nil {
		t.Fatal(err)
	}
	section, now := "join", alice.Want(200, "GET "+at(room, "state"), nil).Get("@this").Array()
	if last := len(news) - 1; bob.Call("GET "+at(room, "joined_members"), nil).Status != 200 {
		for section = "leave"; !news[last].Is("m.room.member", id("bob")); last-- {
		}
		news = news[:last+1] // it ends with the leave
	}
	var truth []string
	for i, e := range news {
		if visible[i] {
			truth = append(truth, e.ID)
		}
	}
	for _, limit := range []int{1, 2, 4, 20, 100} {
		for _, c := range []struct {
			state string
			more  []string
		}{{"", nil}, {"", []string{"full_state", "true"}}, {"", []string{"use_state_after", "true"}}, {
			`,"state":{"lazy_load_members":true}`,
			nil,
		}} {
			what := fmt.Sprintf("%s, limit %d, %v%s", history, limit, c.more, c.state)
			w := &watcher{
				client: bob, name: "bob", after: slices.Contains(c.more, "use_state_after"), in: map[string]bool{room: true},
				timeline: map[string][]string{}, state: map[string]map[string]string{room: maps.Clone(first.state[room])},
			}
			sec := in(
				bob.peek(append(c.more, "set_presence", "offline", "filter", fmt.Sprintf(`{"room":{"timeline":{"limit":%d}%s}}`, limit, c.state))...),
				section,
				room,
				"",
			)
			got, from := ids(sec.Get("timeline.events")), sec.Get("timeline.prev_batch").String()
			for _, e := range seen {
				if slices.Contains(got, e.ID) {
					t.Errorf("%s: what was seen came again: %s", what, bodies(sec.Get("timeline.events")))
				}
			}
			if sec.Get("timeline.limited").Bool() {
				for from != "" {
					m := bob.Want(
						200,
						"GET "+at(room, "messages?"+url.Values{"dir": {"b"}, "limit": {"3"}, "from": {from}, "to": {bob.since}}.Encode()),
						nil,
					)
					for _, e := range m.Get("chunk").Array() {
						got = slices.Insert(got, 0, e.Get("event_id").String())
					}
					from = m.Get("end").String()
				}
			}
			own := func(id string) bool { // that history visibility may hide from /messages
				i := slices.IndexFunc(news, func(e *rooms.Event) bool { return e.ID == id })
				return i >= 0 && !visible[i]
			}
			same(t, what+": events", slices.DeleteFunc(got, own), truth)
			if section == "leave" {
				continue
			}
			w.apply(room, gjson.Parse(strings.Replace(sec.Raw, `"limited":true`, `"limited":false`, 1)), false)
			for _, e := range now {
				if got, want := w.state[room][stateKey(e)], e.Get("event_id").String(); got != want {
					t.Errorf("%s: the client has %s as %s, now is %s", what, got, stateKey(e), e)
				}
			}
		}
	}
}

func ids(events gjson.Result) (out []string) {
	for _, e := range events.Array() {
		out = append(out, e.Get("event_id").String())
	}
	return out
}
