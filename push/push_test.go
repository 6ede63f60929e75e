package push

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"lyceum/accounts"
	"lyceum/matrix"
	"lyceum/platform/dial"
	"lyceum/platform/role/roletest"
	"lyceum/platform/web"
	"lyceum/receipts"
	"lyceum/rooms/roomstest"
)

type obj = map[string]any

// node is a process that serves push rules and notifications.
type node struct {
	*Push
	*roomstest.Node
}

var harnessConfig = Config{
	CountCache: 1000, RuleCache: 100, AllowPrivate: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, AllowHTTP: true,
}

var harness = roomstest.NewHarness(func(t testing.TB, on *roomstest.Node) *node {
	t.Helper()
	rc := receipts.New(receipts.Deps{Process: on.Process, Accounts: on.Accounts, Rooms: on.Rooms})
	p, err := New(Deps{Process: on.Process, Accounts: on.Accounts, Rooms: on.Rooms, Receipts: rc}, harnessConfig)
	if err != nil {
		t.Fatal(err)
	}
	on.Serve(t, p.Routes()...)
	return &node{p, on}
}, receipts.Migrations(), Migrations())

// read sends a receipt.
func (n *node) read(t testing.TB, who, room, event, thread string) {
	t.Helper()
	rc := n.Receipts.(*receipts.Receipts)
	if err := rc.Send(t.Context(), room, receipts.Receipt{
		UserID: "@" + who + ":here.test", Type: "m.read", EventID: event,
		ThreadID: thread,
	}); err != nil {
		t.Fatal(err)
	}
}

func (n *node) unread(t testing.TB, who, room string) Counts {
	t.Helper()
	c, err := n.Unread(t.Context(), "@"+who+":here.test", room)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (n *node) wantUnread(t testing.TB, who, room string, notify, highlight int) {
	t.Helper()
	if c := n.unread(t, who, room); c.Notify != notify || c.Highlight != highlight {
		t.Fatalf("expected %d and %d, found %+v", notify, highlight, c)
	}
}

// forgetCounts removes all counts, so that they are loaded again.
func (n *node) forgetCounts() {
	n.counts.mu.Lock()
	defer n.counts.mu.Unlock()
	clear(n.counts.rooms)
	n.counts.total = 0
}

func TestUnread(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		room := n.Room(t, "alice", "bob", "carol")
		n.wantUnread(t, "bob", room, 0, 0)
		n.Say(t, "alice", room, "one")
		two := n.Say(t, "alice", room, "two", obj{"m.mentions": obj{"user_ids": []string{"@bob:here.test"}}})
		n.Say(t, "alice", room, "three")
		both := func(notify, highlight int) { // warm, then cold
			t.Helper()
			n.wantUnread(t, "bob", room, notify, highlight)
			n.forgetCounts()
			n.wantUnread(t, "bob", room, notify, highlight)
		}
		both(3, 1)
		n.read(t, "bob", room, two, "")
		both(1, 0)
		n.Say(t, "bob", room, "an answer") // who writes has read
		both(0, 0)
		gone := n.Say(t, "alice", room, "gone")
		both(1, 0)
		n.HTTP.As("alice").Want(200, "PUT "+roomstest.API+"/rooms/"+url.PathEscape(room)+"/redact/"+url.PathEscape(gone)+"/x", obj{})
		both(0, 0)

		root := n.Say(t, "alice", room, "root")
		in := n.Say(t, "alice", room, "in", obj{"m.relates_to": obj{"rel_type": "m.thread", "event_id": root}})
		last := n.Say(t, "alice", room, "outside")
		both(2, 0)
		if c := n.unread(t, "bob", room); c.Threads[root].Notify != 1 {
			t.Fatalf("found %+v", c)
		}
		n.read(t, "bob", room, last, "main")
		both(0, 0)
		if c := n.unread(t, "bob", room); c.Threads[root].Notify != 1 {
			t.Fatalf("the receipt of the main timeline read a thread: %+v", c)
		}
		n.read(t, "bob", room, in, root)
		if c := n.unread(t, "bob", room); len(c.Threads) != 0 {
			t.Fatalf("found %+v", c)
		}
		n.Say(t, "alice", room, "tea time")
		both(1, 0)
		n.HTTP.As("bob").
			Want(200, "PUT "+roomstest.API+"/pushrules/global/content/tea", obj{"pattern": "tea", "actions": []any{
				"notify",
				obj{"set_tweak": "highlight"},
			}})
		both(1, 1)
		n.HTTP.As("bob").Want(200, "PUT "+roomstest.API+"/pushrules/global/override/.m.rule.master/enabled", obj{"enabled": true})
		both(0, 0)
	})
}

