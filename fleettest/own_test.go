package fleettest_test

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/tidwall/gjson"

	"lyceum/fleettest"
	"lyceum/matrix"
)

// TestEveryProcessSeesYourWrites asks another process with every request: none gives an answer that is
// older than what was acknowledged.
func TestEveryProcessSeesYourWrites(t *testing.T) {
	fleettest.Run(t, func(t *testing.T, f *fleettest.Fleet) {
		alice, bob := f.Register(t, "alice").Everywhere(), f.Register(t, "bob").Everywhere()
		room := alice.Room()
		bob.Do("POST", "/_matrix/client/v3/join/"+url.PathEscape(room), struct{}{})
		if got := bob.Do("GET", "/_matrix/client/v3/joined_rooms", nil); !strings.Contains(got.Raw, room) {
			t.Fatalf("joined_rooms misses the room: %s", got.Raw)
		}
		since, bobSince := alice.Sync("", 0).Get("next_batch").String(), bob.Sync("", 0)
		if !fleettest.Joined(bobSince, room).Exists() {
			t.Fatalf("the first sync misses the room: %s", bobSince.Raw)
		}
		// A changed name is told to rooms in the background, so only messages are asked for.
		messages := fleettest.RoomPath(room, "messages") + "?dir=b&limit=1&filter=" + url.QueryEscape(`{"types":["m.room.message"]}`)
		w := &watcher{t: t, user: bob, room: room, since: bobSince.Get("next_batch").String()}
		for n := range 64 {
			id := alice.Send(room, fmt.Sprint("m", n), fmt.Sprint("message ", n))
			if got := alice.Do("GET", messages, nil).Get("chunk.0.event_id").String(); got != id {
				t.Fatalf("message %d: /messages ends with %s, expected %s", n, got, id)
			}
			alice.Do("GET", fleettest.RoomPath(room, "event", id), nil)
			page := alice.Sync(since, 0)
			since = page.Get("next_batch").String()
			if !fleettest.Has(fleettest.Joined(page, room).Get("timeline.events"), "event_id", id) {
				t.Fatalf("message %d: /sync misses it: %s", n, page.Raw)
			}
			w.sees("the message", func(r gjson.Result) bool { return fleettest.Has(r.Get("timeline.events"), "event_id", id) })
			everydayWrites(t, alice, w, n, id)
		}
	})
}

