package rooms

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"lyceum/accounts"
	"lyceum/matrix"
	"lyceum/matrix/event"
)

// account makes an account for a user.
func (h *house) account(name string) (userID string) {
	h.t.Helper()
	userID, err := h.Accounts.CreateUser(h.t.Context(), accounts.NewUser{Name: name})
	if err != nil {
		h.t.Fatal(err)
	}
	return userID
}

// rename changes a user's name, without what spreads it.
func (h *house) rename(userID, name string) {
	h.t.Helper()
	if err := h.Accounts.SetProfile(h.t.Context(), userID, "displayname", encodeJSON(name)); err != nil {
		h.t.Fatal(err)
	}
}

// renew is what the job does that renews what was made of old profiles.
func (h *house) renew() {
	h.t.Helper()
	err := h.renewOld(h.t.Context(), func(ctx context.Context, query string, args ...any) error {
		_, err := h.Process.DB.Exec(ctx, query, args...)
		return err
	})
	if err != nil {
		h.t.Error(err)
	}
}

// TestAMembershipGetsTheProfileOfNow: one that is made of a profile which has changed is stored, and renewed.
func TestAMembershipGetsTheProfileOfNow(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		user := h.account("bob")
		room := h.alice.create(obj{"preset": "public_chat"})
		name := func() string {
			return h.bob.Want(200, at("GET", room, "state/m.room.member/"+user), nil).Get("displayname").String()
		}
		old := func(membership string) Send {
			req, err := h.memberEvent(t.Context(), membershipRequest{Sender: user, Target: user, Membership: membership, Always: true})
			if err != nil || membership == event.MembershipJoin && req.ProfileVersion == 0 {
				t.Fatal(req.ProfileVersion, err)
			}
			return req
		}
		rename := func(name string) { h.rename(user, name) }
		rows := func(want int) {
			t.Helper()
			var n int
			if err := h.Process.DB.QueryRow(t.Context(), "SELECT COUNT(*) FROM old_profiles").Scan(&n); err != nil || n != want {
				t.Errorf("%d rows, expected %d: %v", n, want, err)
			}
		}
		send := func(req Send) {
			t.Helper()
			if _, err := h.Send(t.Context(), room, req); err != nil {
				t.Error(err)
			}
		}
		send(old(event.MembershipJoin))
		rows(0)
		rename("Bob")
		req := old(event.MembershipJoin)
		rename("Robert")
		send(req)
		if got := name(); got != "Bob" {
			t.Errorf("a join has the name %q", got)
		}
		rows(1)
		// It changes again while the row is worked off.
		req = old(event.MembershipJoin)
		first := true
		h.meanwhile(func() {
			if first {
				first = false
				rename("Rob")
				send(req)
			}
		})
		h.renew()
		rows(1)
		h.renew()
		rows(0)
		if got := name(); got != "Rob" {
			t.Errorf("after all the name is %q", got)
		}
		// Who has left is renewed nowhere.
		req = old(event.MembershipJoin)
		rename("Bobby")
		send(req)
		send(old(event.MembershipLeave))
		h.renew()
		rows(0)
		if e, err := h.Membership(t.Context(), user, room); err != nil || e.Membership != event.MembershipLeave {
			t.Error(e.Membership, err)
		}
		req = old(event.MembershipJoin)
		if err := h.Accounts.Deactivate(t.Context(), user, false); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Send(t.Context(), h.alice.create(obj{"preset": "public_chat"}), req); !matrix.HasCode(err, matrix.CodeForbidden) {
			t.Errorf("a join of a deactivated user: %v", err)
		}
		h.alice.say(room, "the room goes on")
		for _, target := range []string{at("POST", room, "join"), "POST /_matrix/client/v3/createRoom"} {
			h.bob.refused(403, "M_FORBIDDEN", target, obj{})
		}
	})
}

// TestOldProfilesThatStayKeepNoOthersWaiting: memberships that can not be renewed, however many there are.
func TestOldProfilesThatStayKeepNoOthersWaiting(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		user := h.account("bob")
		room := h.alice.create(obj{"preset": "public_chat"})
		h.bob.join(room)
		rows := [][]any{{user, room, "x"}}
		for i := range renewAtOnce {
			rows = append(rows, []any{"@a:" + server, fmt.Sprintf("!%d:%s", i, server), "x"})
		}
		if err := h.Process.DB.Bulk(t.Context(), "INSERT INTO old_profiles (user_id, place, id) VALUES ?", rows); err != nil {
			t.Fatal(err)
		}
		err := h.renewOld(t.Context(), func(ctx context.Context, query string, args ...any) error {
			_, err := h.Process.DB.Exec(ctx, query, args...)
			return err
		})
		if !matrix.HasCode(err, matrix.CodeNotFound) {
			t.Errorf("expected that there are no such rooms, found %v", err)
		}
		var left int
		if err := h.Process.DB.QueryRow(t.Context(), "SELECT COUNT(*) FROM old_profiles WHERE user_id = $1", user).Scan(&left); err != nil ||
			left != 0 {
			t.Errorf("a membership waits behind others: %d, %v", left, err)
		}
	})
}