// Events from before a user joined, or while the user was away, are not unread and do not notify, also after a change of display name.
func TestOnlyWhatMembersHearNotifies(t *testing.T) {
	for _, warm := range []bool{false, true} {
		t.Run(fmt.Sprintf("warm %t", warm), func(t *testing.T) {
			harness.Run(t, func(t *testing.T, n *node) {
				room := n.Room(t, "alice", "carol")
				bob, at := n.HTTP.As("bob"), roomstest.API+"/rooms/"+url.PathEscape(room)
				heard := func(want ...string) {
					t.Helper()
					if warm {
						n.wantUnread(t, "bob", room, len(want), 0)
					}
					var got []string
					for _, e := range bob.Want(200, "GET "+roomstest.API+"/notifications", nil).Get("notifications").Array() {
						got = append(got, e.Get("event.content.body").String())
					}
					if !slices.Equal(got, want) {
						t.Errorf("expected the notifications %q, found %q", want, got)
					}
					if !warm {
						n.forgetCounts()
					}
					n.wantUnread(t, "bob", room, len(want), 0)
				}
				rename := func(name string) {
					t.Helper()
					bob.Want(200, "PUT "+at+"/state/m.room.member/@bob:here.test", obj{"membership": "join", "displayname": name})
				}
				n.Say(t, "alice", room, "before")
				bob.Want(200, "POST "+at+"/join", obj{})
				heard()
				rename("Bob")
				rename("Robert")
				n.Say(t, "alice", room, "one")
				heard("one")
				bob.Want(200, "POST "+at+"/leave", obj{})
				n.Say(t, "alice", room, "away")
				bob.Want(200, "POST "+at+"/join", obj{})
				heard()
				n.Say(t, "alice", room, "two")
				rename("Bobby")
				n.Say(t, "alice", room, "three")
				heard("three", "two")
			})
		})
	}
}

func TestUnreadAsksNoDatabaseWhenWarm(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		room := n.Room(t, "alice", "bob", "carol")
		n.Say(t, "alice", room, "first")
		n.wantUnread(t, "bob", room, 1, 0)
		for i := range 5 {
			n.Say(t, "alice", room, "more")
			ctx, cancel := context.WithCancel(t.Context())
			cancel() // a statement would fail
			c, err := n.Unread(ctx, "@bob:here.test", room)
			if err != nil || c.Notify != i+2 {
				t.Fatalf("found %+v, %v", c, err)
			}
		}
	})
}

func TestLongRooms(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		room := n.Room(t, "alice", "bob", "carol")
		n.wantUnread(t, "bob", room, 0, 0)
		for range 2*logKept + 50 { // more than is kept while nobody asks
			n.Say(t, "alice", room, "x")
		}
		n.wantUnread(t, "bob", room, 2*logKept+50, 0)
	})
}

