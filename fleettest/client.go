package fleettest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"lyceum/matrix"
)

// requestWait is more than any answer takes, also while a shard moves.
const requestWait = 45 * time.Second

// User is a registered user with one device, who talks to one process.
type User struct {
	ID, Device, Token string

	t      *testing.T
	fleet  *Fleet
	url    string // of the process; "" for each in turn
	client *http.Client
}

var users atomic.Int64

// Register makes a user whose name begins with name, so that tests that share a fleet do not meet.
// The user talks to URL; At and Everywhere give others.
func (f *Fleet) Register(t *testing.T, name string) *User {
	t.Helper()
	u := &User{t: t, fleet: f, url: f.URL(), client: &http.Client{Timeout: requestWait}}
	a := u.Do("POST", "/_matrix/client/v3/register", map[string]any{
		"username": fmt.Sprintf("%s-%d-%x", name, users.Add(1), time.Now().UnixMilli()), "password": name + "-password",
		"auth": map[string]string{"type": "m.login.dummy"},
	})
	u.ID, u.Device, u.Token = a.Get("user_id").String(), a.Get("device_id").String(), a.Get("access_token").String()
	return u
}

// Name is the local part of the user's id.
func (u *User) Name() string { return matrix.LocalpartOf(u.ID) }

// Login makes another device of the user.
func (u *User) Login(password string) *User {
	u.t.Helper()
	other := *u
	other.Token = ""
	a := other.Do("POST", "/_matrix/client/v3/login", map[string]any{
		"type": "m.login.password", "password": password, "identifier": map[string]string{"type": "m.id.user", "user": u.ID},
	})
	other.Device, other.Token = a.Get("device_id").String(), a.Get("access_token").String()
	return &other
}

// At is the same user talking to another process.
func (u *User) At(url string) *User {
	other := *u
	other.url = url
	return &other
}

// Everywhere is the same user talking to another process with every request.
func (u *User) Everywhere() *User { return u.At("") }

// Try sends a request and returns its status and answer. err is set when there was no answer. The body is what is sent as JSON, or
// the bytes themselves, or comes from a reader.
func (u *User) Try(method, path string, body any) (status int, answer gjson.Result, err error) {
	var in io.Reader
	switch b := body.(type) {
	case nil:
	case io.Reader:
		in = b
	case []byte:
		in = bytes.NewReader(b)
	default:
		text, err := json.Marshal(body)
		if err != nil {
			return 0, answer, err
		}
		in = bytes.NewReader(text)
	}
	base := u.url
	if base == "" {
		base = u.fleet.Next()
	}
	req, err := http.NewRequestWithContext(u.t.Context(), method, base+path, in)
	if err != nil {
		return 0, answer, err
	}
	if u.Token != "" {
		req.Header.Set("Authorization", "Bearer "+u.Token)
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := u.client.Do(req)
	if err != nil {
		return 0, answer, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return res.StatusCode, gjson.ParseBytes(text), err
}

// Call is Try for requests that must be answered, with whatever status.
func (u *User) Call(method, path string, body any) (status int, answer gjson.Result) {
	u.t.Helper()
	status, answer, err := u.Try(method, path, body)
	if err != nil {
		u.t.Fatalf("%s %s: %v", method, path, err)
	}
	return status, answer
}

// Do is Call for requests that must succeed.
func (u *User) Do(method, path string, body any) gjson.Result {
	u.t.Helper()
	status, answer := u.Call(method, path, body)
	if status != http.StatusOK {
		u.t.Fatalf("%s %s: status %d: %s", method, path, status, answer.Raw)
	}
	return answer
}

// Insist repeats a request that broke off or found the server in trouble, as clients do, and returns the first
// other answer. The request must be one that may be done twice.
func (u *User) Insist(method, path string, body any) (gjson.Result, error) {
	for began := time.Now(); ; {
		status, answer, err := u.Try(method, path, body)
		switch {
		case err == nil && status == http.StatusOK:
			return answer, nil
		case err == nil && status < 500:
			return answer, fmt.Errorf("%s %s: status %d: %s", method, path, status, answer.Raw)
		case u.t.Context().Err() != nil || time.Since(began) > requestWait:
			return answer, fmt.Errorf("%s %s: in vain for %s: status %d: %s: %w", method, path, requestWait, status, answer.Raw, err)
		}
		select {
		case <-u.t.Context().Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Sync asks what happened since a token, "" for the first time, and waits at most timeout for news.
func (u *User) Sync(since string, timeout time.Duration) gjson.Result {
	u.t.Helper()
	path := fmt.Sprintf("/_matrix/client/v3/sync?timeout=%d", timeout.Milliseconds())
	if since != "" {
		path += "&since=" + url.QueryEscape(since)
	}
	return u.Do("GET", path, nil)
}

// roomsMade makes the rooms of tests be of two versions by turns: what clients get when they ask for none, and the newest, whose
// ids and creators are of another kind.
var roomsMade atomic.Int64

// Room makes a public room and lets others join it.
func (u *User) Room(others ...*User) string {
	u.t.Helper()
	body := map[string]string{"preset": "public_chat"}
	if roomsMade.Add(1)%2 == 0 {
		body["room_version"] = "12"
	}
	id := u.Do("POST", "/_matrix/client/v3/createRoom", body).Get("room_id").String()
	for _, o := range others {
		o.Do("POST", "/_matrix/client/v3/join/"+url.PathEscape(id), struct{}{})
	}
	return id
}

// Send sends a text message with a transaction id and returns the event id.
func (u *User) Send(room, transaction, text string) string {
	u.t.Helper()
	return u.Do("PUT", RoomPath(room, "send", "m.room.message", transaction), map[string]string{"msgtype": "m.text", "body": text}).
		Get("event_id").
		String()
}

// RoomPath is the path of something in a room; parts are escaped.
func RoomPath(room string, parts ...string) string {
	path := "/_matrix/client/v3/rooms/" + url.PathEscape(room)
	for _, p := range parts {
		path += "/" + url.PathEscape(p)
	}
	return path
}

// UserPath is the path of something of the user; parts are escaped.
func (u *User) UserPath(parts ...string) string {
	path := "/_matrix/client/v3/user/" + url.PathEscape(u.ID)
	for _, p := range parts {
		path += "/" + url.PathEscape(p)
	}
	return path
}

// Joined is the part of a /sync answer about a room that the user is in.
func Joined(sync gjson.Result, room string) gjson.Result {
	escape := strings.NewReplacer(".", `\.`, "!", `\!`, ":", `\:`)
	return sync.Get("rooms.join." + escape.Replace(room))
}

// Has tells whether a list holds an element whose field at path is value.
func Has(list gjson.Result, path, value string) bool {
	for _, e := range list.Array() {
		if e.Get(path).String() == value {
			return true
		}
	}
	return false
}
