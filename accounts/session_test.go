package accounts

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"lyceum/matrix"
	"lyceum/platform/db"
	"lyceum/platform/db/dbtest"
	"lyceum/platform/lease"
	"lyceum/platform/role/roletest"
	"lyceum/platform/web"
)

func TestRegisterAndLogin(t *testing.T) {
	run(t, testConfig(), func(t *testing.T, n *node) {
		x := n.do("POST", client+"/register", "", obj{}).want(401)
		if x.text("session") == "" || x.body["flows"] == nil || x.body["params"] == nil || x.text("errcode") != "" {
			t.Fatalf("no challenge: %s", x.raw)
		}
		reg := n.register("Alice", obj{"device_id": "PHONE"}).want(200)
		if reg.text("user_id") != "@alice:here.test" || reg.text("device_id") != "PHONE" || reg.body["refresh_token"] != nil {
			t.Fatalf("found %s", reg.raw)
		}
		n.whoamiWith(reg.text("access_token")).want(200)
		n.register("alice").want(400, "M_USER_IN_USE")
		n.register("al!ce").want(400, "M_INVALID_USERNAME")
		n.register("bob", obj{"password": "short"}).want(400, "M_WEAK_PASSWORD")
		n.do("POST", client+"/register?kind=guest", "", obj{}).want(403, "M_GUEST_ACCESS_FORBIDDEN")
		n.do("POST", client+"/register", "", obj{"username": "alice"}).want(400, "M_USER_IN_USE")
		n.do("GET", client+"/register/available?username=bob", "", nil).want(200)
		n.do("GET", client+"/register/available?username=alice", "", nil).want(400, "M_USER_IN_USE")
		n.do("GET", client+"/register/available?username=a%20b", "", nil).want(400, "M_INVALID_USERNAME")
		quiet := n.register("quiet", obj{"inhibit_login": true}).want(200)
		if quiet.text("access_token") != "" || quiet.text("device_id") != "" {
			t.Fatalf("logged in though inhibited: %s", quiet.raw)
		}
		if x := n.do("POST", client+"/register", "", obj{"password": "correct horse", "auth": obj{"type": "m.login.dummy"}}).want(200); x.text(
			"user_id",
		) == "" {
			t.Fatal("no name was made up")
		}

		if x := n.do("GET", client+"/login", "", nil).want(200); !strings.Contains(x.raw, "m.login.password") {
			t.Fatalf("found %s", x.raw)
		}
		for _, name := range []string{"alice", "ALICE", "@alice:here.test"} {
			x := n.login(name, "correct horse").want(200)
			if x.text("user_id") != "@alice:here.test" || n.whoamiWith(x.text("access_token")).text("device_id") != x.text("device_id") {
				t.Fatalf("found %s", x.raw)
			}
		}
		n.do("POST", client+"/login", "", obj{"type": "m.login.password", "user": "alice", "password": "correct horse"}).want(200)
		n.login("alice", "wrong horse").want(403, "M_FORBIDDEN")
		n.login("nobody", "correct horse").want(403, "M_FORBIDDEN")
		n.login("@alice:there.test", "correct horse").want(403, "M_FORBIDDEN")
		n.login("alice", strings.Repeat("x", 2000)).want(403, "M_FORBIDDEN")
		n.do("POST", client+"/login", "", obj{"type": "m.login.magic"}).want(400, "M_UNKNOWN")
		n.do("POST", client+"/login", "", "{").want(400, "M_NOT_JSON")
		n.login("quiet", "correct horse", obj{"device_id": "a\x00b"}).want(400, "M_INVALID_PARAM")
		n.login("ali\x00ce", "correct horse").want(403)

		// A login with a known device id ends that device's older token.
		again := n.login("alice", "correct horse", obj{"device_id": "PHONE", "initial_device_display_name": "late"}).want(200)
		n.whoamiWith(reg.text("access_token")).want(401, "M_UNKNOWN_TOKEN")
		n.whoamiWith(again.text("access_token")).want(200)
	})
}

