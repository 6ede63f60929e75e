package devices

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"lyceum/accounts"
	"lyceum/matrix"
	"lyceum/platform/db"
	"lyceum/platform/db/dbtest"
	"lyceum/platform/lease"
	"lyceum/platform/role"
	"lyceum/platform/role/roletest"
	"lyceum/platform/web"
)

// node is a process with accounts, devices and their HTTP surface.
type node struct {
	*Devices
	t       testing.TB
	p       *role.Process
	handler http.Handler
}

// listener passes what accounts tells to the domain, which is made after it.
type listener struct{ at atomic.Pointer[Devices] }

func (l *listener) DeviceAdded(ctx context.Context, userID, id string) error {
	return l.at.Load().DeviceAdded(ctx, userID, id)
}

func (l *listener) DevicesRemoved(ctx context.Context, userID string, ids []string) error {
	return l.at.Load().DevicesRemoved(ctx, userID, ids)
}

func (l *listener) UserDeactivated(ctx context.Context, userID string, erase bool) error {
	return l.at.Load().UserDeactivated(ctx, userID, erase)
}

// roomSharing are pairs of users who share a room.
type roomSharing map[string][]string

func (m roomSharing) SharedRoomChanges(_ context.Context, userID, _, _ string, changed []string) (met, parted []string, err error) {
	return slices.DeleteFunc(
		changed,
		func(id string) bool { return id != userID && !slices.Contains(m[userID], id) },
	), m["parted "+userID], nil
}

var testSharing = roomSharing{"@alice:here.test": {"@bob:here.test"}, "parted @alice:here.test": {"@zoe:here.test"}}

// token is what /sync gives out for positions of the stream of device lists.
func (n *node) token(positions []int64) string {
	return n.layout.Encode(n.p.LogEpoch(), positions, "")
}

func wire(t testing.TB, p *role.Process) *node {
	t.Helper()
	late := &listener{}
	a, err := accounts.New(accounts.Deps{
		Process: p, Now: time.Now, Devices: []accounts.DeviceListener{late}, Users: []accounts.UserListener{late},
	}, accounts.Config{ServerName: "here.test", Registration: accounts.OpenRegistration, Password: accounts.PasswordConfig{
		MemoryKiB: 64,
		Passes:    1,
	}})
	if err != nil {
		t.Fatal(err)
	}
	x, err := New(Deps{Process: p, Accounts: a, Now: time.Now, SharedRooms: testSharing}, Config{})
	if err != nil {
		t.Fatal(err)
	}
	late.at.Store(x)
	server, err := web.New(web.Options{Log: slog.New(slog.DiscardHandler), Authenticator: a, Barrier: p.Streams.Barrier})
	if err != nil {
		t.Fatal(err)
	}
	server.Add(a.Routes()...)
	server.Add(x.Routes()...)
	return &node{x, t, p, server.Handler()}
}

var allMigrations = []db.Migrations{lease.Migrations(), accounts.Migrations(), Migrations()}

// run runs body with one process on each engine.
func run(t *testing.T, body func(t *testing.T, n *node)) {
	t.Helper()
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		p := roletest.New(t, d)
		n := wire(t, p)
		roletest.Start(t, p)
		body(t, n)
	}, allMigrations...)
}

// fleet runs body with two processes on one database, once each owns half of the shards.
func fleet(t *testing.T, body func(t *testing.T, one, two *node)) {
	t.Helper()
	dbtest.Run(t, func(t *testing.T, d *db.DB) {
		one, two, _ := roletest.Two(t, d, func(p *role.Process) *node { return wire(t, p) })
		body(t, one, two)
	}, allMigrations...)
}

type obj = map[string]any

// answer is what came back.
type answer struct {
	t      testing.TB
	status int
	body   []byte
}

func (x answer) get(path string) gjson.Result { return gjson.GetBytes(x.body, path) }

// want checks the status and, if given, the error code.
func (x answer) want(status int, code ...string) answer {
	x.t.Helper()
	if x.status != status || len(code) > 0 && x.get("errcode").String() != code[0] {
		x.t.Fatalf("expected %d %v, found %d: %s", status, code, x.status, x.body)
	}
	return x
}

// login is a device of a user.
type login struct {
	n                *node
	userID, deviceID string
	token            string
	key              ed25519.PrivateKey
}

// barrier waits until the process has seen all that was acknowledged before.
func (n *node) barrier() {
	n.t.Helper()
	if err := n.p.Streams.Barrier(n.t.Context()); err != nil {
		n.t.Fatal(err)
	}
}

// on is the same device talking to another process.
func (l *login) on(n *node) *login {
	other := *l
	other.n = n
	return &other
}

