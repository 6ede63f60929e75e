package fleettest_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"lyceum/fleettest"
	"lyceum/matrix"
)

// probe asks for work of each role under several keys, so that every owner is asked, and checks what comes of it.
type probe struct {
	t     *testing.T
	url   string
	users []*fleettest.User
	// A second device of each user: what /sync gives to a device is not given to it again.
	devices []*fleettest.User
	since   []string // up to where each device has read
	rooms   []string
	bob     *fleettest.User // in all rooms, and has a push gateway

	n      *atomic.Int64
	pushed *sync.Map // event ids that came to the gateway
}

// everyRole has all roles that a probe asks, which is all that have processes of their own.
var everyRole = []string{
	"router", "client", "media", "sync", "events", "receipts", "typing", "presence", "todevice", "accountdata", "devicelists", "push",
}

// newProbe makes users who talk to url. The gateway of pushes listens at host.
func newProbe(t *testing.T, f *fleettest.Fleet, url, host string) *probe {
	t.Helper()
	p := &probe{t: t, url: url, n: new(atomic.Int64), pushed: new(sync.Map)}
	l, err := net.Listen("tcp", host+":0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(p.gateway)}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	p.bob = f.Register(t, "gauge").At(url)
	p.bob.Do("POST", "/_matrix/client/v3/pushers/set", map[string]any{
		"kind": "http", "app_id": "test", "pushkey": "key-" + p.bob.ID, "app_display_name": "Test", "device_display_name": "Test", "lang": "en",
		"data": map[string]string{"url": "http://" + l.Addr().String() + "/_matrix/push/v1/notify", "format": "event_id_only"},
	})
	for range 6 {
		u := f.Register(t, "gauge").At(url)
		device := u.Login("gauge-password")
		p.users, p.devices = append(p.users, u), append(p.devices, device)
		p.since = append(p.since, device.Sync("", 0).Get("next_batch").String())
		p.rooms = append(p.rooms, u.Room(p.bob))
	}
	return p
}

func (p *probe) gateway(w http.ResponseWriter, r *http.Request) {
	var note struct {
		Notification struct {
			EventID string `json:"event_id"`
		} `json:"notification"`
	}
	_ = json.NewDecoder(r.Body).Decode(&note)
	p.pushed.Store(note.Notification.EventID, true)
	_, _ = io.WriteString(w, `{"rejected":[]}`)
}

// measure asks for work of each role under each key at once, and returns how long the slowest took.
func (p *probe) measure(roles ...string) (time.Duration, error) {
	began := time.Now()
	var wg sync.WaitGroup
	errs := make([]error, len(roles)*len(p.users))
	for i, role := range roles {
		for j := range p.users {
			wg.Go(func() {
				if err := p.ask(role, j); err != nil {
					errs[i*len(p.users)+j] = fmt.Errorf("%s: %w", role, err)
				}
				if took := time.Since(began); took > 10*time.Second {
					p.t.Logf("%s of %s took %s", role, p.users[j].ID, took)
				}
			})
		}
	}
	wg.Wait()
	return time.Since(began), errors.Join(errs...)
}

// within measures and holds that all was done in time.
func (p *probe) within(limit time.Duration, what string, roles ...string) time.Duration {
	p.t.Helper()
	took, err := p.measure(roles...)
	if err != nil {
		p.t.Errorf("%s: %v", what, err)
	}
	if took > limit {
		p.t.Errorf("%s: %s had to wait for %s, expected at most %s", what, strings.Join(roles, ", "), took.Round(time.Millisecond), limit)
	}
	return took
}

func (p *probe) send(i int) (id string, err error) {
	text := fmt.Sprint("probe ", p.n.Add(1))
	sent, err := p.users[i].Insist(
		"PUT",
		fleettest.RoomPath(p.rooms[i], "send", "m.room.message", text),
		map[string]string{"msgtype": "m.text", "body": text},
	)
	return sent.Get("event_id").String(), err
}

// ask does one thing of a role under a key.
func (p *probe) ask(role string, i int) error {
	u, room, text := p.users[i], p.rooms[i], fmt.Sprint("value ", p.n.Add(1))
	same := func(got string) error {
		if got != text {
			return fmt.Errorf("found %q, expected %q", got, text)
		}
		return nil
	}
	switch role {
	case "router":
		_, err := u.Insist("GET", "/_matrix/client/v3/account/whoami", nil)
		return err
	case "client":
		path := "/_matrix/client/v3/profile/" + url.PathEscape(u.ID) + "/displayname"
		if _, err := u.Insist("PUT", path, map[string]string{"displayname": text}); err != nil {
			return err
		}
		got, err := u.Insist("GET", path, nil)
		return errors.Join(err, same(got.Get("displayname").String()))
	case "media":
		return p.file(u)
	case "sync":
		page, err := u.Insist("GET", "/_matrix/client/v3/sync?timeout=0", nil)
		if err != nil {
			return err
		}
		id, err := p.send(i)
		if err != nil {
			return err
		}
		next, err := u.Insist("GET", "/_matrix/client/v3/sync?timeout=0&since="+url.QueryEscape(page.Get("next_batch").String()), nil)
		if err == nil && !strings.Contains(next.Raw, id) {
			err = fmt.Errorf("%s is not in %s", id, next.Raw)
		}
		return err
	case "events":
		id, err := p.send(i)
		if err != nil {
			return err
		}
		_, err = u.Insist("GET", fleettest.RoomPath(room, "event", id), nil)
		return err
	case "receipts":
		id, err := p.send(i)
		if err != nil {
			return err
		}
		if _, err = u.Insist("POST", fleettest.RoomPath(room, "receipt", "m.read", id), struct{}{}); err != nil {
			return err
		}
		page, err := u.Insist("GET", "/_matrix/client/v3/sync?timeout=0", nil)
		if err == nil && !strings.Contains(fleettest.Joined(page, room).Get("ephemeral").Raw, id) {
			err = fmt.Errorf("no receipt for %s", id)
		}
		return err
	case "typing":
		_, err := u.Insist("PUT", fleettest.RoomPath(room, "typing", u.ID), map[string]any{"typing": true, "timeout": 30000})
		return err
	case "presence":
		path := "/_matrix/client/v3/presence/" + url.PathEscape(u.ID) + "/status"
		if _, err := u.Insist("PUT", path, map[string]string{"presence": "online", "status_msg": text}); err != nil {
			return err
		}
		got, err := u.Insist("GET", path, nil)
		return errors.Join(err, same(got.Get("status_msg").String()))
	case "todevice":
		to := p.devices[i]
		_, err := u.Insist("PUT", "/_matrix/client/v3/sendToDevice/test.secret/"+url.PathEscape(text), map[string]any{
			"messages": map[string]any{to.ID: map[string]any{to.Device: map[string]string{"v": text}}},
		})
		if err != nil {
			return err
		}
		page, err := to.Insist("GET", "/_matrix/client/v3/sync?timeout=0&since="+url.QueryEscape(p.since[i]), nil)
		if err != nil {
			return err
		}
		p.since[i] = page.Get("next_batch").String()
		events := page.Get("to_device.events").Array()
		if len(events) != 1 {
			return fmt.Errorf("/sync has not exactly the message to the device: %s", page.Get("to_device").Raw)
		}
		return same(events[0].Get("content.v").String())
	case "accountdata":
		path := u.UserPath("account_data", "test.probe")
		if _, err := u.Insist("PUT", path, map[string]string{"v": text}); err != nil {
			return err
		}
		got, err := u.Insist("GET", path, nil)
		return errors.Join(err, same(got.Get("v").String()))
	case "devicelists":
		return p.crossSign(u)
	case "push":
		id, err := p.send(i)
		if err != nil {
			return err
		}
		for began := time.Now(); time.Since(began) < 20*time.Second; time.Sleep(10 * time.Millisecond) {
			if _, ok := p.pushed.Load(id); ok {
				return nil
			}
		}
		return fmt.Errorf("%s did not come to the push gateway within 20 s", id)
	}
	return errors.New("nothing is known to ask this role for")
}

// crossSign gives a user new cross-signing keys and looks for them.
func (p *probe) crossSign(u *fleettest.User) error {
	key, err := matrix.GenerateSigningKey("k", rand.Reader)
	if err != nil {
		return err
	}
	public := matrix.Base64(key.Public())
	master := map[string]any{"user_id": u.ID, "usage": []string{"master"}, "keys": map[string]string{"ed25519:" + public: public}}
	body := map[string]any{"master_key": master}
	name, _, _ := strings.Cut(strings.TrimPrefix(u.ID, "@"), "-")
	body["auth"] = map[string]any{
		"type": "m.login.password", "password": name + "-password", "identifier": map[string]string{"type": "m.id.user", "user": u.ID},
	}
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		status, answer, err := u.Try("POST", "/_matrix/client/v3/keys/device_signing/upload", body)
		if err == nil && status == http.StatusUnauthorized { // the password is asked for within a session
			body["auth"].(map[string]any)["session"] = answer.Get("session").String()
		} else if err == nil && status == http.StatusOK {
			break
		} else if err == nil && status < 500 || time.Since(began) > 20*time.Second {
			return fmt.Errorf("cross-signing keys: status %d: %s: %w", status, answer.Raw, err)
		}
	}
	got, err := u.Insist("POST", "/_matrix/client/v3/keys/query", map[string]any{"device_keys": map[string][]string{u.ID: {}}})
	if err == nil && !strings.Contains(got.Get("master_keys").Raw, public) {
		err = errors.New("/keys/query has not the new cross-signing key")
	}
	return err
}

