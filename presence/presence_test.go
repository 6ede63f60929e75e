package presence

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"net/url"
	"strconv"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"

	"lyceum/platform/db"
	"lyceum/platform/role/roletest"
	"lyceum/platform/stream"
	"lyceum/rooms/roomstest"
)

type obj = map[string]any

// node is a process that serves presence.
type node struct {
	*Presence
	*roomstest.Node
}

var harness = roomstest.NewHarness(func(t testing.TB, on *roomstest.Node) *node {
	n := &node{New(Deps{Process: on.Process, Rooms: on.Rooms, Now: on.Clock.Now}, Config{Enabled: true}), on}
	on.Serve(t, n.Routes()...)
	return n
}, Migrations())

func path(user string) string {
	return " " + roomstest.API + "/presence/" + url.PathEscape("@"+user+":here.test") + "/status"
}

func (n *node) is(t testing.TB, user string) string {
	t.Helper()
	list, err := n.ForUsers(t.Context(), []string{"@" + user + ":here.test"})
	if err != nil {
		t.Fatal(err)
	}
	if len(list) == 0 {
		return ""
	}
	return list[0].Presence
}

func (n *node) becomes(t testing.TB, user, state string) {
	t.Helper()
	roletest.Until(t, user+" is "+state, func() bool { return n.is(t, user) == state })
}

// heard tells whether the owner knows that a device was seen now.
func (n *node) heard(id, device string) bool {
	here := false
	n.owned.Peek(context.Background(), id, func(who *ownedUser) {
		i := who.devices.index(device)
		here = i >= 0 && who.devices[i].at.Equal(n.Clock.Now())
	})
	return here
}

func TestDevicesMerge(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		const bob = "@bob:here.test"
		shard := n.stream.Shard(bob)
		n.Seen(t.Context(), bob, "A", "unavailable")
		n.becomes(t, "bob", Unavailable)
		n.Seen(t.Context(), bob, "B", "")
		n.becomes(t, "bob", Online)
		for range 1000 {
			n.Seen(t.Context(), bob, "B", "online")
		}
		n.Seen(t.Context(), bob, "B", "offline")
		n.becomes(t, "bob", Unavailable)
		if got := n.stream.Position(shard); got != 3 {
			t.Fatalf("expected 3 rows, found %d", got)
		}
		n.Clock.Advance(61 * time.Second)
		n.becomes(t, "bob", Offline)
	})
}

func TestIdleAndActive(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		const bob = "@bob:here.test"
		room := n.Room(t, "alice", "bob")
		n.Seen(t.Context(), bob, "A", "online")
		n.becomes(t, "bob", Online)
		for range 7 {
			n.Clock.Advance(50 * time.Second)
			n.Seen(t.Context(), bob, "A", "online")
			roletest.Until(t, "the owner hears", func() bool { return n.heard(bob, "A") })
		}
		n.becomes(t, "bob", Unavailable)
		n.Clock.Set(time.Now()) // the event's time is the server's
		n.Seen(t.Context(), bob, "A", "online")
		n.Say(t, "bob", room, "back")
		n.becomes(t, "bob", Online)
	})
}

func TestStatus(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		n.Room(t, "alice", "bob")
		bob := n.HTTP.As("bob")
		bob.Want(200, "PUT"+path("bob"), obj{"presence": "online", "status_msg": "here"})
		got := n.HTTP.As("alice").Want(200, "GET"+path("bob"), nil)
		if got.Get("presence").String() != Online || got.Get("status_msg").String() != "here" || !got.Get("currently_active").Bool() ||
			!got.Get("last_active_ago").Exists() {
			t.Fatalf("found %s", got.Body)
		}
		bob.Want(200, "PUT"+path("bob"), obj{"presence": "offline"})
		got = bob.Want(200, "GET"+path("bob"), nil)
		if got.Get("presence").String() != Offline || got.Get("status_msg").Exists() {
			t.Fatalf("found %s", got.Body)
		}
		if got := n.HTTP.As("alice").Want(200, "GET"+path("alice"), nil); got.Get("presence").String() != Offline {
			t.Fatalf("found %s", got.Body)
		}
		for _, c := range []struct {
			call, as string
			body     any
			status   int
		}{
			{"GET" + path("bob"), "carol", nil, 403},
			{"PUT" + path("bob"), "alice", obj{"presence": "online"}, 403},
			{"PUT" + path("bob"), "bob", obj{"presence": "asleep"}, 400},
			{"PUT" + path("bob"), "bob", obj{}, 400},
			{"PUT" + path("bob"), "bob", obj{"presence": "online", "status_msg": 7}, 400},
			{"PUT" + path("bob"), "bob", obj{"presence": "online", "status_msg": "a\x00b"}, 400},
			{"PUT" + path("bob"), "bob", obj{"presence": "online", "status_msg": nil}, 200},
		} {
			if got := n.HTTP.As(c.as).Call(c.call, c.body); got.Status != c.status {
				t.Errorf("%+v: found %d %s", c, got.Status, got.Body)
			}
		}
	})
}