func TestTokensThatDoNotHold(t *testing.T) {
	run(t, testConfig(), func(t *testing.T, n *node) {
		token := n.register("alice").want(200).text("access_token")
		last := token[len(token)-1]
		other := byte('A')
		if last == 'A' {
			other = 'B'
		}
		for _, bad := range []string{
			"x", "lyt_", token + "x", token[:len(token)-1], token[:len(token)-1] + string(other),
			strings.Replace(token, "lyt_", "lyr_", 1), strings.ToUpper(token), "lyt_" + strings.Repeat("A", 43) + "_AAAAAAAA",
		} {
			n.whoamiWith(bad).want(401, "M_UNKNOWN_TOKEN")
		}
		n.do("GET", client+"/account/whoami", "", nil).want(401, "M_MISSING_TOKEN")
		n.do("POST", client+"/logout", "", nil).want(401, "M_MISSING_TOKEN")
		n.do("POST", client+"/logout", "nonsense", nil).want(401, "M_UNKNOWN_TOKEN")

		second := n.login("alice", "correct horse").want(200).text("access_token")
		n.do("POST", client+"/logout", token, nil).want(200)
		n.whoamiWith(token).want(401, "M_UNKNOWN_TOKEN")
		n.whoamiWith(second).want(200)
		third := n.login("alice", "correct horse").want(200).text("access_token")
		n.do("POST", client+"/logout/all", second, obj{}).want(200)
		n.whoamiWith(second).want(401)
		n.whoamiWith(third).want(401)
	})
}