// file uploads a file and downloads it again.
func (p *probe) file(u *fleettest.User) error {
	data := make([]byte, 20_000)
	_, _ = rand.Read(data)
	uri, err := insistUpload(u, p.url, data)
	if err != nil {
		return err
	}
	return insistDownload(u, p.url, uri, sha256.Sum256(data))
}

var patient = &http.Client{Timeout: 30 * time.Second}

func mediaRequest(u *fleettest.User, method, address string, data []byte) (status int, out []byte, err error) {
	req, err := http.NewRequest(method, address, bytes.NewReader(data))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Authorization", "Bearer "+u.Token)
	if data != nil {
		req.Header.Set("Content-Type", "application/octet-stream")
	}
	res, err := patient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer res.Body.Close()
	out, err = io.ReadAll(res.Body)
	return res.StatusCode, out, err
}

// upload sends a file once.
func upload(u *fleettest.User, base string, data []byte) (uri string, status int, answer string, err error) {
	status, out, err := mediaRequest(u, "POST", base+"/_matrix/media/v3/upload", data)
	var got struct {
		URI string `json:"content_uri"`
	}
	_ = json.Unmarshal(out, &got)
	return got.URI, status, string(out), err
}

func insistUpload(u *fleettest.User, base string, data []byte) (string, error) {
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		uri, status, answer, err := upload(u, base, data)
		if err == nil && status == http.StatusOK {
			return uri, nil
		}
		if time.Since(began) > 20*time.Second {
			return "", fmt.Errorf("upload: status %d: %s: %w", status, answer, err)
		}
	}
}

// insistDownload loads a file until it comes whole, and compares it.
func insistDownload(u *fleettest.User, base, uri string, sum [32]byte) error {
	address := base + "/_matrix/client/v1/media/download/" + strings.TrimPrefix(uri, "mxc://")
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		status, out, err := mediaRequest(u, "GET", address, nil)
		if err == nil && status == http.StatusOK {
			if sha256.Sum256(out) != sum {
				return fmt.Errorf("%s is not the file that was uploaded: %d bytes", uri, len(out))
			}
			return nil
		}
		if err == nil && status == http.StatusNotFound {
			return fmt.Errorf("%s was acknowledged and is lost: %s", uri, out)
		}
		if time.Since(began) > 20*time.Second {
			return fmt.Errorf("download of %s: status %d: %s: %w", uri, status, out, err)
		}
	}
}