func TestOwnerDies(t *testing.T) {
	harness.Fleet(t, func(t *testing.T, one, two *node, stopTwo func()) {
		var user string
		for _, name := range []string{"alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan", "judy"} {
			if two.stream.Owns(two.stream.Shard("@" + name + ":here.test")) {
				user = name
			}
		}
		id := "@" + user + ":here.test"
		one.Seen(t.Context(), id, "A", "online")
		one.becomes(t, user, Online)
		stopTwo()
		roletest.Until(t, "the shard moves", func() bool { return one.stream.Owns(one.stream.Shard(id)) })
		one.Clock.Advance(30 * time.Second)
		one.Seen(t.Context(), id, "A", "online")
		roletest.Until(t, "the new owner hears", func() bool { return one.heard(id, "A") })
		if got := one.is(t, user); got != Online {
			t.Fatalf("the user is %s after the owner died", got)
		}
		one.Clock.Advance(61 * time.Second)
		one.becomes(t, user, Offline)
	})
}

func FuzzFromRow(f *testing.F) {
	f.Add([]byte(`{"user":"@u:x","presence":"online","msg":"x","active":5}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := FromRow(stream.Row{Data: data, Pos: 3})
		if err == nil && !json.Valid(Content(s, time.UnixMilli(9))) {
			t.Fatal("the content is no JSON")
		}
	})
}

// eventRow is a row of the events stream as the bus brings it, as far as a glance reads it.
func eventRow(sender string, ts int64) stream.Row {
	data := binary.AppendVarint(nil, ts)
	data = binary.AppendUvarint(data, 0)
	data = binary.AppendUvarint(data, uint64(len(sender)))
	return stream.Row{Data: append(data, sender...)}
}

// The owner hears of a user who writes on and on now and then only.
func TestActivityIsToldRarely(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		const bob = "@bob:here.test"
		n.Seen(t.Context(), bob, "A", "online")
		n.becomes(t, "bob", Online)
		last := func() (at int64) {
			n.owned.Peek(t.Context(), bob, func(who *ownedUser) { at = who.lastActive })
			return at
		}
		n.Clock.Advance(30 * time.Second)
		at := n.Clock.Now().UnixMilli()
		for i := range 1000 {
			n.noteSenders([]stream.Row{eventRow(bob, at+int64(i)), eventRow("@nobody:here.test", at)})
		}
		roletest.Until(t, "the owner hears", func() bool { return last() == at })
		n.noteSenders([]stream.Row{eventRow(bob, at-3_600_000), eventRow(bob, at+3_600_000)})
		n.Clock.Advance(26 * time.Second)
		n.noteSenders([]stream.Row{eventRow(bob, at+3_600_000)})
		roletest.Until(t, "the owner hears again", func() bool { return last() == at+26_000 })
	})
}

func BenchmarkActive(b *testing.B) {
	n := &Presence{Deps: Deps{Now: time.Now}, pending: make(chan string, maxWaiting)}
	now := time.Now().UnixMilli()
	rows := make([]stream.Row, 0, 2000)
	for i := range cap(rows) {
		sender := "@some-longer-user-name-" + strconv.Itoa(i) + ":matrix.example.org"
		rows = append(rows, eventRow(sender, now))
		if s := &n.local[xxhash.Sum64String(sender)%stripes]; i%2 == 0 {
			if s.users == nil {
				s.users = map[string]*localUser{}
			}
			s.users[sender] = &localUser{active: now}
		}
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		at := i % len(rows)
		n.noteSenders(rows[at : at+1])
	}
}

// A repeated status is not acknowledged while the first is not stored: the database may refuse it.
func TestARepeatedStatusWaitsForTheFirst(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		const id = "@alice:here.test"
		held, release := make(chan struct{}), make(chan struct{})
		blocked := make(chan error, 1)
		go func() {
			blocked <- n.Process.DB.Tx(t.Context(), func(tx *db.Tx) error {
				if _, err := tx.Exec(t.Context(), "UPDATE leases SET pos = pos"); err != nil { // no commit passes
					return err
				}
				close(held)
				<-release
				return nil
			})
		}()
		<-held
		answers := make(chan error, 2)
		set := func() { answers <- n.Set(t.Context(), id, "A", Online, nil) }
		go set()
		roletest.Until(t, "the first is on its way", func() (on bool) {
			n.owned.Peek(t.Context(), id, func(who *ownedUser) { on = who.status.Presence == Online })
			return on
		})
		go set()
		select {
		case err := <-answers:
			t.Errorf("acknowledged before anything was stored: %v", err)
			answers <- err
		case <-time.After(200 * time.Millisecond):
		}
		close(release)
		for range 2 {
			if err := <-answers; err != nil {
				t.Error(err)
			}
		}
		if err := <-blocked; err != nil {
			t.Error(err)
		}
	})
}