// everydayWrites does one more kind of write for each n and looks for it.
func everydayWrites(t *testing.T, alice *fleettest.User, w *watcher, n int, eventID string) {
	t.Helper()
	text := fmt.Sprint("value ", n)
	expect := func(what, got string) {
		t.Helper()
		if got != text {
			t.Fatalf("%s: found %q, expected %q", what, got, text)
		}
	}
	switch n % 7 {
	case 0:
		path := alice.UserPath("account_data", "test.data")
		alice.Do("PUT", path, map[string]string{"v": text})
		expect("account data", alice.Do("GET", path, nil).Get("v").String())
		expect("account data in /sync", alice.Sync("", 0).Get(`account_data.events.#(type=="test.data").content.v`).String())
	case 1:
		alice.Do("PUT", fleettest.RoomPath(w.room, "typing", alice.ID), map[string]any{"typing": true, "timeout": 30000})
		w.sees("typing", func(r gjson.Result) bool {
			return strings.Contains(r.Get(`ephemeral.events.#(type=="m.typing").content.user_ids`).Raw, alice.ID)
		})
		alice.Do("PUT", fleettest.RoomPath(w.room, "typing", alice.ID), map[string]any{"typing": false})
		w.sees("the end of typing", func(r gjson.Result) bool {
			ids := r.Get(`ephemeral.events.#(type=="m.typing").content.user_ids`)
			return ids.Exists() && !strings.Contains(ids.Raw, alice.ID)
		})
	case 2:
		alice.Do("POST", fleettest.RoomPath(w.room, "receipt", "m.read", eventID), struct{}{})
		w.sees("the receipt", func(r gjson.Result) bool {
			content := r.Get(`ephemeral.events.#(type=="m.receipt").content`).Raw
			return strings.Contains(content, eventID) && strings.Contains(content, alice.ID)
		})
	case 3:
		alice.Do("PUT", "/_matrix/client/v3/profile/"+url.PathEscape(alice.ID)+"/displayname", map[string]string{"displayname": text})
		expect(
			"display name",
			alice.Do("GET", "/_matrix/client/v3/profile/"+url.PathEscape(alice.ID)+"/displayname", nil).Get("displayname").String(),
		)
	case 4:
		path := fleettest.RoomPath(w.room, "state", "test.state", "key")
		alice.Do("PUT", path, map[string]string{"v": text})
		expect("state", alice.Do("GET", path, nil).Get("v").String())
	case 5:
		other := alice.Login(passwordOf(alice))
		other.Do("POST", "/_matrix/client/v3/logout", struct{}{})
		for range 3 {
			if status, answer := other.Call("GET", "/_matrix/client/v3/account/whoami", nil); status != 401 {
				t.Fatalf("the token of a device that logged out: status %d: %s", status, answer.Raw)
			}
		}
	case 6:
		other := alice.Login(passwordOf(alice))
		uploadDevice(t, other)
		got := w.user.Do("POST", "/_matrix/client/v3/keys/query", map[string]any{"device_keys": map[string][]string{alice.ID: {}}})
		if !strings.Contains(got.Raw, `"`+other.Device+`"`) {
			t.Fatalf("/keys/query misses device %s: %s", other.Device, got.Raw)
		}
	}
}

func passwordOf(u *fleettest.User) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(u.ID, "@"), "-")
	return name + "-password"
}

