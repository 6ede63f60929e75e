package directory

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"lyceum/accounts"
	"lyceum/platform/web"
	"lyceum/platform/web/webtest"
	"lyceum/rooms"
	"lyceum/rooms/roomstest"
)

const (
	server = roomstest.Server
	v3     = roomstest.API
)

type obj = map[string]any

// house is a server with its people.
type house struct {
	*Directory
	*roomstest.Node
	t                         testing.TB
	alice, bob, carol, nobody *webtest.Client
	txn                       int
}

func wire(t testing.TB, on *roomstest.Node) *house {
	t.Helper()
	d, err := New(Deps{Process: on.Process, Accounts: on.Accounts, Rooms: on.Rooms, ServerName: server}, Config{})
	if err != nil {
		t.Fatal(err)
	}
	on.Serve(t, d.Routes()...)
	return &house{
		Directory: d,
		Node:      on,
		t:         t,
		alice:     on.HTTP.As("alice"),
		bob:       on.HTTP.As("bob"),
		carol:     on.HTTP.As("carol"),
		nobody:    on.HTTP,
	}
}

var harness = roomstest.NewHarness(wire, Migrations())

func (h *house) create(c *webtest.Client, body obj) string {
	h.t.Helper()
	return c.Want(200, "POST "+v3+"/createRoom", body).Get("room_id").String()
}

func at(roomID, rest string) string { return v3 + "/rooms/" + url.PathEscape(roomID) + "/" + rest }

func (h *house) say(c *webtest.Client, roomID, text string) string {
	h.t.Helper()
	h.txn++
	return c.Want(200, "PUT "+at(roomID, fmt.Sprint("send/m.room.message/", h.txn)), obj{"msgtype": "m.text", "body": text}).
		Get("event_id").String()
}

func (h *house) join(c *webtest.Client, roomID string) {
	h.t.Helper()
	c.Want(200, "POST "+at(roomID, "join"), obj{})
}

// indexed waits until the index has all that is stored.
func (h *house) indexed() {
	h.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		done, err := h.Rooms.Stream().Consumed(context.Background())
		if err != nil {
			h.t.Fatal(err)
		}
		behind := 0
		for shard, pos := range h.Rooms.Stream().Positions() {
			if done[shard] < pos {
				behind++
			}
		}
		if behind == 0 {
			return
		}
		if time.Now().After(deadline) {
			h.t.Fatal("the index stays behind")
		}
	}
}

func want(t *testing.T, a webtest.Answer, status int, code string) {
	t.Helper()
	if a.Status != status || a.Errcode() != code {
		t.Fatalf("expected %d %s, found %d %s", status, code, a.Status, a.Body)
	}
}

