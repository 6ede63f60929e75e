package accounts

import "testing"

// TestAccountDataIsRemoved: by DELETE, or as before MSC3391 by an empty object. Who follows the stream sees it once.
func TestAccountDataIsRemoved(t *testing.T) {
	fleet(t, testConfig(), func(t *testing.T, one, two *node) {
		alice := one.register("alice").want(200).text("access_token")
		bob := one.register("bob").want(200).text("access_token")
		const id, unstable = "@alice:here.test", "/_matrix/client/unstable/org.matrix.msc3391"
		for _, of := range []string{"/user/" + id, "/user/" + id + "/rooms/!r:here.test"} {
			path := of + "/account_data/a.b"
			for how, remove := range map[string]func(){
				"DELETE":            func() { two.do("DELETE", client+path, alice, nil).want(200) },
				"DELETE of the MSC": func() { two.do("DELETE", unstable+path, alice, nil).want(200) },
				"an empty object":   func() { two.do("PUT", client+path, alice, " { } ").want(200) },
			} {
				one.do("PUT", client+path, alice, obj{"n": 1}).want(200)
				one.do("GET", client+path, alice, nil).want(200)
				st := one.DataStream()
				at := st.Position(st.Shard(id))
				one.do("DELETE", client+path, bob, nil).want(403, "M_FORBIDDEN")
				remove()
				for _, n := range []*node{one, two} {
					n.do("GET", client+path, alice, nil).want(404, "M_NOT_FOUND")
					since, err := n.AccountDataSince(t.Context(), id, at, 1<<62)
					if err != nil || len(since) != 1 || string(since[0].Content) != "{}" {
						t.Errorf("%s: the stream tells %+v, %v", how, since, err)
					}
					if all, err := n.AllAccountData(t.Context(), id); err != nil || len(all) != 0 {
						t.Errorf("%s: there is %+v, %v", how, all, err)
					}
				}
				at = st.Position(st.Shard(id))
				two.do("DELETE", client+path, alice, nil).want(200)
				if since, err := two.AccountDataSince(t.Context(), id, at, 1<<62); err != nil || len(since) != 0 {
					t.Errorf("%s: what is gone went again: %+v, %v", how, since, err)
				}
			}
			one.do("DELETE", client+of+"/account_data/m.push_rules", alice, nil).want(405)
			one.do("DELETE", client+of+"/account_data/m.fully_read", alice, nil).want(405)
		}
	})
}
