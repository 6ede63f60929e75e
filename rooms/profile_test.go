package rooms

import (
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
