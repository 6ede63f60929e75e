package bench

import (
	"context"
	"crypto/hmac"
	"crypto/sha1" // the protocol of shared-secret registration
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

// Target is the homeserver under load.
type Target struct {
	URL          string // base URL, or several with commas, used in turn
	SharedSecret string // of the Synapse-compatible registration; "" for open registration
	PIDs         []int  // processes of the server whose CPU and memory are sampled

	servers *servers
	prefix  string        // of user names, different for each run
	started func() func() // called when a load begins to be measured; what it returns, at the end
}

// watch samples the server's processes from here until the returned function is called.
func (t *Target) watch() (stop func() *Usage) {
	usage := watchUsage(t.PIDs)
	if t.started == nil {
		return usage
	}
	ended := t.started()
	return func() *Usage {
		ended()
		return usage()
	}
}

// person is a registered user with a connection.
type person struct {
	conn
	id string
}

func (t *Target) open() error {
	var err error
	t.servers, err = parseServers(t.URL)
	t.prefix = fmt.Sprintf("b%x", time.Now().UnixMilli())
	return err
}

func body(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // only maps and strings of this package
	}
	return b
}

// people registers n users, several at a time.
func (t *Target) people(ctx context.Context, n int, p *progress) ([]*person, error) {
	out := make([]*person, n)
	return out, parallel(ctx, n, 16, func(i int) error {
		var err error
		out[i], err = t.register(ctx, fmt.Sprintf("%s-%d", t.prefix, i))
		p.step()
		return err
	})
}

func (t *Target) register(ctx context.Context, name string) (*person, error) {
	u := &person{conn: conn{servers: t.servers}}
	password := name + "-password"
	path, request := "/_matrix/client/v3/register", map[string]any{
		"username": name, "password": password, "inhibit_login": false, "auth": map[string]string{"type": "m.login.dummy"},
	}
	if t.SharedSecret != "" {
		path = "/_synapse/admin/v1/register"
		nonce, err := u.call(ctx, "GET", path, nil, "nonce")
		if err != nil {
			return nil, err
		}
		mac := hmac.New(sha1.New, []byte(t.SharedSecret))
		fmt.Fprintf(mac, "%s\x00%s\x00%s\x00notadmin", nonce, name, password)
		request = map[string]any{"nonce": nonce, "username": name, "password": password, "admin": false, "mac": hex.EncodeToString(mac.Sum(nil))}
	}
	out, err := u.do(ctx, "POST", path, body(request), time.Minute)
	if err != nil {
		return nil, fmt.Errorf("register %s: %w", name, err)
	}
	var login struct {
		UserID string `json:"user_id"`
		Token  string `json:"access_token"`
	}
	if err := json.Unmarshal(out, &login); err != nil {
		return nil, err
	}
	if login.Token == "" {
		return nil, errors.New("the registration gave no access token: allow open registration or give --shared-secret")
	}
	u.id, u.token = login.UserID, login.Token
	return u, nil
}

// room makes a public room and lets all others join it.
func room(ctx context.Context, members []*person, p *progress) (string, error) {
	id, err := members[0].call(ctx, "POST", "/_matrix/client/v3/createRoom", body(map[string]string{"preset": "public_chat"}), "room_id")
	if err != nil {
		return "", err
	}
	p.step()
	for _, m := range members[1:] {
		if _, err := m.call(ctx, "POST", "/_matrix/client/v3/join/"+url.PathEscape(id), []byte("{}"), "room_id"); err != nil {
			return "", err
		}
		p.step()
	}
	return id, nil
}

// parallel calls fn for 0 to n-1, at most width at a time, and returns the first error.
func parallel(ctx context.Context, n, width int, fn func(i int) error) error {
	var next atomic.Int64
	var once sync.Once
	var first error
	var wg sync.WaitGroup
	stop, cancel := context.WithCancel(ctx)
	defer cancel()
	for range min(width, n) {
		wg.Go(func() {
			for stop.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := fn(i); err != nil {
					once.Do(func() { first = err })
					cancel()
				}
			}
		})
	}
	wg.Wait()
	if first == nil {
		return ctx.Err()
	}
	return first
}
