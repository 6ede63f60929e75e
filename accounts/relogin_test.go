package accounts

import (
	"context"
	"slices"
	"testing"

	"lyceum/platform/role/roletest"
	"lyceum/platform/stream"
)

func (n *node) count(query string, args ...any) (found int) {
	n.t.Helper()
	if err := n.db.QueryRow(context.Background(), query, args...).Scan(&found); err != nil {
		n.t.Fatal(err)
	}
	return found
}

// alive gives the tokens that a process takes.
func (n *node) alive(tokens []string) (out []string) {
	n.t.Helper()
	for _, token := range tokens {
		if n.whoamiWith(token).status == 200 {
			out = append(out, token)
		}
	}
	return out
}

// Of log-ins with one device id, in whatever process, one token is left, and one refresh token.
func TestLogInsWithOneDeviceIDLeaveOneToken(t *testing.T) {
	const rounds, callers = 10, 6
	fleet(t, testConfig(), func(t *testing.T, one, two *node) {
		first := one.register("alice", obj{"device_id": "PHONE", "refresh_token": true}).want(200)
		tokens, refreshes := []string{first.text("access_token")}, []string{first.text("refresh_token")}
		failed := 0
		for range rounds {
			begin := len(tokens)
			tokens, refreshes = append(tokens, make([]string, callers)...), append(refreshes, make([]string, callers)...)
			roletest.AtOnce(callers, func(i int) {
				n := []*node{one, two}[i%2]
				x := n.login("alice", "correct horse", obj{"device_id": "PHONE", "refresh_token": true})
				if x.status != 200 {
					t.Errorf("expected a log-in, found %d: %s", x.status, x.raw)
					return
				}
				tokens[begin+i], refreshes[begin+i] = x.text("access_token"), x.text("refresh_token")
				n.whoamiWith(tokens[begin+i]) // it is remembered
			})
			here, there := one.alive(tokens), two.alive(tokens)
			if len(here) != 1 || !slices.Equal(here, there) || one.count(`SELECT COUNT(*) FROM tokens`) != 1 {
				failed++
			}
		}
		if failed > 0 {
			t.Errorf("in %d of %d rounds another number of tokens than one was left", failed, rounds)
		}
		left := 0
		for _, r := range refreshes {
			if one.do("POST", client+"/refresh", "", obj{"refresh_token": r}).status == 200 {
				left++
			}
		}
		if left != 1 {
			t.Errorf("expected one refresh token, found %d", left)
		}
	})
}

// A refresh that ends at the same moment as a log-in with the device leaves nothing of the earlier log-in.
func TestRefreshAndLogInLeaveOneLogIn(t *testing.T) {
	const rounds = 12
	run(t, testConfig(), func(t *testing.T, n *node) {
		before := n.register("alice", obj{"device_id": "PHONE", "refresh_token": true}).want(200)
		failed := 0
		for range rounds {
			var tokens [5]string
			var fresh answer
			roletest.AtOnce(5, func(i int) {
				if i == 0 {
					fresh = n.login("alice", "correct horse", obj{"device_id": "PHONE", "refresh_token": true})
					tokens[i] = fresh.text("access_token")
					return
				}
				tokens[i] = n.do("POST", client+"/refresh", "", obj{"refresh_token": before.text("refresh_token")}).text("access_token")
			})
			fresh.want(200)
			if left := n.alive(tokens[:]); !slices.Equal(left, tokens[:1]) || n.count(`SELECT COUNT(*) FROM tokens`) != 1 {
				failed++
			}
			before = fresh
		}
		if failed > 0 {
			t.Errorf("in %d of %d rounds a token of the earlier log-in was left", failed, rounds)
		}
	})
}