func TestSteadyStateNeedsNoDatabase(t *testing.T) {
	var statements int
	var mu sync.Mutex
	d, err := db.Open(context.Background(), "sqlite:"+t.TempDir()+"/test.db", db.Options{Observe: func(n int) {
		mu.Lock()
		defer mu.Unlock()
		statements += n
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	p := roletest.New(t, migrated(t, d))
	n := wire(t, p, Deps{}, testConfig())
	// The process does not run, so nothing but the test makes statements.
	ctx := context.Background()
	userID, err := n.CreateUser(ctx, NewUser{Name: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	token, _, err := n.IssueToken(ctx, userID, "tool")
	if err != nil {
		t.Fatal(err)
	}
	read := func() {
		t.Helper()
		if _, err := n.Authenticate(ctx, token); err != nil {
			t.Fatal(err)
		}
		if _, err := n.AccountDataSince(ctx, userID, 5, 9); err != nil {
			t.Fatal(err)
		}
		if _, err := n.Ignored(ctx, userID); err != nil {
			t.Fatal(err)
		}
	}
	read()
	mu.Lock()
	before := statements
	mu.Unlock()
	for range 10 {
		read()
		if _, err := n.Authenticate(ctx, token[:len(token)-2]+"zz"); !matrix.HasCode(err, "M_UNKNOWN_TOKEN") {
			t.Fatalf("found %v", err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if statements != before {
		t.Fatalf("the steady state made %d statements", statements-before)
	}
}

func migrated(t *testing.T, d *db.DB) *db.DB {
	t.Helper()
	if err := db.Migrate(context.Background(), d, quietLog, lease.Migrations(), Migrations()); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestRefresh(t *testing.T) {
	run(t, testConfig(), func(t *testing.T, n *node) {
		refresh := func(token string) answer {
			return n.do("POST", client+"/refresh", "", obj{"refresh_token": token})
		}
		one := n.register("alice", obj{"refresh_token": true}).want(200)
		if one.body["expires_in_ms"] != float64(time.Hour.Milliseconds()) {
			t.Fatalf("found %s", one.raw)
		}
		n.whoamiWith(one.text("access_token")).want(200)
		two := refresh(one.text("refresh_token")).want(200)
		if two.text("user_id") != "" || two.text("refresh_token") == "" {
			t.Fatalf("found %s", two.raw)
		}
		// Until a new token is used the old ones hold, and asking again replaces the new ones.
		n.whoamiWith(one.text("access_token")).want(200)
		three := refresh(one.text("refresh_token")).want(200)
		n.whoamiWith(two.text("access_token")).want(401, "M_UNKNOWN_TOKEN")
		refresh(two.text("refresh_token")).want(401, "M_UNKNOWN_TOKEN")
		n.whoamiWith(three.text("access_token")).want(200)
		n.whoamiWith(one.text("access_token")).want(401, "M_UNKNOWN_TOKEN")
		refresh(one.text("refresh_token")).want(401, "M_UNKNOWN_TOKEN")
		// The refresh token counts as use too.
		four := refresh(three.text("refresh_token")).want(200)
		five := refresh(four.text("refresh_token")).want(200)
		n.whoamiWith(three.text("access_token")).want(401)
		refresh(three.text("refresh_token")).want(401)
		n.whoamiWith(five.text("access_token")).want(200)
		// An access token that ran out is a soft logout, and the refresh token still works.
		n.clock.forward(61 * time.Minute)
		if x := n.whoamiWith(five.text("access_token")).want(401, "M_UNKNOWN_TOKEN"); x.body["soft_logout"] != true {
			t.Fatalf("no soft logout: %s", x.raw)
		}
		six := refresh(five.text("refresh_token")).want(200)
		n.whoamiWith(six.text("access_token")).want(200)
		n.do("POST", client+"/logout", six.text("access_token"), nil).want(200)
		refresh(six.text("refresh_token")).want(401, "M_UNKNOWN_TOKEN")
		refresh("lyr_nonsense").want(401, "M_UNKNOWN_TOKEN")
		refresh("").want(400, "M_MISSING_PARAM")
	})
}

func TestTokenLeftBehindByALogout(t *testing.T) {
	run(t, testConfig(), func(t *testing.T, n *node) {
		x := n.register("alice", obj{"refresh_token": true}).want(200)
		p, creds, err := n.newTokenPair(t.Context(), "@alice:here.test", x.text("device_id"), true)
		if err != nil {
			t.Fatal(err)
		}
		n.do("POST", client+"/logout", x.text("access_token"), nil).want(200)
		// The pair of a refresh whose transaction the logout did not see.
		if err := n.db.Tx(t.Context(), func(tx *db.Tx) error { return insertTokenPair(t.Context(), tx, p) }); err != nil {
			t.Fatal(err)
		}
		n.whoamiWith(creds.AccessToken).want(401, "M_UNKNOWN_TOKEN")
		n.do("POST", client+"/refresh", "", obj{"refresh_token": creds.RefreshToken}).want(401, "M_UNKNOWN_TOKEN")
		// Nor does it come to life when the device does.
		n.login("alice", "correct horse", obj{"device_id": x.text("device_id")}).want(200)
		n.whoamiWith(creds.AccessToken).want(401, "M_UNKNOWN_TOKEN")
		if _, _, err := n.IssueToken(t.Context(), "@nobody:here.test", "tool"); !errors.Is(err, errNoUser) {
			t.Fatalf("found %v", err)
		}
	})
}

type removals struct {
	mu  sync.Mutex
	ids []string
}

func (r *removals) DeviceAdded(context.Context, string, string) error { return nil }

func (r *removals) DevicesRemoved(_ context.Context, userID string, ids []string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range ids {
		r.ids = append(r.ids, userID+" "+id)
	}
	return nil
}

type listenedDeactivations struct {
	mu    sync.Mutex
	fails int
	heard int
}

func (g *listenedDeactivations) UserDeactivated(context.Context, string, bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.heard++; g.heard <= g.fails {
		return fmt.Errorf("the rooms are busy")
	}
	return nil
}

func TestPasswordChangeAndDeactivation(t *testing.T) {
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		removed, listener := &removals{}, &listenedDeactivations{fails: 1}
		p := roletest.New(t, d)
		n := wire(t, p, Deps{Devices: []DeviceListener{removed}, Users: []UserListener{listener}}, testConfig())
		roletest.Start(t, p)
		here := n.register("alice", obj{"device_id": "HERE"}).want(200).text("access_token")
		other := n.login("alice", "correct horse", obj{"device_id": "OTHER"}).want(200).text("access_token")
		bob := n.register("bob").want(200).text("access_token")

		change := func(token, password string, auth any, more ...obj) answer {
			body := obj{"new_password": password}
			if auth != nil {
				body["auth"] = auth
			}
			for _, m := range more {
				for k, v := range m {
					body[k] = v
				}
			}
			return n.do("POST", client+"/account/password", token, body)
		}
		x := change(here, "battery staple", nil, obj{"logout_devices": false}).want(401)
		if !strings.Contains(x.raw, "m.login.password") {
			t.Fatalf("found %s", x.raw)
		}
		session := x.text("session")
		proof := func(user, password string) obj {
			return obj{"type": "m.login.password", "session": session, "identifier": obj{"type": "m.id.user", "user": user}, "password": password}
		}
		change(here, "battery staple", proof("alice", "wrong"), obj{"logout_devices": false}).want(401, "M_FORBIDDEN")
		change(here, "battery staple", proof("bob", "correct horse"), obj{"logout_devices": false}).want(403, "M_FORBIDDEN")
		change(bob, "battery staple", proof("bob", "correct horse")).want(401) // a session of another user
		n.do("POST", client+"/account/deactivate", here, obj{"auth": obj{"session": session}}).want(401)
		change(here, "tiny", proof("alice", "correct horse")).want(400, "M_WEAK_PASSWORD")
		change(here, "battery staple", proof("alice", "correct horse"), obj{"logout_devices": false}).want(200)
		n.whoamiWith(other).want(200)
		n.login("alice", "correct horse").want(403, "M_FORBIDDEN")
		change(here, "another staple", obj{"type": "m.login.password", "user": "alice", "password": "battery staple"}).want(200)
		n.whoamiWith(other).want(401, "M_UNKNOWN_TOKEN")
		n.whoamiWith(here).want(200)
		n.login("alice", "another staple").want(200)
		if len(removed.ids) != 1 || removed.ids[0] != "@alice:here.test OTHER" {
			t.Fatalf("the listeners heard %v", removed.ids)
		}

		n.do("PUT", client+"/user/@alice:here.test/account_data/org.x.y", here, obj{"secret": 1}).want(200)
		n.do("PUT", client+"/profile/@alice:here.test/displayname", here, obj{"displayname": "Al"}).want(200)
		n.do("POST", client+"/account/deactivate", here, obj{}).want(401)
		n.do("POST", client+"/account/deactivate", here, obj{"erase": true, "auth": obj{
			"type": "m.login.password", "user": "alice",
			"password": "another staple",
		}}).
			want(200)
		n.whoamiWith(here).want(401, "M_UNKNOWN_TOKEN")
		n.login("alice", "another staple").want(403)
		n.register("alice").want(400, "M_USER_IN_USE")
		n.do("GET", client+"/login", "", nil).want(200)
		// The listener failed at first; the housekeeping calls it again.
		job, _ := roletest.Job(t, n.p)
		if err := n.finishDeactivations(t.Context(), job); err != nil {
			t.Fatal(err)
		}
		listener.mu.Lock()
		if listener.heard < 2 {
			t.Fatalf("the listener was called %d times", listener.heard)
		}
		listener.mu.Unlock()
		n.do("GET", client+"/profile/@alice:here.test", "", nil).want(404, "M_NOT_FOUND")
		if c, err := n.AccountData(t.Context(), "@alice:here.test", "", "org.x.y"); err != nil || c != nil {
			t.Fatalf("account data was not erased: %s %v", c, err)
		}
		if devices, err := n.Devices(t.Context(), "@alice:here.test"); err != nil || len(devices) != 0 {
			t.Fatalf("devices are left: %v %v", devices, err)
		}
	}, lease.Migrations(), Migrations())
}

// failingForSome fails for users whose name begins with a.
type failingForSome struct{}

func (failingForSome) UserDeactivated(_ context.Context, userID string, _ bool) error {
	if strings.HasPrefix(userID, "@a") {
		return errors.New("this one fails each time")
	}
	return nil
}

// TestDeactivationsThatFailKeepNoOthersWaiting: however many there are.
func TestDeactivationsThatFailKeepNoOthersWaiting(t *testing.T) {
	runWith(t, Deps{Users: []UserListener{failingForSome{}}}, testConfig(), func(t *testing.T, n *node) {
		users := [][]any{{"@zoe:here.test", "", 1, 1, true}}
		for i := range 2 * deactivationsAtOnce {
			users = append(users, []any{fmt.Sprintf("@a%03d:here.test", i), "", 1, 1, true})
		}
		if err := n.db.Bulk(t.Context(), `INSERT INTO users (user_id, password, created_ms, deactivated_ms, `+cleanupColumn+`)
			VALUES ?`, users); err != nil {
			t.Fatal(err)
		}
		job, _ := roletest.Job(t, n.p)
		if err := n.finishDeactivations(t.Context(), job); err != nil {
			t.Fatal(err)
		}
		if left := n.count(`SELECT COUNT(*) FROM users WHERE ` + cleanupColumn); left != len(users)-1 ||
			n.count(`SELECT COUNT(*) FROM users WHERE `+cleanupColumn+` AND user_id = '@zoe:here.test'`) != 0 {
			t.Errorf("%d deactivations are open, expected all but that of zoe", left)
		}
	})
}

func TestImportedPasswordIsRenewed(t *testing.T) {
	run(t, testConfig(), func(t *testing.T, n *node) {
		old, err := bcrypt.GenerateFromPassword([]byte("correct horse"), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		userID, err := n.CreateUser(t.Context(), NewUser{Name: "old"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.db.Exec(t.Context(), `UPDATE users SET password = $2 WHERE user_id = $1`, userID, string(old)); err != nil {
			t.Fatal(err)
		}
		n.login("old", "wrong horse").want(403)
		n.login("old", "correct horse").want(200)
		u, err := loadUser(t.Context(), n.db, userID)
		if err != nil || !strings.HasPrefix(u.password, "$argon2id$") {
			t.Fatalf("found %q %v", u.password, err)
		}
		n.login("old", "correct horse").want(200)
	})
}

func TestSameNameOnce(t *testing.T) {
	fleet(t, testConfig(), func(t *testing.T, one, two *node) {
		var wg sync.WaitGroup
		results := make([]answer, 12)
		for i := range results {
			wg.Go(func() { results[i] = []*node{one, two}[i%2].register("contested", obj{"inhibit_login": i%3 == 0}) })
		}
		wg.Wait()
		won := 0
		for _, x := range results {
			if x.status == 200 {
				won++
			} else {
				x.want(400, "M_USER_IN_USE")
			}
		}
		if won != 1 {
			t.Fatalf("%d registrations of one name succeeded", won)
		}
	})
}

func TestRevokedTokenAtAnotherProcess(t *testing.T) {
	fleet(t, testConfig(), func(t *testing.T, one, two *node) {
		for i := range 6 { // users of shards of either process
			name := fmt.Sprintf("user%d", i)
			token := one.register(name).want(200).text("access_token")
			two.whoamiWith(token).want(200)
			two.whoamiWith(token).want(200)
			one.do("POST", client+"/logout", token, nil).want(200)
			two.whoamiWith(token).want(401, "M_UNKNOWN_TOKEN")

			token = two.login(name, "correct horse").want(200).text("access_token")
			userID := "@" + name + ":here.test"
			if x := one.do("GET", client+"/capabilities", token, nil).want(200); strings.Contains(x.raw, "account_moderation") {
				t.Fatal("an ordinary user may moderate")
			}
			if err := two.makeAdmin(userID); err != nil {
				t.Fatal(err)
			}
			if x := one.do("GET", client+"/capabilities", token, nil).want(200); !strings.Contains(x.raw, "account_moderation") {
				t.Fatal("the change of rights did not arrive")
			}
			locked := true
			if err := one.SetRights(t.Context(), userID, Rights{Locked: &locked}); err != nil {
				t.Fatal(err)
			}
			if x := two.whoamiWith(token).want(401, "M_USER_LOCKED"); x.body["soft_logout"] != true {
				t.Fatalf("found %s", x.raw)
			}
			two.do("POST", client+"/logout", token, nil).want(200)
		}
	})
}

func TestLastSeen(t *testing.T) {
	run(t, testConfig(), func(t *testing.T, n *node) {
		reg := n.register("alice").want(200)
		id, err := n.Authenticate(t.Context(), reg.text("access_token"))
		if err != nil {
			t.Fatal(err)
		}
		n.clock.forward(time.Hour)
		n.deviceUses.byDevice[deviceKey{id.UserID, id.DeviceID}] = deviceUse{netip.MustParseAddr("192.0.2.7"), "phone/2", n.nowMs()}
		n.deviceUses.byDevice[deviceKey{id.UserID, "GONE"}] = deviceUse{netip.MustParseAddr("192.0.2.8"), "gone", n.nowMs()}
		if err := n.flushDeviceUses(t.Context()); err != nil {
			t.Fatal(err)
		}
		devices, err := n.Devices(t.Context(), id.UserID)
		if err != nil || len(devices) != 1 {
			t.Fatalf("found %v %v", devices, err)
		}
		if d := devices[0]; d.SeenIP != "192.0.2.7" || d.UserAgent != "phone/2" || d.SeenAt <= d.Created {
			t.Fatalf("found %+v", d)
		}
		x := n.do("GET", client+"/admin/whois/@alice:here.test", reg.text("access_token"), nil).want(200)
		if !strings.Contains(x.raw, "192.0.2.7") {
			t.Fatalf("found %s", x.raw)
		}
		n.do("GET", client+"/admin/whois/@bob:here.test", reg.text("access_token"), nil).want(403, "M_FORBIDDEN")
	})
}

var _ web.Authenticator = (*Accounts)(nil)
