package accounts

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"lyceum/platform/db"
	"lyceum/platform/lease"
	"lyceum/platform/role/roletest"
	"lyceum/platform/stream"
)

func fuzzNode(f *testing.F) *node {
	f.Helper()
	d, err := db.Open(context.Background(), "sqlite:"+f.TempDir()+"/fuzz.db", db.Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = d.Close() })
	if err := db.Migrate(context.Background(), d, quietLog, lease.Migrations(), Migrations()); err != nil {
		f.Fatal(err)
	}
	p := roletest.New(f, d)
	n := wire(f, p, Deps{}, testConfig())
	roletest.Start(f, p)
	return n
}

type heard struct {
	mu     sync.Mutex
	fields []string
}

func (h *heard) ProfileChanged(_ context.Context, userID, field string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fields = append(h.fields, userID+" "+field)
	return nil
}

type elsewhere struct{}

func (elsewhere) RemoteProfile(_ context.Context, userID string) (map[string]json.RawMessage, error) {
	return map[string]json.RawMessage{"displayname": json.RawMessage(`"Remote ` + userID + `"`)}, nil
}

func TestProfiles(t *testing.T) {
	h := &heard{}
	runWith(t, Deps{Profile: h, RemoteProfiles: elsewhere{}}, testConfig(), func(t *testing.T, n *node) {
		h.fields = nil
		alice := n.register("alice").want(200).text("access_token")
		bob := n.register("bob").want(200).text("access_token")
		const path = client + "/profile/@alice:here.test"
		n.do("GET", path, "", nil).want(200)
		n.do("GET", client+"/profile/@nobody:here.test", "", nil).want(404, "M_NOT_FOUND")
		n.do("GET", path+"/displayname", "", nil).want(404, "M_NOT_FOUND")
		n.do("PUT", path+"/displayname", bob, obj{"displayname": "Mallory"}).want(403, "M_FORBIDDEN")
		n.do("PUT", path+"/displayname", "", obj{"displayname": "Mallory"}).want(401, "M_MISSING_TOKEN")
		n.do("PUT", path+"/displayname", alice, obj{"displayname": "Alice ☃"}).want(200)
		n.do("PUT", path+"/displayname", alice, obj{"displayname": "Alice ☃"}).want(200) // no news
		n.do("PUT", path+"/avatar_url", alice, obj{"avatar_url": "mxc://here.test/abc"}).want(200)
		n.do("PUT", path+"/m.tz", alice, obj{"m.tz": "Europe/London"}).want(200)
		n.do("PUT", path+"/org.example.pets", alice, obj{"org.example.pets": []string{"cat"}}).want(200)
		n.do("PUT", path+"/displayname", alice, obj{"displayname": 5}).want(400, "M_INVALID_PARAM")
		n.do("PUT", path+"/displayname", alice, obj{"displayname": "a\x00b"}).want(400, "M_INVALID_PARAM")
		n.do("PUT", path+"/displayname", alice, obj{"displayname": strings.Repeat("x", 300)}).want(400)
		n.do("PUT", path+"/displayname", alice, obj{"other": "x"}).want(400, "M_MISSING_PARAM")
		n.do("PUT", path+"/displayname", alice, "nope").want(400, "M_NOT_JSON")
		n.do("PUT", path+"/Bad%20Key", alice, obj{"Bad Key": 1}).want(400, "M_INVALID_PARAM")
		long := "a." + strings.Repeat("b", 260)
		n.do("PUT", path+"/"+long, alice, obj{long: 1}).want(400, "M_KEY_TOO_LARGE")
		n.do("PUT", path+"/org.example.big", alice, obj{"org.example.big": strings.Repeat("x", 65530)}).want(400, "M_PROFILE_TOO_LARGE")
		x := n.do("GET", path, "", nil).want(200)
		if len(x.body) != 4 || x.text("displayname") != "Alice ☃" || x.text("avatar_url") != "mxc://here.test/abc" {
			t.Fatalf("found %s", x.raw)
		}
		if x := n.do("GET", path+"/org.example.pets", "", nil).want(200); x.raw != `{"org.example.pets":["cat"]}` {
			t.Fatalf("found %s", x.raw)
		}
		n.do("DELETE", path+"/m.tz", alice, nil).want(200)
		n.do("DELETE", path+"/m.tz", alice, nil).want(200)
		n.do("DELETE", path+"/displayname", bob, nil).want(403)
		n.do("PUT", path+"/avatar_url", alice, obj{"avatar_url": ""}).want(200)
		all, err := n.Profiles(t.Context(), []string{"@alice:here.test", "@bob:here.test"})
		a, b := all["@alice:here.test"], all["@bob:here.test"]
		if err != nil || len(all) != 2 || a.DisplayName != "Alice ☃" || a.AvatarURL != "" || a.Version < 2 || b != (Profile{Version: 1}) {
			t.Fatalf("found %v %v", all, err)
		}
		if x := n.do("GET", client+"/profile/@x:there.test/displayname", "", nil).want(200); !strings.Contains(x.raw, "Remote") {
			t.Fatalf("found %s", x.raw)
		}
		want := "displayname avatar_url m.tz org.example.pets m.tz avatar_url"
		roletest.Until(t, "the listener hears", func() bool {
			h.mu.Lock()
			defer h.mu.Unlock()
			return len(h.fields) >= len(strings.Fields(want))
		})
		var got []string
		for _, f := range h.fields {
			got = append(got, strings.TrimPrefix(f, "@alice:here.test "))
		}
		if strings.Join(got, " ") != want {
			t.Fatalf("the listener heard %v", got)
		}
	})
}

