package accounts

import (
	"context"
	"testing"
	"time"

	"lyceum/platform/db"
)

// TestFirstTokenEndsWithAnAdministrator: the invitation of the first administrator is worth nothing from the
// moment at which there is one, however that came about.
func TestFirstTokenEndsWithAnAdministrator(t *testing.T) {
	const boss = "@boss:here.test"
	yes := true
	for name, appoint := range map[string]func(n *node) error{
		"made on the command line": func(n *node) error {
			_, err := n.CreateUser(context.Background(), NewUser{Name: "boss", Password: "correct horse", Admin: true})
			return err
		},
		"promoted": func(n *node) error {
			if _, err := n.CreateUser(context.Background(), NewUser{Name: "boss"}); err != nil {
				return err
			}
			return n.SetRights(context.Background(), boss, Rights{Admin: &yes})
		},
		"another token of an administrator": func(n *node) error {
			if _, err := n.CreateRegistrationToken(context.Background(), RegistrationToken{Token: "second", Admin: true}); err != nil {
				return err
			}
			n.register("boss", obj{"auth": obj{"type": "m.login.registration_token", "token": "second"}}).want(200)
			return nil
		},
		"before this version": func(n *node) error {
			_, err := n.db.Exec(context.Background(), `INSERT INTO users (user_id, admin, created_ms) VALUES ($1, TRUE, 1)`, boss)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			fleet(t, testConfig(), func(t *testing.T, one, two *node) {
				token, _, err := one.EnsureFirstToken(t.Context())
				if err != nil || token == "" {
					t.Fatalf("%q %v", token, err)
				}
				// Held by a registration that is under way.
				body := obj{"username": "slow", "password": "correct horse"}
				session := two.do("POST", client+"/register", "", body).want(401).text("session")
				i, err := loadInteraction(t.Context(), two.db, session, two.nowMs())
				if err != nil {
					t.Fatal(err)
				}
				if err := two.reserveToken(t.Context(), i, token); err != nil {
					t.Fatal(err)
				}
				i.passed = append(i.passed, stageToken)
				if err := two.saveInteraction(t.Context(), i); err != nil {
					t.Fatal(err)
				}
				if err := appoint(one); err != nil {
					t.Fatal(err)
				}
				body["auth"] = obj{"session": session}
				if x := two.do("POST", client+"/register", "", body); x.status != 401 {
					t.Errorf("a registration that held the token made an administrator: %d %s", x.status, x.raw)
				}
				if valid, err := two.TokenValid(t.Context(), token); err != nil || valid {
					t.Errorf("the token still counts: %v %v", valid, err)
				}
				x := two.register("late", obj{"auth": obj{"type": "m.login.registration_token", "token": token}})
				if x.status != 401 {
					t.Errorf("the token was taken: %d %s", x.status, x.raw)
				}
				if again, _, err := two.EnsureFirstToken(t.Context()); err != nil || again != "" {
					t.Errorf("the token is told: %q %v", again, err)
				}
			})
		})
	}
}

// TestFirstTokenRace: the token is asked for, or used, while the transaction that makes an administrator is
// under way in another process.
func TestFirstTokenRace(t *testing.T) {
	for _, name := range []string{"asked for", "used"} {
		t.Run(name, func(t *testing.T) {
			fleet(t, testConfig(), func(t *testing.T, one, two *node) {
				token := ""
				if name == "used" {
					var err error
					if token, _, err = one.EnsureFirstToken(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				done := make(chan struct{})
				var begun bool
				err := one.db.Tx(t.Context(), func(tx *db.Tx) error {
					if err := one.insertUser(t.Context(), tx, NewUser{Name: "@boss:here.test", Admin: true}, "", one.nowMs()); err != nil || begun {
						return err
					}
					begun = true
					go func() {
						defer close(done)
						if name == "used" {
							two.do("POST", client+"/register", "", obj{
								"username": "late", "password": "correct horse", "auth": obj{"type": "m.login.registration_token", "token": token},
							})
						} else {
							token, _, _ = two.EnsureFirstToken(context.Background())
						}
					}()
					time.Sleep(200 * time.Millisecond)
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				<-done
				if token != "" {
					if valid, err := two.TokenValid(t.Context(), token); err != nil || valid {
						t.Errorf("the token still counts: %v %v", valid, err)
					}
				}
				if n := two.count(`SELECT COUNT(*) FROM users WHERE user_id = '@late:here.test' AND admin`); n > 0 {
					t.Error("there are two first administrators")
				}
				if again, _, err := two.EnsureFirstToken(t.Context()); err != nil || again != "" {
					t.Errorf("the token is told: %q %v", again, err)
				}
			})
		})
	}
}