// do sends "METHOD path"; body may be nil, a string as it is or anything with a JSON form.
func (n *node) do(target, token string, body any) answer {
	n.t.Helper()
	text, isText := body.(string)
	if body != nil && !isText {
		b, err := json.Marshal(body)
		if err != nil {
			n.t.Fatal(err)
		}
		text = string(b)
	}
	method, path, _ := strings.Cut(target, " ")
	if !strings.HasPrefix(path, "/_") {
		path = client + path
	}
	r := httptest.NewRequest(method, path, strings.NewReader(text))
	r.Header.Set("Authorization", "Bearer "+token)
	w := httptest.NewRecorder()
	n.handler.ServeHTTP(w, r)
	return answer{n.t, w.Code, w.Body.Bytes()}
}

func (l *login) do(target string, body any) answer {
	l.n.t.Helper()
	return l.n.do(target, l.token, body)
}

const password = "correct horse"

func (n *node) register(name string) *login {
	n.t.Helper()
	return n.newLogin(n.do("POST /register", "", obj{"username": name, "password": password, "auth": obj{"type": "m.login.dummy"}}))
}

func (n *node) login(name string) *login {
	n.t.Helper()
	return n.newLogin(
		n.do("POST /login", "", obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": name}, "password": password}),
	)
}

func (n *node) newLogin(x answer) *login {
	n.t.Helper()
	x.want(200)
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		n.t.Fatal(err)
	}
	return &login{n, x.get("user_id").String(), x.get("device_id").String(), x.get("access_token").String(), key}
}

func public(key ed25519.PrivateKey) string { return matrix.Base64(key.Public().(ed25519.PublicKey)) }

// sign gives the value with a signature of the user under ed25519:name.
func sign(t testing.TB, value any, userID, name string, key ed25519.PrivateKey) json.RawMessage {
	t.Helper()
	raw, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	out, err := matrix.SignJSON(raw, userID, matrix.SigningKey{ID: "ed25519:" + name, Private: key})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// deviceKeys are the signed identity keys of the device.
func (l *login) deviceKeys() json.RawMessage {
	l.n.t.Helper()
	return l.deviceKeysWith(nil)
}

// deviceKeysWith are those with other fields.
func (l *login) deviceKeysWith(fields obj) json.RawMessage {
	l.n.t.Helper()
	keys := obj{
		"user_id": l.userID, "device_id": l.deviceID, "algorithms": []string{"m.olm.v1.curve25519-aes-sha2"},
		"keys": obj{"ed25519:" + l.deviceID: public(l.key), "curve25519:" + l.deviceID: "curve"},
	}
	maps.Copy(keys, fields)
	return sign(l.n.t, keys, l.userID, l.deviceID, l.key)
}

func (l *login) oneTimeKey(value string) json.RawMessage {
	l.n.t.Helper()
	return sign(l.n.t, obj{"key": value}, l.userID, l.deviceID, l.key)
}

// oneTimeKeys are signed keys with the ids.
func (l *login) oneTimeKeys(ids ...string) obj {
	l.n.t.Helper()
	out := obj{}
	for _, id := range ids {
		out["signed_curve25519:"+id] = l.oneTimeKey("key" + id)
	}
	return out
}

func (l *login) claimFrom(other *login) gjson.Result {
	l.n.t.Helper()
	x := l.do("POST /keys/claim", obj{"one_time_keys": obj{other.userID: obj{other.deviceID: mainAlgorithm}}}).want(200)
	return x.get("one_time_keys").Get(gjson.Escape(other.userID)).Get(gjson.Escape(other.deviceID))
}

func (l *login) counts() (int, []string) {
	l.n.t.Helper()
	l.n.barrier()
	counts, fallback, err := l.n.OneTimeKeyCounts(context.Background(), l.userID, l.deviceID)
	if err != nil {
		l.n.t.Fatal(err)
	}
	return counts[mainAlgorithm], fallback
}

// inbox reads all messages of the device after a position, as sync does after its barrier.
func (l *login) inbox(after int64) (bodies []string, last int64) {
	l.n.t.Helper()
	l.n.barrier()
	st := l.n.ToDeviceStream()
	messages, last, err := l.n.ToDevice(context.Background(), l.userID, l.deviceID,
		MessageRange{after, st.Position(st.Shard(l.userID)), 100})
	if err != nil {
		l.n.t.Fatal(err)
	}
	for _, m := range messages {
		bodies = append(bodies, string(m))
	}
	return bodies, last
}

// counter counts the statements of a database.
type counter struct{ n atomic.Int64 }

// counted runs body with one process on SQLite whose statements are counted.
func counted(t *testing.T, body func(t *testing.T, n *node, count *counter)) {
	t.Helper()
	count := &counter{}
	d, err := db.Open(
		context.Background(),
		"sqlite:"+filepath.Join(t.TempDir(), "test.db"),
		db.Options{Observe: func(n int) { count.n.Add(int64(n)) }},
	)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	if err := db.Migrate(context.Background(), d, slog.New(slog.DiscardHandler), allMigrations...); err != nil {
		t.Fatal(err)
	}
	p := roletest.New(t, d)
	n := wire(t, p)
	roletest.Start(t, p)
	body(t, n, count)
}