// TestWhoRenamesHimselfHoldsUpNobody: nothing that others have on their way to the same room begins anew.
func TestWhoRenamesHimselfHoldsUpNobody(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		user := h.account("bob")
		room := h.alice.create(obj{"preset": "public_chat"})
		for n := range 10 {
			req, err := h.memberEvent(t.Context(), membershipRequest{Sender: user, Target: user, Membership: event.MembershipJoin, Always: true})
			if err != nil {
				t.Fatal(err)
			}
			h.rename(user, fmt.Sprint("bob ", n))
			var all sync.WaitGroup
			all.Go(func() {
				if _, err := h.Send(t.Context(), room, req); err != nil {
					t.Error(err)
				}
			})
			for i := range 10 {
				all.Go(func() {
					// Not by Rooms.Send, which would try again.
					_, err := h.appendEvent(t.Context(), room, message(h.alice.id, fmt.Sprint(n, i)))
					if err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
		}
	})
}

// TestProfilesComeToRoomsThatAreMadeMeanwhile: of a new name and of a deactivation, rooms that the user makes or joins at the same
// moment hear too.
func TestProfilesComeToRoomsThatAreMadeMeanwhile(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		user := h.account("bob")
		open := h.alice.create(obj{"preset": "public_chat"})
		for n := range 12 {
			name := fmt.Sprint("name ", n)
			made := make([]string, 6)
			var wg sync.WaitGroup
			for i := range made {
				wg.Go(func() {
					if i == 0 {
						h.bob.Call(at("POST", open, "join"), obj{})
						made[i] = open
						return
					}
					made[i] = h.bob.Call("POST /_matrix/client/v3/createRoom", obj{}).Get("room_id").String()
				})
			}
			change := func() {
				err := h.Accounts.SetProfile(t.Context(), user, "displayname", json.RawMessage(`"`+name+`"`))
				if err == nil {
					err = h.ProfileChanged(t.Context(), user, "displayname")
				}
				if n == 11 {
					err = h.Accounts.Deactivate(t.Context(), user, false)
					if err == nil {
						err = h.UserDeactivated(t.Context(), user, false)
					}
				}
				if err != nil {
					t.Error(err)
				}
			}
			wg.Go(change)
			wg.Wait()
			h.renew()
			memberships, err := h.Memberships(t.Context(), user)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range memberships {
				e, err := h.Event(t.Context(), m.EventID)
				if err != nil {
					t.Fatal(err)
				}
				if n == 11 && m.Membership == event.MembershipJoin {
					t.Errorf("a deactivated user is a member of %s", m.RoomID)
				}
				if n < 11 && m.Membership == event.MembershipJoin && !strings.Contains(string(e.Content), `"`+name+`"`) {
					t.Errorf("after the change to %s a room has %s", name, e.Content)
				}
			}
			if n < 11 && n%3 == 0 {
				h.bob.Call(at("POST", open, "leave"), obj{})
			}
		}
	})
}

// meanwhile runs fn before each write of an event that is on its way.
func (h *house) meanwhile(fn func()) {
	h.Rooms.beforeOwnerCall = fn
}

// TestAProfileThatChangesAllTheTime keeps nobody from anything.
func TestAProfileThatChangesAllTheTime(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		h.account("bob")
		open, own := h.alice.create(obj{"preset": "public_chat"}), h.bob.create(nil)
		knocking := h.alice.create(obj{"initial_state": []obj{{"type": "m.room.join_rules", "content": obj{"join_rule": "knock"}}}})
		n := 0
		h.meanwhile(func() {
			n++
			if err := h.Accounts.SetProfile(context.Background(), h.bob.id, "displayname", encodeJSON(fmt.Sprint("bob ", n))); err != nil {
				t.Error(err)
			}
		})
		for name, way := range waysToInvite(open, h.bob.id, 0) {
			if a := h.alice.Call(way.target, way.body); a.Status != 200 {
				t.Errorf("%s: %d %s", name, a.Status, a.Body)
			}
		}
		for _, change := range []string{"kick", "ban", "unban"} {
			h.alice.Want(200, at("POST", open, change), obj{"user_id": h.bob.id})
		}
		for target, body := range map[string]obj{
			at("POST", open, "join"): {}, "POST /_matrix/client/v3/createRoom": {}, "POST /_matrix/client/v3/knock/" + esc(knocking): {},
			at("POST", own, "upgrade"): {"new_version": "11"},
		} {
			if a := h.bob.Call(target, body); a.Status != 200 {
				t.Errorf("%s: %d %s", target, a.Status, a.Body)
			}
		}
	})
}
