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

// TestAMembershipIsOfTheProfileOfNow: what is made of a profile that has changed is not stored.
func TestAMembershipIsOfTheProfileOfNow(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		user, err := h.Accounts.CreateUser(t.Context(), accounts.NewUser{Name: "bob"})
		if err != nil {
			t.Fatal(err)
		}
		room := h.alice.create(obj{"preset": "public_chat"})
		req, err := h.memberEvent(t.Context(), member{Sender: user, Target: user, Membership: event.MembershipJoin})
		if err != nil || req.Profile == 0 {
			t.Fatal(req.Profile, err)
		}
		if err := h.Accounts.SetProfile(t.Context(), user, "displayname", json.RawMessage(`"Robert"`)); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Send(t.Context(), room, req); !matrix.HasCode(err, matrix.CodeBadState) {
			t.Errorf("a join of an old profile: %v", err)
		}
		h.alice.say(room, "the room goes on")
		h.bob.join(room)
		if got := h.bob.Want(200, at("GET", room, "state/m.room.member/"+user), nil).Get("displayname").String(); got != "Robert" {
			t.Errorf("a join has the name %q", got)
		}
		if req, err = h.memberEvent(t.Context(), member{Sender: user, Target: user, Membership: event.MembershipJoin}); err != nil {
			t.Fatal(err)
		}
		if err := h.Accounts.Deactivate(t.Context(), user, false); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Send(t.Context(), h.alice.create(obj{"preset": "public_chat"}), req); !matrix.HasCode(err, matrix.CodeBadState) {
			t.Errorf("a join of a deactivated user: %v", err)
		}
		for _, target := range []string{at("POST", room, "join"), "POST /_matrix/client/v3/createRoom"} {
			h.bob.refused(403, "M_FORBIDDEN", target, obj{})
		}
	})
}

// TestProfilesComeToRoomsThatAreMadeMeanwhile: of a new name and of a deactivation, rooms that the user makes or joins at the same
// moment hear too.
func TestProfilesComeToRoomsThatAreMadeMeanwhile(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		user, err := h.Accounts.CreateUser(t.Context(), accounts.NewUser{Name: "bob"})
		if err != nil {
			t.Fatal(err)
		}
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
	send, create := h.Rooms.send, h.Rooms.create
	h.Rooms.send = func(ctx context.Context, roomID string, req Send) (sendResult, error) {
		fn()
		return send(ctx, roomID, req)
	}
	h.Rooms.create = func(ctx context.Context, roomID string, req createRequest) (struct{}, error) {
		fn()
		return create(ctx, roomID, req)
	}
}

// TestAProfileThatChangesAllTheTime keeps nobody but its user from anything.
func TestAProfileThatChangesAllTheTime(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		if _, err := h.Accounts.CreateUser(t.Context(), accounts.NewUser{Name: "bob"}); err != nil {
			t.Fatal(err)
		}
		open, own := h.alice.create(obj{"preset": "public_chat"}), h.bob.create(nil)
		knocking := h.alice.create(obj{"initial_state": []obj{{"type": "m.room.join_rules", "content": obj{"join_rule": "knock"}}}})
		n := 0
		h.meanwhile(func() {
			n++
			if err := h.Accounts.SetProfile(context.Background(), h.bob.id, "displayname", encoded(fmt.Sprint("bob ", n))); err != nil {
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
			if a := h.bob.Call(target, body); a.Status != 429 || a.Errcode() != "M_LIMIT_EXCEEDED" || a.Get("retry_after_ms").Int() <= 0 {
				t.Errorf("%s: %d %s", target, a.Status, a.Body)
			}
		}
	})
}