// A refresh that ends at the same moment as a log-out leaves no token that a later log-in with the device id would revive.
func TestRefreshAndLogOutLeaveNothing(t *testing.T) {
	const rounds = 12
	run(t, testConfig(), func(t *testing.T, n *node) {
		n.register("alice").want(200)
		failed := 0
		for range rounds {
			x := n.login("alice", "correct horse", obj{"device_id": "PHONE", "refresh_token": true}).want(200)
			roletest.AtOnce(4, func(i int) {
				if i == 0 {
					n.do("POST", client+"/logout", x.text("access_token"), nil)
					return
				}
				n.do("POST", client+"/refresh", "", obj{"refresh_token": x.text("refresh_token")})
			})
			if n.count(`SELECT COUNT(*) FROM tokens WHERE device_id = 'PHONE'`) != 0 {
				failed++
			}
		}
		if failed > 0 {
			t.Errorf("in %d of %d rounds a token was left of a device that is gone", failed, rounds)
		}
	})
}

// left are the devices for which a part of the server keeps something; it may be slow or fail to drop it.
type left struct {
	failingListener
	kept map[string]bool
}

func (l *left) DevicesRemoved(ctx context.Context, userID string, ids []string) error {
	if err := l.failingListener.DevicesRemoved(ctx, userID, ids); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range ids {
		delete(l.kept, id)
	}
	return nil
}

// Who makes a device with the id of one that was removed waits until what that one left is gone, and fails when that fails.
func TestADeviceIDUsedAgainInheritsNothing(t *testing.T) {
	for name, again := range map[string]func(n *node) bool{
		"log-in": func(n *node) bool {
			return n.login("alice", "correct horse", obj{"device_id": "PHONE"}).status == 200
		},
		"made without a token": func(n *node) bool {
			created, err := n.CreateDevice(n.t.Context(), "@alice:here.test", "PHONE", "")
			return created && err == nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := &left{kept: map[string]bool{}}
			runWith(t, Deps{Devices: []DeviceListener{l}}, testConfig(), func(t *testing.T, n *node) {
				x := n.register("alice", obj{"device_id": "PHONE"}).want(200)
				l.mu.Lock()
				l.kept["PHONE"], l.fails = true, 2 // the clean-up at once, and that of the first who comes
				l.mu.Unlock()
				n.do("POST", client+"/logout", x.text("access_token"), nil).want(200)
				if again(n) {
					t.Fatal("a device was made while something of an earlier one was there")
				}
				if _, err := n.Device(t.Context(), "@alice:here.test", "PHONE"); err == nil {
					t.Fatal("there is a device after a log-in that failed")
				}
				if !again(n) {
					t.Fatal("expected a device")
				}
				l.mu.Lock()
				defer l.mu.Unlock()
				if l.kept["PHONE"] || n.followUpsLeft() != 0 {
					t.Error("the device inherited something")
				}
			})
		})
	}
}

// A removal and a log-in with the same device id may be written at once.
func TestALogInSeesARemovalOfTheSameBatch(t *testing.T) {
	run(t, testConfig(), func(t *testing.T, n *node) {
		x := n.register("alice", obj{"device_id": "PHONE"}).want(200)
		u, err := loadUser(t.Context(), n.db, x.text("user_id"))
		if err != nil {
			t.Fatal(err)
		}
		p, _, err := n.newTokenPair(t.Context(), u.id, "PHONE", false)
		if err != nil {
			t.Fatal(err)
		}
		st := n.sessions.stream
		var entries []*stream.Entry
		for _, c := range []sessionChange{
			{Kind: changeRemove, Devices: []string{"PHONE"}},
			{Kind: changeLogin, Login: &newLogin{Device: loginDevice{ID: "PHONE"}, Tokens: p, Password: u.password}},
		} {
			entries = append(
				entries,
				&stream.Entry{
					Stream: st,
					Row:    stream.Row{Shard: st.Shard(u.id), Key: u.id, Data: []byte("{}"), Value: &pendingChange{sessionChange: c}},
				},
			)
		}
		if err := n.p.Streams.Append(t.Context(), entries...); err != nil {
			t.Fatal(err)
		}
		got := entries[1].Value.(*pendingChange).result
		if len(got.PendingCleanups) != 1 || got.Found || n.count(`SELECT COUNT(*) FROM user_devices`) != 0 {
			t.Errorf("expected the log-in to wait for what the removal leaves, found %+v", got)
		}
	})
}