func TestPublicRooms(t *testing.T) {
	harness.Run(t, func(t *testing.T, h *house) {
		var ids []string
		for i := range 3 {
			ids = append(
				ids,
				h.create(h.alice, obj{"name": fmt.Sprint("Room ", i), "topic": "About Bread", "visibility": "public", "preset": "public_chat"}),
			)
		}
		hidden := h.create(h.alice, obj{"name": "Hidden", "preset": "public_chat"})
		space := h.create(
			h.alice,
			obj{"name": "Space", "visibility": "public", "preset": "public_chat", "creation_content": obj{"type": "m.space"}},
		)
		h.join(h.bob, ids[2])
		a := h.nobody.Want(200, "GET "+v3+"/publicRooms?limit=2", nil)
		if a.Get("chunk.0.room_id").String() != ids[2] || a.Get("chunk.0.num_joined_members").Int() != 2 || len(a.Get("chunk").Array()) != 2 ||
			a.Get("total_room_count_estimate").Int() != 4 {
			t.Fatalf("%s", a.Body)
		}
		next := h.nobody.Want(200, "GET "+v3+"/publicRooms?limit=2&since="+a.Get("next_batch").String(), nil)
		if len(next.Get("chunk").Array()) != 2 || next.Get("next_batch").Exists() || !next.Get("prev_batch").Exists() {
			t.Fatalf("%s", next.Body)
		}
		for _, c := range []struct {
			filter obj
			n      int
		}{
			{obj{"generic_search_term": "bREAD"}, 3},
			{obj{"generic_search_term": "room 1"}, 1},
			{obj{"room_types": []any{"m.space"}}, 1},
			{obj{"room_types": []any{nil}}, 3},
			{obj{"room_types": []any{}}, 0},
			{obj{}, 4},
		} {
			a := h.bob.Want(200, "POST "+v3+"/publicRooms", obj{"filter": c.filter})
			if n := len(a.Get("chunk").Array()); n != c.n {
				t.Errorf("%v: %d rooms, expected %d", c.filter, n, c.n)
			}
		}
		want(t, h.nobody.Call("GET "+v3+"/publicRooms?since=x", nil), 400, "M_INVALID_PARAM")
		want(t, h.bob.Call("POST "+v3+"/publicRooms?server=other.org", obj{}), 404, "M_NOT_FOUND")

		list := v3 + "/directory/list/room/" + url.PathEscape(hidden)
		if got := h.nobody.Want(200, "GET "+list, nil).Get("visibility").String(); got != "private" {
			t.Fatal(got)
		}
		want(t, h.bob.Call("PUT "+list, obj{"visibility": "public"}), 403, "M_FORBIDDEN")
		h.join(h.bob, hidden)
		want(t, h.bob.Call("PUT "+list, obj{"visibility": "public"}), 403, "M_FORBIDDEN")
		want(t, h.alice.Call("PUT "+list, obj{"visibility": "x"}), 400, "M_INVALID_PARAM")
		if got := h.nobody.Want(200, "GET "+list, nil).Get("visibility").String(); got != "private" {
			t.Fatal(got)
		}
		h.alice.Want(200, "PUT "+list, obj{"visibility": "public"})
		if n := h.nobody.Want(200, "GET "+v3+"/publicRooms", nil).Get("total_room_count_estimate").Int(); n != 5 {
			t.Fatal(n)
		}
		want(t, h.nobody.Call("GET "+v3+"/directory/list/room/!x:here.test", nil), 404, "M_NOT_FOUND")

		topic := h.alice.Want(200, "GET "+at(space, "state/m.room.name?format=event"), nil).Get("event_id").String()
		h.alice.Want(200, "PUT "+at(space, "redact/"+url.PathEscape(topic)+"/1"), obj{})
		if n := len(h.bob.Want(200, "POST "+v3+"/publicRooms", obj{"filter": obj{"generic_search_term": "Space"}}).Get("chunk").Array()); n != 0 {
			t.Fatal("a redacted name is found still")
		}
	})
}

