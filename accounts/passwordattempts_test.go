package accounts

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lyceum/matrix"
	"lyceum/platform/bus"
	"lyceum/platform/db"
	"lyceum/platform/db/dbtest"
	"lyceum/platform/lease"
	"lyceum/platform/role"
	"lyceum/platform/role/roletest"
	"lyceum/platform/web"
)

const guesses = 5

func guessConfig() Config {
	c := testConfig()
	const slow = 1.0 / 36000
	c.PasswordRates = PasswordRates{
		Account: web.RateLimit{PerSecond: slow, Burst: guesses},
		Address: web.RateLimit{PerSecond: slow, Burst: 20 * guesses},
	}
	return c
}

// guessing runs body with two processes that share their limits, as the processes of a fleet do.
func guessing(t *testing.T, body func(t *testing.T, nodes [2]*node)) {
	t.Helper()
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		limits := bus.NewLocalLimits()
		one, two, _ := roletest.Two(t, d, func(p *role.Process) *node { return wire(t, p, Deps{Limits: limits}, guessConfig()) })
		body(t, [2]*node{one, two})
	}, lease.Migrations(), Migrations())
}

// TestWrongPasswordsAreLimitedEverywhere tries passwords at each endpoint that takes one.
func TestWrongPasswordsAreLimitedEverywhere(t *testing.T) {
	guessing(t, func(t *testing.T, nodes [2]*node) {
		auth := func(name, password string) obj {
			return obj{"type": "m.login.password", "user": name, "password": password}
		}
		places := map[string]func(n *node, name, token, password string) answer{
			"login": func(n *node, name, _, password string) answer { return n.login(name, password) },
			"password": func(n *node, name, token, password string) answer {
				return n.do("POST", client+"/account/password", token, obj{"new_password": "battery staple", "auth": auth(name, password)})
			},
			"deactivate": func(n *node, name, token, password string) answer {
				return n.do("POST", client+"/account/deactivate", token, obj{"auth": auth(name, password)})
			},
			"fallback": func(n *node, name, token, password string) answer {
				session := n.do("POST", client+"/account/deactivate", token, obj{}).want(401).text("session")
				form := url.Values{"session": {session}, "password": {password}}
				status, text, _ := n.form(client+"/auth/m.login.password/fallback/web", form.Encode())
				return answer{t: n.t, status: status, raw: text}
			},
		}
		for place, try := range places {
			name := "u" + place
			token := nodes[0].register(name).want(200).text("access_token")
			for i := range guesses {
				if x := try(nodes[i%2], name, token, fmt.Sprint("wrong horse ", i)); x.status == 429 || x.status == 200 {
					t.Fatalf("%s: guess %d: %d %s", place, i+1, x.status, x.raw)
				}
			}
			for _, password := range []string{"wrong horse", "correct horse"} {
				for other, again := range places {
					x := again(nodes[1], name, token, password)
					if x.status != 429 {
						t.Errorf("after %d wrong passwords at %s, %q at %s: %d %s", guesses, place, password, other, x.status, x.raw)
					}
				}
			}
		}
		// The password of another is not tried with one's own token.
		nodes[0].register("victim").want(200)
		mine := nodes[0].register("thief").want(200).text("access_token")
		for range 2 * guesses {
			x := nodes[0].do("POST", client+"/account/deactivate", mine, obj{"auth": auth("victim", "correct horse")})
			x.want(403, "M_FORBIDDEN")
		}
		nodes[0].login("victim", "correct horse").want(200)
	})
}

func limited(err error) bool {
	var e *matrix.Error
	return errors.As(err, &e) && e.Status == 429
}

func address(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}) }

// TestTheOwnerIsNotLockedOut: who knows the password gets in while others guess.
func TestTheOwnerIsNotLockedOut(t *testing.T) {
	guessing(t, func(t *testing.T, nodes [2]*node) {
		n, ctx := nodes[0], t.Context()
		if _, err := n.CreateUser(ctx, NewUser{Name: "alice", Password: "correct horse"}); err != nil {
			t.Fatal(err)
		}
		check := func(from int, password string) error {
			_, err := n.checkPassword(ctx, "alice", password, address(from))
			return err
		}
		const home = 60_000
		u, err := n.checkPassword(ctx, "alice", "correct horse", address(home))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.Accounts.login(ctx, u, loginDevice{ID: "HOME", From: address(home)}); err != nil {
			t.Fatal(err)
		}
		// One address guesses: the owner gets in from everywhere else.
		for range 10 * guesses {
			if err := check(1, "wrong horse"); err == nil {
				t.Fatal("a wrong password was taken")
			}
		}
		if err := check(2, "correct horse"); err != nil {
			t.Errorf("one address shut the owner out of another: %v", err)
		}
		// Many addresses guess: together they have a bound, and home stays open.
		wrong := 0
		for i := range 200 {
			if err := check(1000+300*i, "wrong horse"); !limited(err) {
				wrong++
			}
		}
		if wrong > anywhereFactor*guesses {
			t.Errorf("%d wrong passwords were tried from many addresses", wrong)
		}
		if err := check(3, "correct horse"); !limited(err) {
			t.Errorf("an unknown address was not limited: %v", err)
		}
		for range 3 {
			if err := check(home, "correct horse"); err != nil {
				t.Errorf("the owner was shut out at home: %v", err)
			}
		}
		// A stolen token does not make an address known: the tokens' use is seen, the place of the log-in stays.
		if _, err := n.db.Exec(ctx, `UPDATE user_devices SET seen_ip = $1`, address(4).String()); err != nil {
			t.Fatal(err)
		}
		if err := check(4, "wrong horse"); !limited(err) {
			t.Errorf("a token opened an address: %v", err)
		}
		// A right password begins the count anew; at home nothing but wrong ones is limited too.
		for range 4 {
			for range guesses - 1 {
				if err := check(home, "wrong horse"); !errors.Is(err, ErrWrongPassword) {
					t.Fatal(err)
				}
			}
			if err := check(home, "correct horse"); err != nil {
				t.Fatal(err)
			}
		}
		for i := range guesses + 1 {
			if err := check(home, "wrong horse"); limited(err) != (i == guesses) {
				t.Errorf("guess %d at home: %v", i+1, err)
			}
		}
	})
}