func TestRulesOverHTTP(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		bob, rules := n.HTTP.As("bob"), roomstest.API+"/pushrules"
		all := bob.Want(200, "GET "+rules+"/", nil)
		if all.Get("global.override.0.rule_id").String() != ".m.rule.master" || all.Get("global.override.0.enabled").Bool() ||
			!all.Get("global.room").IsArray() {
			t.Fatalf("found %s", all.Body)
		}
		bob.Want(404, "GET "+rules+"/global/postcontent/.org.example.rule", nil)
		bob.Want(
			200,
			"PUT "+rules+"/global/override/mine",
			obj{"actions": []any{"dont_notify"}, "conditions": []any{obj{"kind": "room_member_count", "is": "2"}}},
		)
		bob.Want(200, "PUT "+rules+"/global/override/first?before=mine", obj{"actions": []any{"notify"}})
		got := bob.Want(200, "GET "+rules+"/global/", nil)
		if got.Get("override.1.rule_id").String() != "first" || got.Get("override.2.actions.0").String() != "dont_notify" ||
			got.Get("override.2.conditions.#").Int() != 1 {
			t.Fatalf("found %s", got.Body)
		}
		bob.Want(200, "PUT "+rules+"/global/override/mine/enabled", obj{"enabled": false})
		if bob.Want(200, "GET "+rules+"/global/override/mine/enabled", nil).Get("enabled").Bool() {
			t.Fatal("the rule is enabled")
		}
		bob.Want(200, "PUT "+rules+"/global/underride/.m.rule.message/actions", obj{"actions": []any{}})
		if got := bob.Want(200, "GET "+rules+"/global/underride/.m.rule.message", nil); got.Get("actions.#").Int() != 0 ||
			!got.Get("default").Bool() {
			t.Fatalf("found %s", got.Body)
		}
		bob.Want(200, "DELETE "+rules+"/global/override/mine", nil)
		room := url.PathEscape("!r:here.test")
		bob.Want(200, "PUT "+rules+"/global/room/"+room, obj{"actions": []any{}})
		for _, c := range []struct {
			call   string
			body   any
			status int
			code   string
		}{
			{"GET " + rules + "/global/override/mine", nil, 404, "M_NOT_FOUND"},
			{"DELETE " + rules + "/global/override/mine", nil, 404, "M_NOT_FOUND"},
			{"PUT " + rules + "/global/override/mine/enabled", obj{"enabled": true}, 404, "M_NOT_FOUND"},
			{"PUT " + rules + "/global/override/mine/actions", obj{"actions": []any{}}, 404, "M_NOT_FOUND"},
			{"GET " + rules + "/global/nonsense/mine", nil, 400, "M_UNRECOGNIZED"},
			{"PUT " + rules + "/global/nonsense/mine", obj{"actions": []any{}}, 400, "M_INVALID_PARAM"},
			{"PUT " + rules + "/global/override/x?before=nobody", obj{"actions": []any{}}, 400, "M_UNKNOWN"},
			{"PUT " + rules + "/global/override/.mine", obj{"actions": []any{}}, 400, "M_INVALID_PARAM"},
			{"PUT " + rules + "/global/override/x", obj{}, 400, "M_INVALID_PARAM"},
			{"PUT " + rules + "/global/override/x", obj{"actions": []any{"shout"}}, 400, "M_INVALID_PARAM"},
			{"PUT " + rules + "/global/content/x", obj{"actions": []any{}}, 400, "M_MISSING_PARAM"},
			{"DELETE " + rules + "/global/override/.m.rule.master", nil, 400, "M_INVALID_PARAM"},
		} {
			if got := bob.Call(c.call, c.body); got.Status != c.status || got.Errcode() != c.code {
				t.Errorf("%s: found %d %s", c.call, got.Status, got.Body)
			}
		}
		raw, err := n.Ruleset(t.Context(), "@bob:here.test")
		if err != nil || gjson.GetBytes(raw, "global.room.0.rule_id").String() != "!r:here.test" {
			t.Fatalf("found %s, %v", raw, err)
		}
	})
}

// pushGateway is a push gateway that remembers what it got.
type pushGateway struct {
	*httptest.Server
	mu     sync.Mutex
	got    []gjson.Result
	fail   int    // requests to refuse
	reject string // a pushkey
}