func TestHierarchy(t *testing.T) {
	harness.Run(t, func(t *testing.T, h *house) {
		space := func(preset string) string {
			return h.create(h.alice, obj{"preset": preset, "creation_content": obj{"type": "m.space"}})
		}
		root, sub := space("public_chat"), space("public_chat")
		open := h.create(h.alice, obj{"name": "open", "preset": "public_chat"})
		closed := h.create(h.alice, obj{"name": "closed", "preset": "private_chat"})
		leaf := h.create(h.alice, obj{"name": "leaf", "preset": "public_chat"})
		add := func(parent, child string, content obj) {
			t.Helper()
			h.alice.Want(200, "PUT "+at(parent, "state/m.space.child/"+url.PathEscape(child)), content)
		}
		via := []string{server}
		add(root, open, obj{"via": via, "order": "b", "suggested": true})
		add(root, sub, obj{"via": via, "order": "a"})
		add(root, closed, obj{"via": via})
		add(sub, leaf, obj{"via": via})
		add(sub, root, obj{"via": via}) // a circle
		add(root, "!gone:here.test", obj{"via": via})
		add(sub, "!removed:here.test", obj{})
		get := func(c *webtest.Client, query string) (ids []string, next string) {
			t.Helper()
			a := c.Want(200, "GET /_matrix/client/v1/rooms/"+url.PathEscape(root)+"/hierarchy?"+query, nil)
			for _, r := range a.Get("rooms").Array() {
				ids = append(ids, r.Get("room_id").String())
			}
			return ids, a.Get("next_batch").String()
		}
		same := func(got []string, want ...string) {
			t.Helper()
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Fatalf("found %v, expected %v", got, want)
			}
		}
		ids, _ := get(h.alice, "")
		same(ids, root, sub, leaf, open, closed)
		ids, _ = get(h.bob, "")
		same(ids, root, sub, leaf, open)
		ids, _ = get(h.bob, "max_depth=1")
		same(ids, root, sub, open)
		ids, _ = get(h.bob, "suggested_only=true")
		same(ids, root, open)
		ids, next := get(h.bob, "limit=2")
		same(ids, root, sub)
		ids, next = get(h.bob, "limit=2&from="+next)
		same(ids, leaf, open)
		if next != "" {
			if ids, _ = get(h.bob, "limit=2&from="+next); len(ids) != 0 {
				t.Fatal(ids)
			}
		}
		a := h.bob.Want(200, "GET /_matrix/client/v1/rooms/"+url.PathEscape(root)+"/hierarchy", nil)
		if len(a.Get("rooms.0.children_state").Array()) != 4 || a.Get("rooms.0.children_state.0.origin_server_ts").Int() == 0 ||
			a.Get("rooms.0.room_type").String() != "m.space" {
			t.Fatalf("%s", a.Body)
		}
		for _, query := range []string{"from=x", "limit=0", "from=h1_3_false"} {
			want(t, h.bob.Call("GET /_matrix/client/v1/rooms/"+url.PathEscape(root)+"/hierarchy?"+query, nil), 400, "M_INVALID_PARAM")
		}
		want(t, h.bob.Call("GET /_matrix/client/v1/rooms/"+url.PathEscape(closed)+"/hierarchy", nil), 403, "M_FORBIDDEN")
		want(t, h.bob.Call("GET /_matrix/client/v1/rooms/!x:here.test/hierarchy", nil), 403, "M_FORBIDDEN")
	})
}

// TestAHierarchyIsBounded: large events of strangers are not given whole, and a page ends when there is much on it.
func TestAHierarchyIsBounded(t *testing.T) {
	harness.Run(t, func(t *testing.T, h *house) {
		long := strings.Repeat("x", 60<<10)
		space := func() string {
			return h.create(h.alice, obj{"name": long[:40<<10], "preset": "public_chat", "creation_content": obj{"type": "m.space"}})
		}
		root := space()
		children := []string{root}
		for n := range 4 {
			child := space()
			children = append(children, child)
			h.alice.Want(
				200,
				"PUT "+at(root, "state/m.space.child/"+url.PathEscape(child)),
				obj{"via": []string{server}, "order": fmt.Sprint(n), "x": long},
			)
			h.alice.Want(200, "PUT "+at(child, "state/m.space.child/"+url.PathEscape(root)), obj{"via": []string{server}, "x": long})
		}
		address := "GET /_matrix/client/v1/rooms/" + url.PathEscape(root) + "/hierarchy"
		a := h.bob.Want(200, address, nil)
		if len(a.Body) > 8<<10 || len(a.Get("rooms").Array()) != 5 || a.Get("rooms.0.children_state.3.content.via.0").String() != server ||
			a.Get("rooms.0.children_state.3.origin_server_ts").Int() == 0 {
			t.Fatalf("%d bytes: %.500s", len(a.Body), a.Body)
		}
		whole := len(a.Get("rooms.0.children_state").Raw) - len("[,,,]")
		page := func(most, skip int) (ids []string, children int, more bool) {
			t.Helper()
			w := hierarchyWalk{d: h.Directory, user: "@alice:" + server, skip: skip, limit: 10, maxDepth: 5, most: most, seen: map[string]bool{}}
			if ok, err := w.visit(t.Context(), root, 0); !ok || err != nil {
				t.Fatal(ok, err)
			}
			for _, room := range w.page {
				ids = append(ids, gjson.GetBytes(room, "room_id").String())
			}
			return ids, len(gjson.GetBytes(w.page[0], "children_state").Array()), w.more
		}
		if ids, n, more := page(whole, 0); n != 4 || !more || !slices.Equal(ids, children[:1]) {
			t.Error(ids, n, more)
		}
		if ids, _, more := page(whole, 1); !more || !slices.Equal(ids, children[1:len(ids)+1]) || len(ids) == 4 {
			t.Error(ids, more)
		}
		if _, n, _ := page(whole-1, 0); n != 3 {
			t.Errorf("%d children in less than they have all", n)
		}
	})
}