func TestAccountData(t *testing.T) {
	fleet(t, testConfig(), func(t *testing.T, one, two *node) {
		alice := one.register("alice").want(200).text("access_token")
		bob := one.register("bob").want(200).text("access_token")
		const user = client + "/user/@alice:here.test"
		const room = user + "/rooms/!r:here.test"
		one.do("GET", user+"/account_data/a.b", alice, nil).want(404, "M_NOT_FOUND")
		two.do("GET", user+"/account_data/a.b", alice, nil).want(404, "M_NOT_FOUND")
		one.do("PUT", user+"/account_data/a.b", alice, obj{"n": 1}).want(200)
		for _, n := range []*node{one, two} {
			if x := n.do("GET", user+"/account_data/a.b", alice, nil).want(200); x.raw != `{"n":1}` {
				t.Fatalf("found %s", x.raw)
			}
		}
		big := strings.Repeat("x", 10_000) // does not travel on the bus
		two.do("PUT", room+"/account_data/a.b", alice, obj{"big": big}).want(200)
		if x := one.do("GET", room+"/account_data/a.b", alice, nil).want(200); x.text("big") != big {
			t.Fatalf("found %d bytes", len(x.raw))
		}
		one.do("PUT", user+"/account_data/a.b", bob, obj{"n": 2}).want(403, "M_FORBIDDEN")
		one.do("GET", user+"/account_data/a.b", bob, nil).want(403, "M_FORBIDDEN")
		one.do("PUT", user+"/account_data/m.push_rules", alice, obj{}).want(405, "M_BAD_JSON")
		one.do("PUT", room+"/account_data/m.fully_read", alice, obj{}).want(405, "M_BAD_JSON")
		one.do("PUT", user+"/account_data/a.b", alice, "[]").want(400, "M_BAD_JSON")
		one.do("PUT", user+"/account_data/a.b", alice, "{").want(400, "M_NOT_JSON")
		one.do("PUT", user+"/rooms/notaroom/account_data/a.b", alice, obj{}).want(400, "M_INVALID_PARAM")

		userID := "@alice:here.test"
		for _, n := range []*node{one, two} {
			if err := n.p.Streams.Barrier(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		st := one.DataStream()
		upto := st.Position(st.Shard(userID))
		since, err := one.AccountDataSince(t.Context(), userID, upto-1, upto)
		if err != nil || len(since) != 1 || since[0].RoomID != "!r:here.test" {
			t.Fatalf("found %v %v", since, err)
		}
		if all, err := two.AllAccountData(t.Context(), userID); err != nil || len(all) != 2 || all[0].Pos >= all[1].Pos {
			t.Fatalf("found %v %v", all, err)
		}
		for i, n := range []*node{one, two} {
			id := fmt.Sprintf("@pest%d:here.test", i)
			n.do("PUT", user+"/account_data/m.ignored_user_list", alice, obj{"ignored_users": obj{id: obj{}}}).want(200)
			for _, n := range []*node{one, two} {
				n.whoamiWith(alice).want(200) // its barrier
				if ignored, err := n.Ignored(t.Context(), userID); err != nil || len(ignored) != 1 || !ignored[id] {
					t.Fatalf("found %v %v", ignored, err)
				}
			}
		}

		// Tags set at both processes at once are all there.
		var wg sync.WaitGroup
		for i := range 12 {
			n := []*node{one, two}[i%2]
			wg.Go(func() { n.do("PUT", fmt.Sprintf("%s/tags/u.%d", room, i), alice, obj{"order": 0.5}) })
		}
		wg.Wait()
		two.do("DELETE", room+"/tags/u.3", alice, nil).want(200)
		two.do("DELETE", room+"/tags/u.3", alice, nil).want(200)
		two.do("PUT", room+"/tags/u.x", alice, obj{"order": "first"}).want(400, "M_BAD_JSON")
		two.do("PUT", room+"/tags/u.x", bob, obj{}).want(403, "M_FORBIDDEN")
		x := one.do("GET", room+"/tags", alice, nil).want(200)
		if tags := x.body["tags"].(obj); len(tags) != 11 || tags["u.3"] != nil {
			t.Fatalf("found %s", x.raw)
		}
		if x := one.do("GET", room+"/account_data/m.tag", alice, nil).want(200); !strings.Contains(x.raw, "u.4") {
			t.Fatalf("found %s", x.raw)
		}
	})
}

// TestAccountDataCacheFollowsTheDatabase writes and reads at two processes with a cache so small that
// users are pushed out and loaded again all the time.
func TestAccountDataCacheFollowsTheDatabase(t *testing.T) {
	c := testConfig()
	c.CacheUsers = 2
	fleet(t, c, func(t *testing.T, one, two *node) {
		var wg sync.WaitGroup
		for u := range 6 {
			wg.Go(func() {
				userID := fmt.Sprintf("@u%d:here.test", u)
				for i := range 30 {
					n := []*node{one, two}[i%2]
					other := []*node{two, one}[i%2]
					content := fmt.Sprintf(`{"i":%d}`, i)
					if err := n.PutAccountData(t.Context(), userID, "", "t", json.RawMessage(content)); err != nil {
						t.Error(err)
						return
					}
					if err := other.p.Streams.Barrier(t.Context()); err != nil {
						t.Error(err)
						return
					}
					got, err := other.AccountData(t.Context(), userID, "", "t")
					if err != nil || string(got) != content {
						t.Errorf("expected %s, found %s %v", content, got, err)
						return
					}
				}
			})
		}
		wg.Wait()
	})
}

// TestAccountDataInMemoryIsBoundedInBytes reads the large account data of many users and lets it grow in memory.
func TestAccountDataInMemoryIsBoundedInBytes(t *testing.T) {
	c := testConfig()
	c.CacheData = 3 << 20
	run(t, c, func(t *testing.T, n *node) {
		d := n.accountData
		check := func(when string) {
			t.Helper()
			if err := n.p.Streams.Barrier(t.Context()); err != nil {
				t.Fatal(err)
			}
			d.mu.RLock()
			defer d.mu.RUnlock()
			found := int64(0)
			for _, e := range d.users.entries {
				for _, datum := range e.value.data {
					found += int64(len(datum.Content) + len(datum.Type) + len(datum.RoomID))
				}
				if e.value.ignored != nil {
					for id := range e.value.ignored {
						found += int64(len(id))
					}
				}
			}
			if found > int64(c.CacheData) || d.bytes < found || d.bytes > int64(c.CacheData) {
				t.Errorf("%s: %d bytes of content are in memory, %d were counted, at most %d are allowed", when, found, d.bytes, c.CacheData)
			}
		}
		content := func(user, i int) json.RawMessage {
			return json.RawMessage(fmt.Sprintf(`{"x":"%d %d %s"}`, user, i, strings.Repeat("x", 100_000)))
		}
		put := func(user, i int) {
			t.Helper()
			if err := n.PutAccountData(t.Context(), fmt.Sprintf("@u%d:here.test", user), "", fmt.Sprint("t", i%8), content(user, i)); err != nil {
				t.Fatal(err)
			}
		}
		for user := range 8 {
			for i := range 8 {
				put(user, i)
			}
			check("after writing")
		}
		for user := range 8 {
			all, err := n.AllAccountData(t.Context(), fmt.Sprintf("@u%d:here.test", user))
			if err != nil || len(all) != 8 {
				t.Fatalf("found %d pieces, %v", len(all), err)
			}
			check("after reading")
		}
		for i := range 16 {
			put(3, i)
			got, err := n.AccountData(t.Context(), "@u3:here.test", "", fmt.Sprint("t", i%8))
			if err != nil || string(got) != string(content(3, i)) {
				t.Fatalf("found %.30s, %v", got, err)
			}
			check("while it changes")
		}
		ids := obj{}
		for i := range 10_000 {
			ids[fmt.Sprintf("@ignored-%0100d:here.test", i)] = obj{}
		}
		for user := range 3 {
			id := fmt.Sprintf("@u%d:here.test", user)
			list, err := json.Marshal(obj{"ignored_users": ids})
			if err != nil {
				t.Fatal(err)
			}
			if err := n.PutAccountData(t.Context(), id, "", typeIgnoredUsers, list); err != nil {
				t.Fatal(err)
			}
			if ignored, err := n.Ignored(t.Context(), id); err != nil || len(ignored) != 10_000 {
				t.Fatalf("found %d, %v", len(ignored), err)
			}
			check("with who is ignored")
		}
	})
}

func TestFilters(t *testing.T) {
	run(t, testConfig(), func(t *testing.T, n *node) {
		alice := n.register("alice").want(200).text("access_token")
		bob := n.register("bob").want(200).text("access_token")
		const path = client + "/user/@alice:here.test/filter"
		id := n.do("POST", path, alice, `{"room": {"timeline": {"limit": 10}}}`).want(200).text("filter_id")
		if again := n.do("POST", path, alice, `{"room":{"timeline":{"limit":10}}}`).want(200).text("filter_id"); id == "" || again != id {
			t.Fatalf("found %q %q", id, again)
		}
		if x := n.do("GET", path+"/"+id, alice, nil).want(200); x.raw != `{"room":{"timeline":{"limit":10}}}` {
			t.Fatalf("found %s", x.raw)
		}
		n.do("GET", path+"/"+id, bob, nil).want(403, "M_FORBIDDEN")
		n.do("POST", path, bob, obj{}).want(403, "M_FORBIDDEN")
		n.do("GET", client+"/user/@bob:here.test/filter/"+id, bob, nil).want(404, "M_NOT_FOUND")
		for _, bad := range []string{
			`{"event_format":"x"}`, `{"room":{"rooms":["x"]}}`, `{"room":{"timeline":{"limit":"many"}}}`, `{"room":[]}`,
			`{"presence":{"senders":["notauser"]}}`, `{"room":{"state":{"limit":-1}}}`,
		} {
			n.do("POST", path, alice, bad).want(400, "M_BAD_JSON")
		}
	})
}

func TestWhatTheServerTells(t *testing.T) {
	c := testConfig()
	c.WellKnown = WellKnown{Client: "https://matrix.here.test", Server: "matrix.here.test:443"}
	c.DefaultRoomVersion = "11"
	run(t, c, func(t *testing.T, n *node) {
		x := n.do("GET", "/_matrix/client/versions", "", nil).want(200)
		if !strings.Contains(x.raw, `"v1.16"`) || !strings.Contains(x.raw, `"r0.6.1"`) || !strings.Contains(x.raw, `"org.matrix.msc3391":true`) {
			t.Fatalf("found %s", x.raw)
		}
		if x := n.do("GET", "/.well-known/matrix/client", "", nil).want(200); !strings.Contains(x.raw, `"base_url":"https://matrix.here.test"`) {
			t.Fatalf("found %s", x.raw)
		}
		if x := n.do("GET", "/.well-known/matrix/server", "", nil).want(200); x.text("m.server") != "matrix.here.test:443" {
			t.Fatalf("found %s", x.raw)
		}
		n.do("GET", "/.well-known/matrix/support", "", nil).want(404, "M_NOT_FOUND")
		alice := n.register("alice").want(200).text("access_token")
		if x := n.do("GET", client+"/capabilities", alice, nil).want(200); !strings.Contains(x.raw, `"m.room_versions":{"available":{`) ||
			!strings.Contains(x.raw, `"default":"11"`) {
			t.Fatalf("found %s", x.raw)
		}
		if x := n.do("GET", client+"/account/3pid", alice, nil).want(200); x.raw != `{"threepids":[]}` {
			t.Fatalf("found %s", x.raw)
		}
		open := n.do("POST", client+"/user/@alice:here.test/openid/request_token", alice, obj{}).want(200)
		if user, err := n.OpenIDUser(t.Context(), open.text("access_token")); err != nil || user != "@alice:here.test" {
			t.Fatalf("found %s %v", user, err)
		}
		n.whoamiWith(open.text("access_token")).want(401)
		if _, err := n.OpenIDUser(t.Context(), alice); err == nil {
			t.Fatal("an access token was taken for an OpenID token")
		}
		n.do("POST", client+"/user/@bob:here.test/openid/request_token", alice, obj{}).want(403)
	})
}

func TestAccountDataIsSwapped(t *testing.T) {
	run(t, testConfig(), func(t *testing.T, n *node) {
		n.register("alice")
		for _, c := range []struct{ old, content, now string }{
			{`{"x":1}`, `{"x":2}`, `{}`}, // there is none
			{`{}`, `{"x":"<1>"}`, ``},
			{`{}`, `{"x":2}`, `{"x":"<1>"}`},
			{`{"x":2}`, `{"x":3}`, `{"x":"<1>"}`},
			{`{"x":"<1>"}`, `{"x":3}`, ``},
			{``, `{}`, ``},
			{`{"x":3}`, `{"x":4}`, `{}`},
			{`{}`, `{"x":4}`, ``},
		} {
			now, err := n.SwapAccountData(t.Context(), "@alice:here.test", DataSwap{
				RoomID: "!r:here.test", Type: "org.x.y", Old: c.old, New: json.RawMessage(c.content),
			})
			if err != nil || now != c.now {
				t.Fatalf("%+v: found %q, %v", c, now, err)
			}
		}
	})
}

// TestAChangeDoesNotUndoAnother: what was read before the shard moved is not written after it, also when it came back.
func TestAChangeDoesNotUndoAnother(t *testing.T) {
	fleet(t, testConfig(), func(t *testing.T, one, two *node) {
		const user, typ = "@alice:here.test", "org.x.y"
		st := one.DataStream()
		shard := st.Shard(user)
		owner := func() *node {
			t.Helper()
			var n *node
			roletest.Until(t, "somebody owns the shard", func() bool {
				for _, n = range []*node{one, two} {
					if n.DataStream().Owns(shard) {
						return true
					}
				}
				return false
			})
			return n
		}
		put := func(content string) {
			t.Helper()
			if err := one.PutAccountData(t.Context(), user, "", typ, json.RawMessage(content)); err != nil {
				t.Fatal(err)
			}
		}
		add := func(n *node, key string, meanwhile func()) error {
			return n.ChangeAccountData(t.Context(), user, "", typ, func(old json.RawMessage) (json.RawMessage, error) {
				all := map[string]bool{}
				if err := json.Unmarshal(old, &all); err != nil {
					return nil, err
				}
				meanwhile()
				all[key] = true
				return json.Marshal(all)
			})
		}
		put(`{"a":true}`)
		for _, key := range []string{"b", "c", "d"} {
			err := add(owner(), key, func() {
				before, _ := owner().DataStream().Ownership(shard)
				if _, err := one.db.Exec(t.Context(), "UPDATE leases SET epoch = epoch + 1, machine = -1 "+
					"WHERE name = $1", st.Lease(shard)); err != nil {
					t.Error(err)
				}
				roletest.Until(t, "the shard moved", func() bool {
					epoch, ok := owner().DataStream().Ownership(shard)
					return ok && epoch != before
				})
				put(`{"a":true,"other ` + key + `":true}`)
			})
			if !errors.Is(err, stream.ErrNotOwner) {
				t.Errorf("a change of what was read before the shard moved: %v", err)
			}
			if err := add(owner(), key, func() {}); err != nil {
				t.Fatal(err)
			}
			got, err := one.AccountData(t.Context(), user, "", typ)
			if err == nil {
				err = one.p.Streams.Barrier(t.Context())
				got, _ = one.AccountData(t.Context(), user, "", typ)
			}
			if want := `{"a":true,"` + key + `":true,"other ` + key + `":true}`; err != nil || string(got) != want {
				t.Errorf("%s %v, expected %s", got, err, want)
			}
		}
	})
}