// TestANetworkLocksNobodyOut: many addresses of one network do not use up what all have together.
func TestANetworkLocksNobodyOut(t *testing.T) {
	guessing(t, func(t *testing.T, nodes [2]*node) {
		n, ctx := nodes[0], t.Context()
		if _, err := n.CreateUser(ctx, NewUser{Name: "alice", Password: "correct horse"}); err != nil {
			t.Fatal(err)
		}
		for _, pattern := range []string{"10.2.3.%d", "2001:db8:7:%x::1"} {
			wrong := 0
			for i := range 200 {
				if _, err := n.checkPassword(ctx, "alice", "wrong horse", netip.MustParseAddr(fmt.Sprintf(pattern, i))); !limited(err) {
					wrong++
				}
			}
			if wrong > networkFactor*guesses {
				t.Errorf("%s: %d wrong passwords were tried from one network", pattern, wrong)
			}
			if pattern != "10.2.3.%d" {
				continue
			}
			if _, err := n.checkPassword(ctx, "alice", "correct horse", address(5)); err != nil {
				t.Errorf("%s: one network shut the owner out of another: %v", pattern, err)
			}
		}
	})
}

// TestAddressOfARemovedDeviceStaysKnown: where the owner logged in is remembered when the device is gone, as whoever stole a token can end
// it.
func TestAddressOfARemovedDeviceStaysKnown(t *testing.T) {
	guessing(t, func(t *testing.T, nodes [2]*node) {
		n, ctx := nodes[0], t.Context()
		if _, err := n.CreateUser(ctx, NewUser{Name: "alice", Password: "correct horse"}); err != nil {
			t.Fatal(err)
		}
		const id = "@alice:here.test"
		loginAt := func(from netip.Addr) {
			t.Helper()
			u, err := n.checkPassword(ctx, "alice", "correct horse", from)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := n.Accounts.login(ctx, u, loginDevice{From: from}); err != nil {
				t.Fatal(err)
			}
			if err := n.Logout(ctx, id, ""); err != nil {
				t.Fatal(err)
			}
			n.clock.forward(time.Second)
		}
		known := func() int {
			var count int
			if err := n.db.QueryRow(ctx, `SELECT COUNT(*) FROM login_addresses WHERE user_id = $1`, id).Scan(&count); err != nil {
				t.Fatal(err)
			}
			return count
		}
		for i := range 5 {
			loginAt(address(20_000 + i))
		}
		home := address(60_000)
		loginAt(home)
		for i := range 200 { // use up the attempts of unknown addresses
			_, _ = n.checkPassword(ctx, "alice", "wrong horse", address(1000+300*i))
		}
		if _, err := n.checkPassword(ctx, "alice", "correct horse", address(7)); !limited(err) {
			t.Fatalf("an unknown address was not limited: %v", err)
		}
		loginAt(home)
		for i := range maxLoginAddresses + 5 { // only the last ones are kept
			_, err := n.db.Exec(ctx, `INSERT INTO login_addresses (user_id, address, used_ms) VALUES ($1, $2, $3)`, id, fmt.Sprint("old", i), i)
			if err != nil {
				t.Fatal(err)
			}
		}
		loginAt(home)
		if got := known(); got != maxLoginAddresses {
			t.Errorf("%d addresses are remembered", got)
		}
		if _, err := n.checkPassword(ctx, "alice", "correct horse", home); err != nil {
			t.Errorf("the newest address was forgotten: %v", err)
		}
		if err := n.Deactivate(ctx, id, false); err != nil {
			t.Fatal(err)
		}
		if got := known(); got != 0 {
			t.Errorf("%d addresses of a deactivated user are remembered", got)
		}
	})
}

// TestPasswordAttemptsAtOnce: many at the same time are no more than many one after another, a user who does not exist
// is not told by the limit, and one address can not go through all accounts.
func TestPasswordAttemptsAtOnce(t *testing.T) {
	guessing(t, func(t *testing.T, nodes [2]*node) {
		if _, err := nodes[0].CreateUser(t.Context(), NewUser{Name: "alice", Password: "correct horse"}); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"alice", "nobody"} {
			var checked atomic.Int32
			var wg sync.WaitGroup
			for i := range 40 {
				wg.Go(func() {
					if _, err := nodes[i%2].checkPassword(context.Background(), name, "wrong horse", address(7)); errors.Is(err, ErrWrongPassword) {
						checked.Add(1)
					} else if !limited(err) {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if got := checked.Load(); got != guesses {
				t.Errorf("%s: %d passwords were checked at once", name, got)
			}
		}
		wrong := 0
		for i := range 300 {
			if _, err := nodes[0].checkPassword(t.Context(), fmt.Sprint("user", i), "wrong horse", address(8)); !limited(err) {
				wrong++
			}
		}
		if wrong != 20*guesses {
			t.Errorf("one address tried %d accounts", wrong)
		}
	})
}