func TestUserSearch(t *testing.T) {
	harness.Run(t, func(t *testing.T, h *house) {
		for _, name := range []string{"alice", "bob", "carol"} {
			if _, err := h.Accounts.CreateUser(t.Context(), accounts.NewUser{Name: name}); err != nil {
				t.Fatal(err)
			}
		}
		id := h.create(h.alice, obj{"preset": "private_chat"})
		h.indexed()
		find := func(c *webtest.Client, term string) (out []string) {
			t.Helper()
			a := c.Want(200, "POST "+v3+"/user_directory/search", obj{"search_term": term})
			for _, u := range a.Get("results").Array() {
				out = append(out, u.Get("user_id").String()+" "+u.Get("display_name").String())
			}
			return out
		}
		if got := find(h.bob, "alice"); len(got) != 0 {
			t.Fatal(got)
		}
		h.alice.Want(200, "POST "+at(id, "invite"), obj{"user_id": "@bob:here.test"})
		h.join(h.bob, id)
		if err := h.Accounts.SetProfile(t.Context(), "@alice:here.test", "displayname", []byte(`"Ölga 100%"`)); err != nil {
			t.Fatal(err)
		}
		for _, term := range []string{"alice", "ölGA", "100%", "alice öl"} {
			if got := find(h.bob, term); fmt.Sprint(got) != "[@alice:here.test Ölga 100%]" {
				t.Errorf("%s: %v", term, got)
			}
		}
		for _, who := range []struct {
			client *webtest.Client
			name   string
		}{{h.bob, "bob"}, {h.carol, "carol"}} { // in a room, and in none
			if got := find(who.client, who.name); fmt.Sprint(got) != "[@"+who.name+":here.test ]" {
				t.Errorf("%s finds herself: %v", who.name, got)
			}
		}
		if got := find(h.bob, "here.test"); fmt.Sprint(got) != "[@alice:here.test Ölga 100%]" {
			t.Errorf("what finds many: %v", got)
		}
		for _, term := range []string{"", "_", "alice nobody", "carol"} {
			if got := find(h.bob, term); len(got) != 0 {
				t.Errorf("%s: %v", term, got)
			}
		}
		if got := find(h.carol, "alice"); len(got) != 0 {
			t.Fatal(got)
		}
		h.Directory.config.SearchAllUsers = true
		if got := find(h.carol, "alice"); len(got) != 1 {
			t.Errorf("with search_all_users: %v", got)
		}
		h.Directory.config.SearchAllUsers = false
		open := h.create(h.alice, obj{"preset": "public_chat"})
		for _, c := range []struct {
			join, history string
			n             int
		}{{"public", "shared", 1}, {"invite", "shared", 0}, {"invite", "world_readable", 1}, {"invite", "joined", 0}, {"public", "joined", 1}} {
			h.alice.Want(200, "PUT "+at(open, "state/m.room.join_rules"), obj{"join_rule": c.join})
			h.alice.Want(200, "PUT "+at(open, "state/m.room.history_visibility"), obj{"history_visibility": c.history})
			h.indexed()
			if got := find(h.carol, "alice"); len(got) != c.n {
				t.Fatal(c, got)
			}
		}
		if a := h.carol.Want(200, "POST "+v3+"/user_directory/search", obj{"search_term": "alice", "limit": 0}); !a.Get("limited").Bool() {
			t.Fatalf("%s", a.Body)
		}
		want(t, h.carol.Call("POST "+v3+"/user_directory/search", obj{"search_term": "x", "limit": -1}), 400, "M_INVALID_PARAM")
	})
}