func newPushGateway(t testing.TB) *pushGateway {
	g := &pushGateway{}
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.fail > 0 {
			g.fail--
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		g.got = append(g.got, gjson.GetBytes(body, "notification"))
		_ = json.NewEncoder(w).Encode(obj{"rejected": []string{g.reject}})
	}))
	t.Cleanup(g.Close)
	return g
}

func (g *pushGateway) find(eventID string) (found gjson.Result, times int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, n := range g.got {
		if n.Get("event_id").String() == eventID {
			found = n
			times++
		}
	}
	return found, times
}

func (n *node) pusher(t testing.TB, who, at, key string, data obj) {
	t.Helper()
	data["url"] = at + "/_matrix/push/v1/notify"
	n.HTTP.As(who).Want(200, "POST "+roomstest.API+"/pushers/set", obj{
		"kind": "http", "app_id": "org.example", "pushkey": key, "app_display_name": "A", "device_display_name": "D", "lang": "en", "data": data,
	})
}

func TestPushGateway(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		g := newPushGateway(t)
		room := n.Room(t, "alice", "bob", "carol")
		n.pusher(t, "bob", g.URL, "full", obj{"extra": 1})
		n.pusher(t, "carol", g.URL, "short", obj{"format": "event_id_only"})
		event := n.Say(t, "alice", room, "hello", obj{"m.mentions": obj{"user_ids": []string{"@bob:here.test"}}})
		roletest.Until(t, "both are told", func() bool { _, times := g.find(event); return times == 2 })
		g.mu.Lock()
		for _, got := range g.got {
			full := got.Get("devices.0.pushkey").String() == "full"
			if got.Get("content").Exists() != full || got.Get("room_id").String() != room || got.Get("counts.unread").Int() != 1 ||
				got.Get("devices.0.data.url").
					Exists() ||
				got.Get("devices.0.tweaks.highlight").Bool() != full || full && got.Get("devices.0.data.extra").Int() != 1 {
				t.Errorf("found %s", got.Raw)
			}
		}
		g.fail, g.reject = 2, "full"
		g.mu.Unlock()
		event = n.Say(t, "alice", room, "again")
		roletest.Until(t, "what was refused comes later, and the rejected pusher goes", func() bool {
			_, times := g.find(event)
			return times == 2 && n.HTTP.As("bob").Call("GET "+roomstest.API+"/pushers", nil).Get("pushers.#").Int() == 0
		})
		if got := n.HTTP.As("carol").Want(200, "GET "+roomstest.API+"/pushers", nil); got.Get("pushers.0.pushkey").String() != "short" {
			t.Fatalf("found %s", got.Body)
		}
		n.HTTP.As("carol").Want(200, "POST "+roomstest.API+"/pushers/set", obj{"kind": nil, "app_id": "org.example", "pushkey": "short"})
		if got := n.HTTP.As("carol").Want(200, "GET "+roomstest.API+"/pushers", nil); got.Get("pushers.#").Int() != 0 {
			t.Fatalf("found %s", got.Body)
		}
		list := n.HTTP.As("bob").Want(200, "GET "+roomstest.API+"/notifications?limit=1", nil)
		if list.Get("notifications.0.event.event_id").String() != event || list.Get("notifications.0.read").Bool() ||
			list.Get("next_token").String() == "" {
			t.Fatalf("found %s", list.Body)
		}
		list = n.HTTP.As("bob").Want(200, "GET "+roomstest.API+"/notifications?only=highlight", nil)
		if list.Get("notifications.#").Int() != 1 {
			t.Fatalf("found %s", list.Body)
		}
	})
}