// uploadDevice gives a device identity keys, as clients with encryption do.
func uploadDevice(t *testing.T, u *fleettest.User) {
	t.Helper()
	key, err := matrix.GenerateSigningKey(u.Device, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public := matrix.Base64(key.Public())
	body, err := json.Marshal(map[string]any{
		"user_id": u.ID, "device_id": u.Device, "algorithms": []string{"m.megolm.v1.aes-sha2"},
		"keys": map[string]string{"curve25519:" + u.Device: public, "ed25519:" + u.Device: public},
	})
	if err != nil {
		t.Fatal(err)
	}
	if body, err = matrix.SignJSON(body, u.ID, key); err != nil {
		t.Fatal(err)
	}
	u.Do("POST", "/_matrix/client/v3/keys/upload", map[string]any{"device_keys": json.RawMessage(body)})
}

// watcher is another user in the room, who asks without waiting.
type watcher struct {
	t           *testing.T
	user        *fleettest.User
	room, since string
}

// sees asks once: what was acknowledged to somebody is there for everybody.
func (w *watcher) sees(what string, ok func(room gjson.Result) bool) {
	w.t.Helper()
	page := w.user.Sync(w.since, 0)
	w.since = page.Get("next_batch").String()
	if !ok(fleettest.Joined(page, w.room)) {
		w.t.Fatalf("another user's /sync misses %s: %s", what, page.Raw)
	}
}

// TestATransactionIsDoneOnce repeats one request at every process, also at once.
func TestATransactionIsDoneOnce(t *testing.T) {
	fleettest.Run(t, func(t *testing.T, f *fleettest.Fleet) {
		alice := f.Register(t, "alice")
		room := alice.Room()
		urls := append(f.URLs(), f.URLs()...)
		ids := make([]string, len(urls))
		var wg sync.WaitGroup
		for i, u := range urls {
			send := func() {
				_, answer, err := alice.At(u).
					Try("PUT", fleettest.RoomPath(room, "send", "m.room.message", "same"), map[string]string{"msgtype": "m.text", "body": "once"})
				if ids[i] = answer.Get("event_id").String(); err != nil || ids[i] == "" {
					t.Errorf("at process %d: %s %v", i, answer.Raw, err)
				}
			}
			if i < len(urls)/2 {
				wg.Go(send)
			} else {
				wg.Wait()
				send()
			}
		}
		wg.Wait()
		for i, id := range ids {
			if id != ids[0] {
				t.Errorf("process %d gave %s, another %s", i%len(f.URLs()), id, ids[0])
			}
		}
		page := alice.Do(
			"GET",
			fleettest.RoomPath(room, "messages")+"?dir=b&limit=100&filter="+url.QueryEscape(`{"types":["m.room.message"]}`),
			nil,
		)
		if n := len(page.Get("chunk").Array()); n != 1 {
			t.Errorf("%d messages are in the room, expected one", n)
		}
	})
}

// TestDevicesGetWhatEncryptionNeeds holds the promises on which encrypted rooms stand: a message to a device
// comes once, and a one-time key is given to one claimer only.
func TestDevicesGetWhatEncryptionNeeds(t *testing.T) {
	fleettest.Run(t, func(t *testing.T, f *fleettest.Fleet) {
		alice, bob := f.Register(t, "alice").Everywhere(), f.Register(t, "bob").Everywhere()
		since := bob.Sync("", 0).Get("next_batch").String()
		const messages = 40
		got := map[string]int{}
		for n := range messages {
			text := fmt.Sprint("secret ", n)
			path := "/_matrix/client/v3/sendToDevice/test.secret/" + fmt.Sprint("t", n)
			body := map[string]any{"messages": map[string]any{bob.ID: map[string]any{bob.Device: map[string]string{"v": text}}}}
			alice.Do("PUT", path, body)
			alice.Do("PUT", path, body) // at another process; the same transaction
			page := bob.Sync(since, 0)
			since = page.Get("next_batch").String()
			for _, e := range page.Get("to_device.events").Array() {
				got[e.Get("content.v").String()]++
			}
			if got[text] != 1 {
				t.Fatalf("%q came %d times: %s", text, got[text], page.Raw)
			}
		}
		if len(got) != messages {
			t.Errorf("%d different messages came of %d", len(got), messages)
		}
		claimKeys(t, f, alice, bob)
	})
}

func claimKeys(t *testing.T, f *fleettest.Fleet, alice, bob *fleettest.User) {
	t.Helper()
	uploadDevice(t, bob)
	const keys = 36
	upload := map[string]any{}
	for n := range keys {
		upload[fmt.Sprintf("signed_curve25519:K%02d", n)] = map[string]any{"key": fmt.Sprintf("%043d", n)}
	}
	bob.Do("POST", "/_matrix/client/v3/keys/upload", map[string]any{"one_time_keys": upload})
	var mu sync.Mutex
	given := map[string]int{}
	var wg sync.WaitGroup
	for i := range keys + 8 {
		wg.Go(func() {
			at := alice.At(f.URLs()[i%len(f.URLs())])
			status, answer, err := at.Try("POST", "/_matrix/client/v3/keys/claim",
				map[string]any{"one_time_keys": map[string]any{bob.ID: map[string]string{bob.Device: "signed_curve25519"}}})
			if err != nil || status != 200 {
				t.Errorf("claim: status %d %s %v", status, answer.Raw, err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			answer.Get("one_time_keys").ForEach(func(_, devices gjson.Result) bool {
				devices.ForEach(func(_, list gjson.Result) bool {
					list.ForEach(func(id, _ gjson.Result) bool { given[id.String()]++; return true })
					return true
				})
				return true
			})
		})
	}
	wg.Wait()
	if len(given) != keys {
		t.Errorf("%d keys were given of %d", len(given), keys)
	}
	for id, n := range given {
		if n != 1 {
			t.Errorf("key %s was given %d times", id, n)
		}
	}
}