func TestMessageSearch(t *testing.T) {
	harness.Run(t, func(t *testing.T, h *house) {
		id := h.create(h.alice, obj{"preset": "public_chat", "name": "Cheese lovers"})
		other := h.create(h.alice, obj{"preset": "private_chat"})
		h.say(h.alice, id, "Cheese is good, I like cheese")
		time.Sleep(2 * time.Millisecond) // the newest first: by their times
		second := h.say(h.alice, id, "what about chEEse with a very long text behind it that makes it less of a match")
		gone := h.say(h.alice, id, "cheese no more")
		h.say(h.alice, other, "secret cheese")
		h.join(h.bob, id)
		h.bob.Want(200, "POST "+at(id, "leave"), nil)
		h.say(h.alice, id, "cheese after bob")
		h.alice.Want(200, "PUT "+at(id, "redact/"+url.PathEscape(gone)+"/1"), obj{})
		h.indexed()
		search := func(c *webtest.Client, query string, criteria obj) webtest.Answer {
			t.Helper()
			return c.Want(200, "POST "+v3+"/search"+query, obj{"search_categories": obj{"room_events": criteria}})
		}
		bodies := func(a webtest.Answer) (out []string) {
			for _, r := range a.Get("search_categories.room_events.results").Array() {
				out = append(out, r.Get("result.content.body").String()+r.Get("result.content.name").String())
			}
			return out
		}
		a := search(h.bob, "", obj{"search_term": "cheese", "order_by": "recent", "keys": []string{"content.body"}})
		if got := bodies(a); len(got) != 2 || got[1] != "Cheese is good, I like cheese" {
			t.Fatalf("%s", a.Body)
		}
		if got := bodies(search(h.carol, "", obj{"search_term": "cheese"})); len(got) != 0 {
			t.Fatal(got)
		}
		a = search(h.alice, "", obj{"search_term": "CHEESE good"})
		if got := bodies(a); len(got) != 1 || a.Get("search_categories.room_events.count").Int() != 1 {
			t.Fatalf("%s", a.Body)
		}
		a = search(h.alice, "", obj{"search_term": "cheese", "filter": obj{"rooms": []string{other}}})
		if got := fmt.Sprint(bodies(a)); got != "[secret cheese]" {
			t.Fatal(got)
		}
		if got := fmt.Sprint(bodies(search(h.alice, "", obj{
			"search_term": "cheese",
			"keys":        []string{"content.name"},
		}))); got != "[Cheese lovers]" {
			t.Fatal(got)
		}
		for _, order := range []string{"recent", "rank"} {
			seen, query := map[string]bool{}, ""
			for {
				a := search(h.alice, query, obj{"search_term": "cheese", "order_by": order, "filter": obj{"limit": 2}})
				for _, r := range a.Get("search_categories.room_events.results").Array() {
					seen[r.Get("result.event_id").String()] = true
				}
				next := a.Get("search_categories.room_events.next_batch").String()
				if next == "" {
					break
				}
				query = "?next_batch=" + url.QueryEscape(next)
			}
			if len(seen) != 5 || seen[gone] {
				t.Fatalf("%s: %v", order, seen)
			}
		}
		a = search(h.alice, "", obj{
			"search_term": "what about", "event_context": obj{"before_limit": 1, "after_limit": 1, "include_profile": true}, "include_state": true,
			"groupings": obj{"group_by": []obj{{"key": "room_id"}, {"key": "sender"}}},
		})
		r := a.Get("search_categories.room_events")
		if r.Get("results.0.result.event_id").String() != second ||
			r.Get("results.0.context.events_before.0.content.body").String() != "Cheese is good, I like cheese" ||
			r.Get("results.0.context.events_after.0.event_id").String() != gone || !r.Get("results.0.context.profile_info").Exists() ||
			len(r.Get("state").Map()) != 1 ||
			r.Get(`groups.sender.@alice:here\.test.results.0`).String() != second {
			t.Fatalf("%s", a.Body)
		}
		for _, bad := range []obj{
			{"search_term": ""},
			{"search_term": "x", "keys": []string{"x"}},
			{"search_term": "x", "order_by": "x"},
			{"search_term": "x", "groupings": obj{"group_by": []obj{{"key": "x"}}}},
		} {
			want(t, h.alice.Call("POST "+v3+"/search", obj{"search_categories": obj{"room_events": bad}}), 400, "M_INVALID_PARAM")
		}
		want(
			t,
			h.alice.Call("POST "+v3+"/search?next_batch=x", obj{"search_categories": obj{"room_events": obj{"search_term": "x"}}}),
			400,
			"M_INVALID_PARAM",
		)
		h.alice.Want(200, "POST "+v3+"/search", obj{"search_categories": obj{}})
	})
}