// TestOddEventsArePushedToo, and do not stop other events from being pushed or counted.
func TestOddEventsArePushedToo(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		g := newPushGateway(t)
		room := n.Room(t, "alice", "bob")
		n.pusher(t, "bob", g.URL, "full", obj{})
		var all []string
		for _, odd := range []any{"\x00", "$\x00", "", 5, nil, []any{nil}, obj{"\x00": 1}} {
			for _, kind := range []any{"m.reference", "m.annotation", "test.relation", odd} {
				all = append(
					all,
					n.Say(
						t, "alice", room, "odd",
						obj{"m.relates_to": obj{"rel_type": kind, "event_id": odd, "key": odd}, "m.mentions": obj{"user_ids": []any{odd}}, "msgtype": odd},
					),
				)
			}
		}
		all = append(all, n.Say(t, "alice", room, "at the end"))
		for i, event := range all {
			roletest.Until(t, fmt.Sprint("bob is told of event ", i), func() bool { _, times := g.find(event); return times == 1 })
		}
		n.wantUnread(t, "bob", room, len(all), 0)
	})
}

func TestPushersAreChecked(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		good := func() obj {
			return obj{
				"kind":                "http",
				"app_id":              "a",
				"pushkey":             "k",
				"app_display_name":    "A",
				"device_display_name": "D",
				"lang":                "en",
				"data":                obj{"url": "https://example.org/_matrix/push/v1/notify"},
			}
		}
		n.HTTP.As("bob").Want(200, "POST "+roomstest.API+"/pushers/set", good())
		n.HTTP.As("alice").Want(200, "POST "+roomstest.API+"/pushers/set", good()) // takes the key over
		if got := n.HTTP.As("bob").Want(200, "GET "+roomstest.API+"/pushers", nil); got.Get("pushers.#").Int() != 0 {
			t.Fatalf("found %s", got.Body)
		}
		for _, change := range []obj{
			{"kind": "carrier pigeon"},
			{"app_id": strings.Repeat("x", 65)},
			{"pushkey": strings.Repeat("x", 513)},
			{"lang": nil},
			{"lang": "e\x00"},
			{"pushkey": "k\x00"},
			{"data": obj{}},
			{"data": obj{"url": "https://example.org/other"}},
			{"data": obj{"url": "ftp://example.org/_matrix/push/v1/notify"}},
			{"data": "x"},
		} {
			body := good()
			for k, v := range change {
				body[k] = v
			}
			if got := n.HTTP.As("bob").Call("POST "+roomstest.API+"/pushers/set", body); got.Status != 400 {
				t.Errorf("%v: found %d %s", change, got.Status, got.Body)
			}
		}
	})
}

func TestAnotherProcessGoesOn(t *testing.T) {
	harness.Fleet(t, func(t *testing.T, one, two *node, stopTwo func()) {
		g := newPushGateway(t)
		var ids []string
		for range 4 {
			ids = append(ids, one.Room(t, "alice", "bob"))
		}
		one.pusher(t, "bob", g.URL, "k", obj{})
		said := func() {
			t.Helper()
			for _, room := range ids {
				event := one.Say(t, "alice", room, "hello")
				roletest.Until(t, "the notification comes", func() bool { _, times := g.find(event); return times > 0 })
			}
		}
		said()
		c, err := two.Unread(t.Context(), "@bob:here.test", ids[0])
		if err != nil || c.Notify != 1 {
			t.Fatalf("found %+v, %v", c, err)
		}
		stopTwo()
		said()
	})
}

// TestAPusherCountsAtOnce: a new pusher gets the next event, also from a process that the bus does not reach.
func TestAPusherCountsAtOnce(t *testing.T) {
	harness.Fleet(t, func(t *testing.T, one, two *node, _ func()) {
		g := newPushGateway(t)
		text := "x"
		for i := range 8 {
			room := one.Room(t, "alice", "bob")
			one.Say(t, "alice", room, "nobody is told, and that is remembered")
			roletest.Until(t, "it was looked at", func() bool {
				upto, err := one.events.Consumed(t.Context())
				return err == nil && slices.Equal(upto, one.events.Positions())
			})
			body := &pusherBody{
				AppID:      "a",
				Pushkey:    fmt.Sprint(i),
				AppName:    &text,
				DeviceName: &text,
				Lang:       &text,
				Data:       []byte(`{"url":"` + g.URL + `/_matrix/push/v1/notify"}`),
			}
			if err := two.putPusher(t.Context(), &web.Identity{UserID: "@bob:here.test"}, body); err != nil {
				t.Fatal(err)
			}
			event := one.Say(t, "alice", room, "hello")
			roletest.Until(t, "bob is told", func() bool { _, times := g.find(event); return times == i+1 })
		}
	})
}

