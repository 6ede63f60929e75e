package fleettest_test

import (
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"lyceum/fleettest"
)

const (
	v3       = "/_matrix/client/v3"
	password = "waiting-password" // what Register gives one who waits
)

// tokenEnds are the ways in which a user's token ends.
var tokenEnds = map[string]func(u *fleettest.User, auth map[string]any){
	"logout":     func(u *fleettest.User, _ map[string]any) { u.Do("POST", v3+"/logout", struct{}{}) },
	"logout all": func(u *fleettest.User, _ map[string]any) { u.Do("POST", v3+"/logout/all", struct{}{}) },
	"password": func(u *fleettest.User, auth map[string]any) {
		u.Login(password).Do("POST", v3+"/account/password", map[string]any{"auth": auth, "new_password": "another-password"})
	},
	"deletion": func(u *fleettest.User, auth map[string]any) {
		u.Login(password).Do("DELETE", v3+"/devices/"+url.PathEscape(u.Device), map[string]any{"auth": auth})
	},
	"deactivation": func(u *fleettest.User, auth map[string]any) {
		u.Do("POST", v3+"/account/deactivate", map[string]any{"auth": auth})
	},
}

// withPassword is how a user confirms what ends a token.
func withPassword(u *fleettest.User) map[string]any {
	return map[string]any{"type": "m.login.password", "password": password, "identifier": map[string]any{"type": "m.id.user", "user": u.ID}}
}

// TestHeldBackBodiesEndWithTheirToken: a request that came before its token ended, but for a piece of its body, does nothing.
func TestHeldBackBodiesEndWithTheirToken(t *testing.T) {
	fleettest.Run(t, func(t *testing.T, f *fleettest.Fleet) {
		for name, end := range tokenEnds {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				alice, bob := f.Register(t, "waiting").Everywhere(), f.Register(t, "bob").Everywhere()
				room := bob.Room(alice)
				body, rest := io.Pipe()
				got := make(chan int, 1)
				go func() {
					status, _, err := alice.Try("PUT", fleettest.RoomPath(room, "send", "m.room.message", "held"), body)
					if err != nil {
						t.Error(err)
					}
					got <- status
				}()
				_, _ = io.WriteString(rest, `{"msgtype": "m.text", `) // an error here, and below, is one of the request
				time.Sleep(50 * time.Millisecond)                     // it waits
				end(alice, withPassword(alice))
				_, _ = io.WriteString(rest, `"body": "held back"}`)
				_ = rest.Close()
				if status := <-got; status != 401 {
					t.Errorf("expected 401, found %d", status)
				}
				if all := bob.Do("GET", fleettest.RoomPath(room, "messages")+"?dir=b", nil).Raw; strings.Contains(all, "held back") {
					t.Error("it is stored")
				}
			})
		}
	})
}

// TestNothingComesAfterTheEndOfAToken: what a token let in is done, and can be seen, when its end is told.
func TestNothingComesAfterTheEndOfAToken(t *testing.T) {
	ends := maps.Clone(tokenEnds)
	ends["log-in"] = func(u *fleettest.User, auth map[string]any) {
		u.Do(
			"POST",
			v3+"/login",
			map[string]any{"type": auth["type"], "identifier": auth["identifier"], "password": password, "device_id": u.Device},
		)
	}
	fleettest.Run(t, func(t *testing.T, f *fleettest.Fleet) {
		for name, end := range ends {
			t.Run(name, func(t *testing.T) {
				alice, bob := f.Register(t, "waiting").Everywhere(), f.Register(t, "bob").Everywhere()
				room := bob.Room(alice)
				var writers sync.WaitGroup
				var sent atomic.Int32
				for n := range 16 {
					writers.Go(func() {
						for i := 0; ; i++ {
							status, _, err := alice.Try(
								"PUT",
								fleettest.RoomPath(room, "send", "m.room.message", fmt.Sprint(n, "-", i)),
								map[string]string{"msgtype": "m.text", "body": "x"},
							)
							if err != nil || status != 200 {
								return
							}
							sent.Add(1)
						}
					})
				}
				for began := time.Now(); sent.Load() < 50; time.Sleep(5 * time.Millisecond) { // they are all at it
					if time.Since(began) > time.Minute {
						t.Fatalf("%d messages were sent in a minute", sent.Load())
					}
				}
				end(alice, withPassword(alice))
				seen := bob.Do("GET", fleettest.RoomPath(room, "messages")+"?dir=b&limit=1", nil).Get("chunk.0.event_id").String()
				writers.Wait()
				last := bob.Do("GET", fleettest.RoomPath(room, "messages")+`?dir=b&limit=1&filter={"types":["m.room.message"]}`, nil).
					Get("chunk.0.event_id").String()
				before := bob.Do("GET", fleettest.RoomPath(room, "messages")+"?dir=b&limit=1000", nil).Get("chunk.#.event_id").Array()
				if i, j := position(before, seen), position(before, last); i < 0 || j < i {
					t.Errorf("%d events came after the end was told", i-j)
				}
			})
		}
	})
}

// position is the place of a text in a list; -1: none.
func position(list []gjson.Result, text string) int {
	return slices.IndexFunc(list, func(r gjson.Result) bool { return r.String() == text })
}

// TestWaitingDownloadsEndWithTheirToken: whatever ends a token in one process ends its downloads that wait in another, also when
// the file comes at the same moment.
func TestWaitingDownloadsEndWithTheirToken(t *testing.T) {
	fleettest.Run(t, func(t *testing.T, f *fleettest.Fleet) {
		for name, end := range tokenEnds {
			for _, comes := range []bool{true, false} {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					alice, bob := f.Register(t, "waiting").Everywhere(), f.Register(t, "bob").Everywhere()
					id := strings.TrimPrefix(bob.Do("POST", "/_matrix/media/v1/create", struct{}{}).Get("content_uri").String(), "mxc://")
					type answer struct {
						status int
						body   gjson.Result
					}
					got := make(chan answer, 1)
					go func() {
						status, body, err := alice.Try("GET", "/_matrix/client/v1/media/download/"+id+"?timeout_ms=20000", nil)
						if err != nil {
							t.Error(err)
						}
						got <- answer{status, body}
					}()
					time.Sleep(300 * time.Millisecond) // it waits
					end(alice, withPassword(alice))
					ended := time.Now()
					if comes {
						bob.Do("PUT", "/_matrix/media/v3/upload/"+id, []byte("file"))
					}
					if a := <-got; a.status != 401 || time.Since(ended) > 10*time.Second {
						t.Errorf("expected 401 soon, found %d %s after %s", a.status, a.body.Raw, time.Since(ended))
					}
				})
			}
		}
	})
}