// TestPeopleAreFoundByTheirProfiles: a name that somebody has in one room alone is no way to find them for those
// who can not see that room, and the name of the profile is, whatever the rooms say.
func TestPeopleAreFoundByTheirProfiles(t *testing.T) {
	harness.Run(t, func(t *testing.T, h *house) {
		for _, name := range []string{"alice", "bob"} {
			if _, err := h.Accounts.CreateUser(t.Context(), accounts.NewUser{Name: name}); err != nil {
				t.Fatal(err)
			}
		}
		profile := func(name string) {
			t.Helper()
			if err := h.Accounts.SetProfile(t.Context(), "@alice:here.test", "displayname", []byte(strconv.Quote(name))); err != nil {
				t.Fatal(err)
			}
		}
		find := func(c *webtest.Client, term string) string {
			t.Helper()
			var out []string
			for _, u := range c.Want(200, "POST "+v3+"/user_directory/search", obj{"search_term": term}).Get("results").Array() {
				out = append(out, u.Get("user_id").String()+" "+u.Get("display_name").String())
			}
			return strings.Join(out, ", ")
		}
		profile("Alice Public")
		open := h.create(h.alice, obj{"preset": "public_chat"})
		hidden := h.create(h.alice, obj{"preset": "private_chat"})
		h.alice.Want(200, "PUT "+at(hidden, "state/m.room.member/@alice:here.test"), obj{"membership": "join", "displayname": "Whistleblower"})
		h.indexed()
		const found = "@alice:here.test Alice Public"
		for _, c := range []struct{ term, want string }{
			{"public", found},
			{"alice", found},
			{"here.test", found},
			{"alice PUB", found},
			{"whistleblower", ""},
			{"whistle alice", ""},
		} {
			if got := find(h.carol, c.term); got != c.want {
				t.Errorf("%s: %q", c.term, got)
			}
		}
		// The newest profile counts at once, and without a profile the name of no room is shown.
		profile("Ålice 100% New")
		for _, c := range []struct{ term, want string }{{"public", ""}, {"ålice", "@alice:here.test Ålice 100% New"}, {
			"100% new",
			"@alice:here.test Ålice 100% New",
		}} {
			if got := find(h.carol, c.term); got != c.want {
				t.Errorf("%s: %q", c.term, got)
			}
		}
		if err := h.Accounts.SetProfile(t.Context(), "@alice:here.test", "displayname", nil); err != nil {
			t.Fatal(err)
		}
		if got := find(h.carol, "alice"); got != "@alice:here.test " {
			t.Errorf("%q", got)
		}
		if got := find(h.carol, "whistleblower"); got != "" {
			t.Errorf("%q", got)
		}
		// Whom one can not see is not found, by no name.
		profile("Alice Public")
		h.alice.Want(200, "PUT "+at(open, "state/m.room.join_rules"), obj{"join_rule": "invite"})
		h.indexed()
		if got := find(h.carol, "public"); got != "" {
			t.Errorf("%q", got)
		}
		// An ended account is found no more.
		h.alice.Want(200, "PUT "+at(open, "state/m.room.join_rules"), obj{"join_rule": "public"})
		h.indexed()
		if err := h.Accounts.Deactivate(t.Context(), "@alice:here.test", false); err != nil {
			t.Fatal(err)
		}
		if got := find(h.carol, "alice"); got != "" {
			t.Errorf("%q", got)
		}
	})
}