// TestABurstIsSentSoon to a gateway that is prompt, however many pushers its user has.
func TestABurstIsSentSoon(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		g := newPushGateway(t)
		g.delayed(100 * time.Millisecond)
		room := n.Room(t, "alice", "bob")
		for i := range 3 {
			n.pusher(t, "bob", g.URL, fmt.Sprint(i), obj{})
		}
		var all []string
		for range 100 {
			all = append(all, n.Say(t, "alice", room, "burst"))
		}
		roletest.Until(t, "bob is told of all", func() bool {
			return !slices.ContainsFunc(all, func(event string) bool { _, times := g.find(event); return times < 3 })
		})
	})
}

// TestWhatIsReadIsNotSentLater: nor are events of rooms that were left while the gateway was away.
func TestWhatIsReadIsNotSentLater(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		g := newPushGateway(t)
		n.pusher(t, "bob", g.URL, "k", obj{})
		read, left, open := n.Room(t, "alice", "bob"), n.Room(t, "alice", "bob"), n.Room(t, "alice", "bob")
		g.mu.Lock()
		g.fail = 3
		g.mu.Unlock()
		inRead, inLeft, inOpen := n.Say(t, "alice", read, "one"), n.Say(t, "alice", left, "two"), n.Say(t, "alice", open, "three")
		roletest.Until(t, "all are refused", func() bool { g.mu.Lock(); defer g.mu.Unlock(); return g.fail == 0 })
		n.read(t, "bob", read, inRead, "")
		n.HTTP.As("bob").Want(200, "POST "+roomstest.API+"/rooms/"+url.PathEscape(left)+"/leave", obj{})
		roletest.Until(t, "what is news comes", func() bool { _, times := g.find(inOpen); return times == 1 })
		roletest.Until(t, "nothing waits", func() bool {
			var rows int
			return n.Process.DB.QueryRow(t.Context(), "SELECT COUNT(*) FROM push_outbox").Scan(&rows) == nil && rows == 0
		})
		for what, event := range map[string]string{"read": inRead, "left": inLeft} {
			if _, times := g.find(event); times > 0 {
				t.Errorf("%s: told later", what)
			}
		}
	})
}

// TestSlowGatewaysHoldUpNobodyElse: gateways that never answer, at many addresses and of many users. What they did not take comes when they
// answer again.
func TestSlowGatewaysHoldUpNobodyElse(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		well, slow, end := newPushGateway(t), make([]*pushGateway, 10), make([]func(), 10)
		for i := range slow {
			slow[i] = newPushGateway(t)
			end[i] = slow[i].hang()
		}
		text := "x"
		var hostile []string
		room, other := n.Room(t, "alice"), ""
		for other == "" || n.events.Shard(other) != n.events.Shard(room) {
			other = n.Room(t, "alice", "bob")
		}
		for u := range 40 {
			name := fmt.Sprint("hostile", u)
			id, err := n.Accounts.CreateUser(t.Context(), accounts.NewUser{Name: name})
			if err != nil {
				t.Fatal(err)
			}
			n.People[name] = &web.Identity{UserID: id, DeviceID: "D-" + name}
			n.HTTP.As(name).Want(200, "POST "+roomstest.API+"/join/"+url.PathEscape(room), obj{})
			for k := range 5 {
				body := &pusherBody{
					AppID:      "a",
					Pushkey:    fmt.Sprint(u, "/", k),
					AppName:    &text,
					DeviceName: &text,
					Lang:       &text,
					Data:       []byte(`{"url":"` + slow[len(hostile)%len(slow)].URL + `/_matrix/push/v1/notify"}`),
				}
				if err := n.putPusher(t.Context(), &web.Identity{UserID: id}, body); err != nil {
					t.Fatal(err)
				}
				hostile = append(hostile, body.Pushkey)
			}
		}
		n.pusher(t, "bob", well.URL, "good", obj{})
		first := n.Say(t, "alice", room, "to all of them")
		longest := time.Duration(0)
		for i := range 20 {
			event, began := n.Say(t, "alice", other, fmt.Sprint("to bob ", i)), time.Now()
			roletest.Until(t, "bob is told", func() bool { _, times := well.find(event); return times > 0 })
			longest = max(longest, time.Since(began))
		}
		if longest > 5*time.Second {
			t.Errorf("bob waited for %s", longest)
		}
		for _, well := range end {
			well()
		}
		roletest.Until(t, "what the others missed comes", func() bool {
			all := 0
			for _, g := range slow {
				_, times := g.find(first)
				all += times
			}
			return all >= len(hostile)
		})
	})
}

