package accounts

import (
	"testing"
)

func TestWhatAnOperatorSeesOfUsersAndTokens(t *testing.T) {
	run(t, testConfig(), func(t *testing.T, n *node) {
		ctx, yes := t.Context(), true
		for _, name := range []string{"alice", "bob", "carol"} {
			n.register(name).want(200)
		}
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		must(n.SetProfile(ctx, "@alice:here.test", "displayname", []byte(`"Alice \u2603"`)))
		must(n.SetRights(ctx, "@bob:here.test", Rights{Admin: &yes, Locked: &yes, Suspended: &yes}))
		must(n.Deactivate(ctx, "@carol:here.test", false))
		all, err := n.Users(ctx, "", 10)
		must(err)
		if len(all) != 3 || all[0].UserID != "@alice:here.test" || all[0].DisplayName != "Alice ☃" || all[0].Created == 0 ||
			!all[1].Admin || !all[1].Locked || !all[1].Suspended || !all[2].Deactivated {
			t.Errorf("users: %+v", all)
		}
		if rest, err := n.Users(ctx, "@alice:here.test", 1); err != nil || len(rest) != 1 || rest[0].UserID != "@bob:here.test" {
			t.Errorf("the next page: %+v, %v", rest, err)
		}
		for _, name := range []string{"Alice", "@alice:here.test"} {
			if u, err := n.User(ctx, name); err != nil || u.UserID != "@alice:here.test" || u.DisplayName != "Alice ☃" {
				t.Errorf("%s: %+v, %v", name, u, err)
			}
		}
		if _, err := n.User(ctx, "nobody"); err == nil {
			t.Error("somebody who is not there was found")
		}

		made, err := n.CreateRegistrationToken(ctx, RegistrationToken{UsesAllowed: 3, Expires: n.nowMs() + 1000})
		must(err)
		list, err := n.RegistrationTokens(ctx)
		must(err)
		found := false
		for _, token := range list {
			found = found || token == made && token.Created > 0 && !token.First
		}
		if !found {
			t.Errorf("%+v is not in %+v", made, list)
		}
		if removed, err := n.DeleteRegistrationToken(ctx, made.Token); err != nil || !removed {
			t.Errorf("the token was not removed: %v", err)
		}
	})
}