// TestPeopleAreFoundBehindManyOthers holds that those whom one may find are not lost behind those whom one may not, whose
// ids come first.
func TestPeopleAreFoundBehindManyOthers(t *testing.T) {
	harness.Run(t, func(t *testing.T, h *house) {
		var rows [][]any
		for i := range 2*usersPage + 10 {
			rows = append(rows, []any{fmt.Sprintf("@cheese%05d:here.test", i), 1})
		}
		if err := h.Process.DB.Bulk(t.Context(), "INSERT INTO users (user_id, created_ms) VALUES ?", rows); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"x-cheese", "y-cheese", "z-cheese"} {
			if _, err := h.Accounts.CreateUser(t.Context(), accounts.NewUser{Name: name}); err != nil {
				t.Fatal(err)
			}
		}
		for _, name := range []string{"x-cheese", "y-cheese", "z-cheese", "cheese00003"} {
			h.People[name] = &web.Identity{UserID: "@" + name + ":here.test", DeviceID: "D"}
		}
		mine := h.create(h.bob, obj{"preset": "public_chat"})
		h.create(h.HTTP.As("y-cheese"), obj{"preset": "private_chat"})
		h.create(h.HTTP.As("z-cheese"), obj{"preset": "public_chat"})
		h.join(h.HTTP.As("x-cheese"), mine)
		h.join(h.HTTP.As("cheese00003"), mine)
		h.indexed()
		find := func(limit int) (out []string, limited bool) {
			t.Helper()
			a := h.bob.Want(200, "POST "+v3+"/user_directory/search", obj{"search_term": "cheese", "limit": limit})
			for _, u := range a.Get("results").Array() {
				out = append(out, u.Get("user_id").String())
			}
			return out, a.Get("limited").Bool()
		}
		all := []string{"@cheese00003:here.test", "@x-cheese:here.test", "@z-cheese:here.test"}
		for limit := range 4 {
			if got, limited := find(limit); !slices.Equal(got, all[:limit]) || limited != (limit < 3) {
				t.Errorf("limit %d: found %v, %v", limit, got, limited)
			}
		}
	})
}

// TestAnyTermIsAnswered: no term is an error of the server, whatever its length and signs are.
func TestAnyTermIsAnswered(t *testing.T) {
	harness.Run(t, func(t *testing.T, h *house) {
		// Without an account there is nobody whose name a database would hold against the term.
		if _, err := h.Accounts.CreateUser(t.Context(), accounts.NewUser{Name: "alice"}); err != nil {
			t.Fatal(err)
		}
		h.create(h.alice, obj{"preset": "public_chat", "name": "Cheese"})
		h.indexed()
		for name, term := range map[string]string{
			"long":       strings.Repeat("x", 60_000),
			"huge":       strings.Repeat("x", 900_000),
			"escaped":    strings.Repeat("%", 60_000),
			"backslash":  strings.Repeat("\\", 60_000),
			"many words": strings.Repeat("a ", 5_000),
			"long words": strings.Repeat(strings.Repeat("é", 5_000)+" ", 40),
			"wide":       strings.Repeat("😀", 60_000),
			"growing":    strings.Repeat("İ", 60_000), // longer in lower case
			"NUL":        "a\x00b",
			"marks":      "%_\\'\"",
			"spaces":     strings.Repeat(" ", 100_000),
		} {
			if a := h.bob.Call("POST "+v3+"/user_directory/search", obj{"search_term": term}); a.Status >= 500 {
				t.Errorf("people, %s: %d %s", name, a.Status, a.Body)
			}
			body := obj{"search_categories": obj{"room_events": obj{"search_term": term}}}
			if a := h.bob.Call("POST "+v3+"/search", body); a.Status >= 500 {
				t.Errorf("messages, %s: %d %s", name, a.Status, a.Body)
			}
			if a := h.bob.Call("POST "+v3+"/publicRooms", obj{"filter": obj{"generic_search_term": term}}); a.Status >= 500 {
				t.Errorf("rooms, %s: %d %s", name, a.Status, a.Body)
			}
		}
	})
}

