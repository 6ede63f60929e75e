package fleettest_test

import (
	"fmt"
	"net/url"
	"testing"

	"lyceum/fleettest"
)

// TestTransactionsEndWithTheirDevice: a device that is made with the id of one that ended begins with transaction ids anew; one that
// logs in again goes on.
func TestTransactionsEndWithTheirDevice(t *testing.T) {
	const v3 = "/_matrix/client/v3"
	fleettest.Run(t, func(t *testing.T, f *fleettest.Fleet) {
		owner := f.Register(t, "transactions").Everywhere()
		room := owner.Room()
		login := func() *fleettest.User {
			u := *owner
			u.Token = ""
			a := u.Do("POST", v3+"/login", map[string]any{
				"type": "m.login.password", "password": "transactions-password", "device_id": "BOT",
				"identifier": map[string]string{"type": "m.id.user", "user": u.ID},
			})
			u.Device, u.Token = a.Get("device_id").String(), a.Get("access_token").String()
			return &u
		}
		seen := map[string]bool{}
		send := func(u *fleettest.User, what string, again bool) {
			t.Helper()
			event := u.Send(room, "1", what)
			if seen[event] != again {
				t.Errorf("%s: known before: %v", what, seen[event])
			}
			seen[event] = true
			if redaction := u.Do("PUT", fleettest.RoomPath(room, "redact", event, "1"),
				map[string]string{}).Get("event_id").String(); seen[redaction] != again {
				t.Errorf("%s: redaction known before: %v", what, seen[redaction])
			} else {
				seen[redaction] = true
			}
			if txn := u.Do("GET", fleettest.RoomPath(room, "event", event), nil).Get("unsigned.transaction_id").String(); txn != "1" {
				t.Errorf("%s: the device is told the transaction %q", what, txn)
			}
		}
		ends := map[string]func(u *fleettest.User){
			"logout": func(u *fleettest.User) { u.Do("POST", v3+"/logout", struct{}{}) },
			"deletion": func(u *fleettest.User) {
				auth := map[string]any{
					"type":       "m.login.password",
					"password":   "transactions-password",
					"identifier": map[string]any{"type": "m.id.user", "user": u.ID},
				}
				u.Do("DELETE", v3+"/devices/"+url.PathEscape(u.Device), map[string]any{"auth": auth})
			},
		}
		for name, end := range ends {
			u := login()
			send(u, "first before "+name, false)
			send(u, "repeated before "+name, true)
			u = login()
			send(u, "after another log-in", true)
			end(u)
			if got := owner.Do("GET", v3+"/devices", nil).Get(fmt.Sprintf("devices.#(device_id==%q)", u.Device)); got.Exists() {
				t.Fatalf("%s: the device is still there", name)
			}
		}
	})
}
