package accounts

import (
	"testing"

	"lyceum/platform/role/roletest"
)

// What was on its way when a user was erased leaves nothing, and comes too late afterwards.
func TestNothingOutlivesAnErasedUser(t *testing.T) {
	const rounds = 6
	run(t, testConfig(), func(t *testing.T, n *node) {
		outlived := 0
		for round := range rounds {
			name := string(rune('a' + round))
			x := n.register(name).want(200)
			user, token := x.text("user_id"), x.text("access_token")
			path := client + "/user/" + user
			roletest.AtOnce(7, func(i int) {
				switch {
				case i == 0:
					n.do("POST", client+"/account/deactivate", token, obj{"erase": true, "auth": obj{
						"type": stagePassword, "user": name,
						"password": "correct horse",
					}}).
						want(200)
				case i < 4:
					n.do("PUT", path+"/account_data/m.test"+string(rune('0'+i)), token, obj{"a": i})
				default:
					n.do("POST", path+"/filter", token, obj{"event_fields": []string{string(rune('0' + i))}})
				}
			})
			if n.count(
				`SELECT COUNT(*) FROM filters WHERE user_id = $1`,
				user,
			)+n.count(
				`SELECT COUNT(*) FROM account_data WHERE user_id = $1 AND content <> '{}'`,
				user,
			) > 0 {
				outlived++
			}
			if err := n.PutAccountData(t.Context(), user, "", "m.late", []byte(`{"a":1}`)); err == nil {
				t.Error("account data of a deactivated user was taken")
			}
			if _, err := n.PutFilter(t.Context(), user, []byte(`{"event_fields":["late"]}`)); err == nil {
				t.Error("a filter of a deactivated user was taken")
			}
			if created, err := n.CreateDevice(t.Context(), user, "LATE", ""); created || err == nil {
				t.Error("a device of a deactivated user was made")
			}
		}
		if outlived > 0 {
			t.Errorf("in %d of %d rounds something outlived the user", outlived, rounds)
		}
	})
}

// TestADeactivatedUserIsErasedLater: the first time it was not asked for.
func TestADeactivatedUserIsErasedLater(t *testing.T) {
	run(t, testConfig(), func(t *testing.T, n *node) {
		user := n.register("alice").want(200).text("user_id")
		if err := n.PutAccountData(t.Context(), user, "", "m.kept", []byte(`{"a":1}`)); err != nil {
			t.Fatal(err)
		}
		for i, erase := range []bool{false, true, false} {
			if err := n.Deactivate(t.Context(), user, erase); err != nil {
				t.Fatal(err)
			}
			erased, err := n.Erased(t.Context(), []string{user})
			if err != nil || erased[user] != (i > 0) {
				t.Errorf("time %d: erased %v, %v", i, erased, err)
			}
			left := n.count(`SELECT COUNT(*) FROM account_data WHERE user_id = $1 AND content <> '{}'`, user)
			if (left > 0) != (i == 0) {
				t.Errorf("time %d: %d account data are left", i, left)
			}
		}
	})
}