// TestAHitIsToldWithThoseWhoWroteAround: the names of those who wrote around a hit come with it, and no other members are
// read, who may be many for each hit.
func TestAHitIsToldWithThoseWhoWroteAround(t *testing.T) {
	harness.Run(t, func(t *testing.T, h *house) {
		id := h.create(h.alice, obj{"preset": "public_chat"})
		for i := range 20 {
			name := fmt.Sprint("member", i)
			h.People[name] = &web.Identity{UserID: "@" + name + ":" + server, DeviceID: "D"}
			h.join(h.HTTP.As(name), id)
		}
		for name, c := range map[string]*webtest.Client{"alice": h.alice, "member7": h.HTTP.As("member7")} {
			c.Want(200, "PUT "+at(id, "state/m.room.member/@"+name+":"+server), obj{"membership": "join", "displayname": "Name of " + name})
		}
		h.say(h.alice, id, "before")
		found := h.say(h.HTTP.As("member7"), id, "some cheese")
		h.say(h.alice, id, "after")
		h.indexed()
		a := h.alice.Want(200, "POST "+v3+"/search", obj{"search_categories": obj{"room_events": obj{
			"search_term": "cheese", "event_context": obj{"before_limit": 1, "after_limit": 1, "include_profile": true},
		}}})
		profiles := a.Get("search_categories.room_events.results.0.context.profile_info")
		for _, name := range []string{"alice", "member7"} {
			if got := profiles.Get(gjson.Escape("@" + name + ":" + server)).Get("displayname").String(); got != "Name of "+name {
				t.Errorf("the name of %s: found %q in %s", name, got, profiles.Raw)
			}
		}
		e, err := h.Rooms.Event(t.Context(), found)
		if err != nil {
			t.Fatal(err)
		}
		around, err := h.Rooms.EventContext(t.Context(), rooms.Reader{UserID: "@alice:" + server}, e, 1, 1)
		if err != nil || len(around.State) != 2 {
			t.Errorf("expected the members who wrote, found %d of the state's events, %v", len(around.State), err)
		}
	})
}

// TestErasedMessagesAreNotFound by those who came later.
func TestErasedMessagesAreNotFound(t *testing.T) {
	harness.Run(t, func(t *testing.T, h *house) {
		if _, err := h.Accounts.CreateUser(t.Context(), accounts.NewUser{Name: "carol"}); err != nil {
			t.Fatal(err)
		}
		id := h.create(h.alice, obj{"preset": "public_chat"})
		h.join(h.carol, id)
		h.say(h.carol, id, "cheese of carol")
		h.say(h.alice, id, "cheese of alice")
		if err := h.Accounts.Deactivate(t.Context(), "@carol:here.test", true); err != nil {
			t.Fatal(err)
		}
		h.join(h.bob, id)
		h.indexed()
		search := func(c *webtest.Client) int {
			t.Helper()
			a := c.Want(
				200,
				"POST "+v3+"/search",
				obj{"search_categories": obj{"room_events": obj{"search_term": "cheese", "event_context": obj{"include_profile": true}}}},
			)
			if c == h.bob && strings.Contains(string(a.Body), "of carol") {
				t.Errorf("%s", a.Body)
			}
			return len(a.Get("search_categories.room_events.results").Array())
		}
		if n := search(h.bob); n != 1 {
			t.Errorf("one who came later found %d", n)
		}
		if n := search(h.alice); n != 2 {
			t.Errorf("one who was there found %d", n)
		}
	})
}