func TestGatewaysAtPrivateAddressesAreNotReached(t *testing.T) {
	g := newGateway(Config{})
	server := newPushGateway(t)
	if _, err := g.send(t.Context(), server.URL, []byte("{}")); !errors.Is(err, dial.ErrPrivate) ||
		!strings.Contains(err.Error(), "push.allow_private") {
		t.Errorf("a gateway on this machine: expected dial.ErrPrivate and the setting, found %v", err)
	}
}

func FuzzRejected(f *testing.F) {
	f.Add([]byte(`{"rejected":["a"]}`))
	f.Fuzz(func(_ *testing.T, answer []byte) { _, _ = decodeRejected(answer) })
}

// A pusher ends with the device that set it, also when both change at the same time. A late clean-up leaves the pushers of a
// new device with the same id.
func TestPushersEndWithTheirDevice(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		const rounds = 10
		user, err := n.Accounts.CreateUser(t.Context(), accounts.NewUser{Name: "dora"})
		if err != nil {
			t.Fatal(err)
		}
		text := "x"
		body := &pusherBody{
			AppID:      "a",
			Pushkey:    "k",
			AppName:    &text,
			DeviceName: &text,
			Lang:       &text,
			Data:       []byte(`{"url":"https://example.org/_matrix/push/v1/notify"}`),
		}
		pushers := func() int {
			list, err := n.queryPushers(t.Context(), `user_id = $1`, user)
			if err != nil {
				t.Fatal(err)
			}
			return len(list)
		}
		left := 0
		for range rounds {
			token, device, err := n.Accounts.IssueToken(t.Context(), user, "")
			if err != nil {
				t.Fatal(err)
			}
			id, err := n.Accounts.Authenticate(t.Context(), token)
			if err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			for range 3 {
				wg.Go(func() {
					if err := n.putPusher(t.Context(), id, body); err != nil && matrix.AsError(err).Code != matrix.CodeUnknownToken {
						t.Error(err)
					}
				})
			}
			if err := errors.Join(n.Accounts.RemoveDevices(t.Context(), user, "", []string{device}), n.DevicesRemoved(t.Context(), user,
				[]string{device})); err != nil {
				t.Error(err)
			}
			wg.Wait()
			left += pushers()
			if created, err := n.Accounts.CreateDevice(t.Context(), user, device, ""); !created || err != nil {
				t.Fatalf("found %v, %v", created, err)
			}
			if err := n.putPusher(t.Context(), &web.Identity{UserID: user, DeviceID: device}, body); err != nil {
				t.Fatal(err)
			}
			if err := n.DevicesRemoved(t.Context(), user, []string{device}); err != nil || pushers() != 1 {
				t.Fatalf("a clean-up took the pusher of a device that is there: %v", err)
			}
			if err := n.deletePusher(t.Context(), user, "a", "k"); err != nil {
				t.Fatal(err)
			}
		}
		if left > 0 {
			t.Errorf("in %d of %d rounds a pusher outlived its device", left, rounds)
		}
	})
}
