package fleettest_test

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"lyceum/fleettest"
)

// TestWaitingDownloadsEndWithTheirToken: whatever ends a token in one process ends its downloads that wait in another, also when
// the file comes at the same moment.
func TestWaitingDownloadsEndWithTheirToken(t *testing.T) {
	const v3 = "/_matrix/client/v3"
	fleettest.Run(t, func(t *testing.T, f *fleettest.Fleet) {
		for name, end := range map[string]func(u *fleettest.User, auth map[string]any){
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
		} {
			for _, comes := range []bool{true, false} {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					alice, bob := f.Register(t, "waiting").Everywhere(), f.Register(t, "bob").Everywhere()
					auth := map[string]any{"type": "m.login.password", "password": password, "identifier": map[string]any{"type": "m.id.user", "user": alice.ID}}
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
					end(alice, auth)
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

const password = "waiting-password" // what Register gives one who waits
