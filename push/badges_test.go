package push

import (
	"context"
	"errors"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"lyceum/platform/role/roletest"
	"lyceum/rooms/roomstest"
)

// badges returns the notifications of a pusher that are not about an event.
func (g *pushGateway) badges(pushkey string) (out []gjson.Result) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, n := range g.got {
		if !n.Get("event_id").Exists() && n.Get("devices.0.pushkey").String() == pushkey {
			out = append(out, n)
		}
	}
	return out
}

// A device that shows a number of unread notifications is told when there are none left: once, and not by receipts that change no count.
func TestDevicesHearThatAllIsRead(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		g := newPushGateway(t)
		room, other := n.Room(t, "alice", "bob", "carol"), n.Room(t, "alice", "bob", "carol")
		n.pusher(t, "bob", g.URL, "b", obj{"extra": 1})
		in, first := n.Say(t, "alice", other, "one"), n.Say(t, "alice", room, "one")
		for _, event := range []string{in, first} {
			roletest.Until(t, "the event is told", func() bool { _, times := g.find(event); return times == 1 })
		}
		n.read(t, "bob", room, first, "")
		time.Sleep(2 * badgeDelay)
		if got := g.badges("b"); len(got) > 0 {
			t.Errorf("one room is not read yet: %v", got)
		}
		n.read(t, "bob", other, in, "")
		roletest.Until(t, "all is read", func() bool { return len(g.badges("b")) == 1 })
		got := g.badges("b")[0]
		if unread := got.Get("counts.unread"); unread.Raw != "0" || got.Get("room_id").Exists() || got.Get("type").Exists() ||
			got.Get("devices.0.app_id").String() != "org.example" || got.Get("devices.0.data.url").Exists() ||
			got.Get("devices.0.data.extra").Int() != 1 {
			t.Errorf("found %s", got.Raw)
		}
		n.HTTP.As("bob").Want(200, "PUT "+roomstest.API+"/pushrules/global/override/.m.rule.master/enabled", obj{"enabled": true})
		n.read(t, "bob", room, n.Say(t, "alice", room, "nobody is notified"), "")
		time.Sleep(2 * badgeDelay)
		if got := g.badges("b"); len(got) != 1 {
			t.Errorf("a receipt that changes no count is told: %v", got)
		}
	})
}

// Checks what gateways get for a membership event, for a room with only an alias, and with the format event_id_only.
func TestWhatGatewaysAreTold(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		g := newPushGateway(t)
		room := n.Room(t, "alice", "carol")
		at := roomstest.API + "/rooms/" + url.PathEscape(room)
		n.pusher(t, "bob", g.URL, "full", obj{})
		n.pusher(t, "carol", g.URL, "short", obj{"format": "event_id_only"})
		n.HTTP.As("alice").Want(200, "POST "+at+"/invite", obj{"user_id": "@bob:here.test"})
		var invite gjson.Result
		roletest.Until(t, "the invite is told", func() bool {
			g.mu.Lock()
			defer g.mu.Unlock()
			for _, got := range g.got {
				if got.Get("type").String() == "m.room.member" {
					invite = got
				}
			}
			return invite.Exists()
		})
		if invite.Get("membership").String() != "invite" || !invite.Get("user_is_target").Bool() ||
			invite.Get("id").String() != invite.Get("event_id").String() {
			t.Errorf("found %s", invite.Raw)
		}
		event := n.Say(t, "alice", room, "hello")
		roletest.Until(t, "carol is told", func() bool { _, times := g.find(event); return times == 1 })
		got, _ := g.find(event)
		for _, name := range []string{"event_id", "room_id", "counts.unread", "devices"} {
			if !got.Get(name).Exists() {
				t.Errorf("%s is missing: %s", name, got.Raw)
			}
		}
		for _, name := range []string{
			"id", "type", "sender", "content", "room_name", "room_alias", "sender_display_name", "membership",
			"user_is_target",
		} {
			if got.Get(name).Exists() {
				t.Errorf("%s is told: %s", name, got.Raw)
			}
		}
	})
}

// failingReceipts can not read the receipts of one user while it fails.
type failingReceipts struct {
	Receipts
	user  string
	fails atomic.Bool
}

func (r *failingReceipts) ReadUpTo(ctx context.Context, userID, roomID string) (map[string]int64, error) {
	if userID == r.user && r.fails.Load() {
		return nil, errors.New("the receipts can not be read")
	}
	return r.Receipts.ReadUpTo(ctx, userID, roomID)
}

// TestABadgeThatFailsKeepsNoOther: when the unread count of a user can not be read, the devices of others are told nevertheless, and those
// of the user once it can be read again.
func TestABadgeThatFailsKeepsNoOther(t *testing.T) {
	harness.Run(t, func(t *testing.T, n *node) {
		failing := &failingReceipts{Receipts: n.Receipts, user: "@bob:here.test"}
		failing.fails.Store(true)
		n.Receipts = failing
		g := newPushGateway(t)
		n.Room(t, "alice", "bob", "carol")
		n.pusher(t, "bob", g.URL, "b", obj{})
		n.pusher(t, "carol", g.URL, "c", obj{})
		n.badges.add("@bob:here.test")
		n.badges.add("@carol:here.test")
		roletest.Until(t, "carol's device is told", func() bool { return len(g.badges("c")) == 1 })
		if got := g.badges("b"); len(got) > 0 {
			t.Errorf("the count is not known, and was sent: %v", got)
		}
		failing.fails.Store(false)
		roletest.Until(t, "bob's device is told", func() bool { return len(g.badges("b")) == 1 })
		if got := g.badges("c"); len(got) != 1 {
			t.Errorf("carol's device is told again: %v", got)
		}
	})
}
