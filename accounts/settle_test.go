package accounts

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"lyceum/platform/db"
	"lyceum/platform/db/dbfault"
	"lyceum/platform/engines/enginestest"
	"lyceum/platform/lease"
	"lyceum/platform/role/roletest"
)

// gated runs body with a process whose commits of tokens and users a test holds.
func gated(t *testing.T, body func(t *testing.T, n *node, gate *dbfault.Gate)) {
	t.Helper()
	open := func(t *testing.T, url string, o db.Options, gate *dbfault.Gate) {
		d, err := db.Open(t.Context(), url, o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = d.Close() })
		if err := db.Migrate(t.Context(), d, slog.New(slog.DiscardHandler), lease.Migrations(), Migrations()); err != nil {
			t.Fatal(err)
		}
		p := roletest.New(t, d)
		n := wire(t, p, Deps{}, testConfig())
		roletest.Start(t, p)
		t.Cleanup(gate.Open) // before the process stops, which waits for its commits
		gate.Also(regexp.MustCompile(`INSERT INTO (tokens|users)\b`))
		body(t, n, gate)
	}
	t.Run("sqlite", func(t *testing.T) {
		driver := dbfault.NewSQLite()
		t.Cleanup(driver.Close)
		open(t, "sqlite:"+filepath.Join(t.TempDir(), "test.db"), db.Options{Driver: driver.Driver()}, &driver.Gate)
	})
	t.Run("postgres", func(t *testing.T) {
		proxy, err := dbfault.NewProxy(enginestest.TestPostgres(t))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = proxy.Close() })
		open(t, proxy.URL(), db.Options{}, &proxy.Gate)
	})
}

// What a log-in, a registration or a refresh stored when its answer was lost is what its client gets.
func TestTokensWhoseCommitIsNotConfirmed(t *testing.T) {
	for _, fault := range []dbfault.Fault{dbfault.Before, dbfault.After, dbfault.Late, dbfault.LateEnd} {
		t.Run(fault.String(), func(t *testing.T) {
			gated(t, func(t *testing.T, n *node, gate *dbfault.Gate) {
				alice := n.register("alice", obj{"refresh_token": true}).want(200)
				if _, err := n.CreateRegistrationToken(t.Context(), RegistrationToken{Token: "once", UsesAllowed: 1}); err != nil {
					t.Fatal(err)
				}
				broken := func(request func() answer) answer {
					t.Helper()
					gate.Shut()
					got := make(chan answer, 1)
					go func() { got <- request() }()
					roletest.Until(t, "a commit comes", func() bool { return len(gate.Held()) > 0 })
					gate.Held()[0].Decide(fault)
					gate.Open()
					return (<-got).want(200)
				}
				devices := func(userID string) int {
					return n.count(`SELECT COUNT(*) FROM user_devices WHERE user_id = $1`, userID)
				}
				for _, step := range []struct {
					what           string
					request        func() answer
					devices, users int // afterwards, of the user and in all
				}{
					{"a log-in", func() answer { return n.login("alice", "correct horse") }, 2, 1},
					{"a log-in with a device id", func() answer { return n.login("alice", "correct horse", obj{"device_id": "PHONE"}) }, 3, 1},
					{"a registration without a name", func() answer { return n.register("") }, 1, 2},
					{"one with a token", func() answer {
						return n.register("bob", obj{"auth": obj{"type": "m.login.registration_token", "token": "once"}})
					}, 1, 3},
					{"one without a log-in", func() answer { return n.register("carol", obj{"inhibit_login": true}) }, 0, 4},
				} {
					x := broken(step.request)
					if got := devices(x.text("user_id")); got != step.devices {
						t.Errorf("%s: the user has %d devices, expected %d", step.what, got, step.devices)
					}
					if got := n.count(`SELECT COUNT(*) FROM users`); got != step.users {
						t.Errorf("%s: there are %d users, expected %d", step.what, got, step.users)
					}
					if step.devices > 0 {
						if who := n.whoamiWith(x.text("access_token")).want(200); who.text("device_id") != x.text("device_id") {
							t.Errorf("%s: the token is of the device %q, expected %q", step.what, who.text("device_id"), x.text("device_id"))
						}
					}
				}
				if got := n.count(`SELECT completed FROM registration_tokens WHERE token = 'once'`); got != 1 {
					t.Errorf("a registration used its token %d times", got)
				}
				fresh := broken(func() answer {
					return n.do("POST", client+"/refresh", "", obj{"refresh_token": alice.text("refresh_token")})
				})
				n.whoamiWith(fresh.text("access_token")).want(200)
			})
		})
	}
}

// A use of a token whose commit is not confirmed is given back, whether it was taken or not.
func TestAUseOfATokenWhoseCommitIsNotConfirmed(t *testing.T) {
	for _, fault := range []dbfault.Fault{dbfault.Before, dbfault.After, dbfault.Late, dbfault.LateEnd} {
		t.Run(fault.String(), func(t *testing.T) {
			gated(t, func(t *testing.T, n *node, gate *dbfault.Gate) {
				n.withToken("once", 1)
				gate.Also(regexp.MustCompile(`pending = pending \+ 1`))
				auth := obj{"auth": obj{"type": stageToken, "token": "once"}}
				roletest.Until(t, "nothing else is written", func() bool {
					_, before := gate.Traffic()
					time.Sleep(50 * time.Millisecond)
					_, after := gate.Traffic()
					return before == after
				})
				gate.Shut()
				got := make(chan answer, 1)
				go func() { got <- n.register("alice", auth) }()
				roletest.Until(t, "a commit comes", func() bool { return len(gate.Held()) > 0 })
				gate.Held()[0].Decide(fault)
				gate.Open()
				if x := <-got; x.status < 500 {
					t.Errorf("found %d %s", x.status, x.raw)
				}
				time.Sleep(2 * dbfault.LateAfter) // what is late arrives
				n.runOut()
				if pending, completed := n.uses("once"); pending != 0 || completed != 0 {
					t.Errorf("%d uses are held, %d completed", pending, completed)
				}
				n.register("alice", auth).want(200)
			})
		})
	}
}

// away is a listener whose database is away at first.
type away struct {
	left  int
	added []string
}

func (l *away) DeviceAdded(_ context.Context, _, id string) error {
	if l.left--; l.left >= 0 {
		return fmt.Errorf("read the keys: %w", io.ErrUnexpectedEOF)
	}
	l.added = append(l.added, id)
	return nil
}

func (*away) DevicesRemoved(context.Context, string, []string) error { return nil }

// The device of a log-in is there when others are to hear of it: the database is waited for.
func TestADeviceIsAnnouncedOnceTheDatabaseIsBack(t *testing.T) {
	l := &away{}
	runWith(t, Deps{Devices: []DeviceListener{l}}, testConfig(), func(t *testing.T, n *node) {
		n.register("alice").want(200)
		for _, more := range []obj{nil, {"device_id": "PHONE"}} {
			l.left, l.added = 3, nil
			x := n.login("alice", "correct horse", more).want(200)
			if len(l.added) != 1 || l.added[0] != x.text("device_id") {
				t.Errorf("the device %s was made, and others heard of %q", x.text("device_id"), l.added)
			}
		}
		if got := n.count(`SELECT COUNT(*) FROM user_devices`); got != 3 {
			t.Errorf("there are %d devices, expected 3", got)
		}
	})
}
