package backup_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tidwall/gjson"

	"lyceum/fleet"
	"lyceum/ops/opstest"
	"lyceum/platform/blob"
	"lyceum/platform/conf"
	"lyceum/platform/db"
	"lyceum/platform/engines/enginestest"
)

func TestMain(m *testing.M) { os.Exit(opstest.Main(m)) }

const v3 = "/_matrix/client/v3"

func inRoom(id string, parts ...string) string {
	path := v3 + "/rooms/" + url.PathEscape(id)
	for _, p := range parts {
		path += "/" + url.PathEscape(p)
	}
	return path
}

// world is what the users of a site have made.
type world struct {
	users []*opstest.Client
	rooms []string
	media atomic.Pointer[[]string]
	done  atomic.Int64
}

func makeWorld(t *testing.T, s *opstest.Site) *world {
	t.Helper()
	w := &world{}
	w.media.Store(&[]string{})
	for i := range 3 {
		w.users = append(w.users, s.Register(t, fmt.Sprint("user", i)))
	}
	for i := range 3 {
		id := w.users[i].Do(t, "POST", v3+"/createRoom", map[string]any{
			"preset": "public_chat", "name": fmt.Sprint("Room ", i), "power_level_content_override": map[string]any{"state_default": 0},
		}).Get("room_id").String()
		for j, u := range w.users {
			if j != i {
				u.Do(t, "POST", v3+"/join/"+url.PathEscape(id), map[string]any{})
			}
		}
		w.rooms = append(w.rooms, id)
	}
	return w
}

// act does one of everything that is stored.
func (w *world) act(ctx context.Context, u *opstest.Client, mine, n int) error {
	room := w.rooms[(mine+n)%len(w.rooms)]
	txn := fmt.Sprintf("%d-%d", mine, n)
	other := w.users[(mine+1)%len(w.users)]
	file := make([]byte, 1000+rand.IntN(60_000))
	for i := range file {
		file[i] = byte(rand.Uint32())
	}
	var event string
	for _, step := range []struct {
		method, path string
		body         any
		take         func(gjson.Result)
	}{
		{
			"PUT", inRoom(room, "send", "m.room.message", txn),
			map[string]string{"msgtype": "m.text", "body": "message ü " + txn},
			func(r gjson.Result) { event = r.Get("event_id").String() },
		},
		{"POST", "/_matrix/media/v3/upload", file, func(r gjson.Result) {
			for {
				old := w.media.Load()
				list := append(slices.Clone(*old), r.Get("content_uri").String())
				if w.media.CompareAndSwap(old, &list) {
					return
				}
			}
		}},
		{"PUT", inRoom(room, "state", "test.state", txn), map[string]any{"n": n}, nil},
		{"PUT", v3 + "/user/" + url.PathEscape(u.ID) + "/account_data/test.data", map[string]any{"n": n}, nil},
		{
			"PUT", v3 + "/sendToDevice/test.message/" + txn,
			map[string]any{"messages": map[string]any{other.ID: map[string]any{"*": map[string]any{"n": n}}}},
			nil,
		},
		{"PUT", v3 + "/presence/" + url.PathEscape(u.ID) + "/status", map[string]any{"presence": "online", "status_msg": txn}, nil},
		{"POST", v3 + "/keys/upload", map[string]any{"one_time_keys": map[string]any{"test:" + txn: "key"}}, nil},
		{"", inRoom(room, "receipt", "m.read"), map[string]any{}, nil},
	} {
		if step.method == "" {
			step.method, step.path = "POST", step.path+"/"+url.PathEscape(event)
		}
		status, text, err := u.Try(ctx, step.method, step.path, step.body)
		if err != nil {
			return err
		}
		if status != 200 && !strings.Contains(step.path, "keys/upload") { // keys that only look like some may be refused
			return fmt.Errorf("%s %s: %d %s", step.method, step.path, status, text)
		}
		if step.take != nil {
			step.take(gjson.ParseBytes(text))
		}
	}
	w.done.Add(1)
	return nil
}

// busy acts until it is stopped.
func (w *world) busy(t *testing.T) (stop func()) {
	t.Helper()
	// A request that was cut off may still be done later, so all are finished.
	var stopped atomic.Bool
	var wg sync.WaitGroup
	for i, u := range w.users {
		wg.Go(func() {
			for n := 0; !stopped.Load(); n++ {
				if err := w.act(t.Context(), u, i, n); err != nil {
					t.Errorf("while the backup ran: %v", err)
					return
				}
			}
		})
	}
	for w.done.Load() < 10 && !t.Failed() {
		time.Sleep(5 * time.Millisecond)
	}
	return func() {
		stopped.Store(true)
		wg.Wait()
	}
}

// view is what the users of a site see, as text.
func (w *world) view(t *testing.T, s *opstest.Site) string {
	t.Helper()
	var b strings.Builder
	for _, old := range w.users {
		u := *old
		u.Site = s
		for _, room := range w.rooms {
			from := ""
			for {
				page := u.Do(t, "GET", inRoom(room, "messages")+"?dir=b&limit=100"+from, nil)
				for _, e := range page.Get("chunk").Array() {
					fmt.Fprintln(&b, e.Get("event_id"), e.Get("type"), e.Get("sender"), e.Get("content").Raw)
				}
				if !page.Get("end").Exists() {
					break
				}
				from = "&from=" + url.QueryEscape(page.Get("end").String())
			}
			state := u.Do(t, "GET", inRoom(room, "state"), nil).Array()
			lines := make([]string, len(state))
			for i, e := range state {
				lines[i] = e.Get("event_id").String() + e.Get("content").Raw
			}
			slices.Sort(lines)
			fmt.Fprintln(&b, strings.Join(lines, "\n"))
		}
		fmt.Fprintln(&b, u.Do(t, "GET", v3+"/user/"+url.PathEscape(u.ID)+"/account_data/test.data", nil).Raw)
	}
	for i, uri := range *w.media.Load() {
		u := *w.users[i%len(w.users)]
		u.Site = s
		status, text, err := u.Try(t.Context(), "GET", "/_matrix/client/v1/media/download/"+strings.TrimPrefix(uri, "mxc://"), nil)
		fmt.Fprintf(&b, "%s %d %x %v\n", uri, status, text, err)
	}
	return b.String()
}

// excepted are the columns and tables that a restore changes on purpose.
func excepted(table, column string, row map[string]string) bool {
	switch table {
	case "machines", "one_time_keys", "push_outbox":
		return true
	case "migrations":
		return column == "applied_ms"
	case "leases":
		return column == "machine" || column == "incarnation" || column == "epoch"
	case "fleet":
		return row["name"] == "log_epoch"
	}
	return false
}

// content is every row and every blob of a site, read without package backup.
func content(t *testing.T, s *opstest.Site) []string {
	t.Helper()
	c := s.Config(t)
	d := s.Database(t)
	var out []string
	tables, err := d.Tables(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		rows, err := d.Query(t.Context(), `SELECT * FROM "`+table.Name+`"`)
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			values, into := make([]any, len(table.Columns)), make([]any, len(table.Columns))
			for i := range values {
				into[i] = &values[i]
			}
			if err := rows.Scan(into...); err != nil {
				t.Fatal(err)
			}
			row := map[string]string{}
			for i, v := range values {
				text := fmt.Sprint(v)
				if b, ok := v.([]byte); ok {
					text = string(b)
				}
				if n, ok := v.(int64); ok && table.Columns[i].Kind == db.Bool {
					text = fmt.Sprint(n != 0)
				}
				if v == nil {
					text = "NULL"
				}
				row[table.Columns[i].Name] = text
			}
			line := table.Name
			for _, column := range table.Columns {
				if !excepted(table.Name, column.Name, row) {
					line += fmt.Sprintf(" %s=%q", column.Name, row[column.Name])
				}
			}
			if strings.Contains(line, "=") {
				out = append(out, line)
			}
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			t.Fatal(err)
		}
	}
	store, err := blob.Open(t.Context(), c.Blob)
	if err != nil {
		t.Fatal(err)
	}
	list, err := store.List(t.Context(), "", "", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range list {
		r, err := store.Get(t.Context(), i.Key, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err := errors.Join(err, r.Close()); err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(i.Key, "probe/") {
			out = append(out, fmt.Sprintf("blob %s %x", i.Key, text))
		}
	}
	slices.Sort(out)
	return out
}

// named holds that a domain declares the column that names each blob in the store of a server at rest.
func named(t *testing.T, s *opstest.Site) {
	t.Helper()
	d, names := s.Database(t), map[string]bool{}
	for _, x := range fleet.Domains {
		for _, b := range x.Blobs {
			keys, err := db.List(func(row db.Row) (key string, err error) { return key, row.Scan(&key) })(d.Query(t.Context(), b.Keys()))
			if err != nil {
				t.Fatal(err)
			}
			for _, key := range keys {
				names[key] = true
			}
		}
	}
	store, err := blob.Open(t.Context(), s.Config(t).Blob)
	if err != nil {
		t.Fatal(err)
	}
	list, err := store.List(t.Context(), "", "", 1<<20)
	if err != nil || len(list) == 0 {
		t.Fatalf("%d blobs, %v", len(list), err)
	}
	for _, i := range list {
		if !names[i.Key] && !strings.HasPrefix(i.Key, "probe/") {
			t.Errorf("the blob %s is named by no column that a domain declares", i.Key)
		}
	}
}

func same(t *testing.T, what string, want, got []string) {
	t.Helper()
	for i := range max(len(want), len(got)) {
		if i >= len(want) || i >= len(got) || want[i] != got[i] {
			t.Fatalf("%s: %d lines expected, %d found; the first that differs:\n%.400s\n%.400s", what, len(want), len(got),
				strings.Join(want[min(i, len(want)):min(i+1, len(want))], ""), strings.Join(got[min(i, len(got)):min(i+1, len(got))], ""))
		}
	}
}

// invariants hold at every moment of a database, and so of each copy of one moment.
func invariants(t *testing.T, s *opstest.Site) {
	t.Helper()
	d := s.Database(t)
	count := func(query string) (n int) {
		t.Helper()
		if err := d.QueryRow(t.Context(), query).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := count("SELECT COUNT(*) FROM events WHERE NOT EXISTS (SELECT 1 FROM state_nodes WHERE id = root)"); n > 0 {
		t.Errorf("%d events have a state that is not there", n)
	}
	if n := count("SELECT COUNT(*) FROM memberships m WHERE NOT EXISTS (SELECT 1 FROM events e WHERE e.event_id = m.event_id)"); n > 0 {
		t.Errorf("%d memberships have an event that is not there", n)
	}
	for table, stream := range map[string]string{
		"events": "events", "receipts": "receipts", "account_data": "account_data", "to_device": "to_device", "device_lists": "device_lists",
		"presence": "presence", "session_changes": "sessions",
	} {
		rows, err := d.Query(t.Context(), "SELECT shard, MAX(pos) FROM "+table+" GROUP BY shard")
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		found := 0
		for rows.Next() {
			var shard, pos int64
			if err := rows.Scan(&shard, &pos); err != nil {
				t.Fatal(err)
			}
			found++
			if n := count(fmt.Sprintf("SELECT pos FROM leases WHERE name = 'stream/%s/%04d'", stream, shard)); int64(n) < pos {
				t.Errorf("table %s, shard %d: the last row has position %d and the lease %d", table, shard, pos, n)
			}
			if n := count(fmt.Sprintf("SELECT COUNT(*) FROM events WHERE shard = %d", shard)); table == "events" && int64(n) != pos {
				t.Errorf("shard %d of the events has %d rows up to position %d", shard, n, pos)
			}
		}
		if err := rows.Err(); err != nil || found == 0 && table != "device_lists" && table != "session_changes" {
			t.Errorf("table %s is empty, %v", table, err)
		}
	}
	store, err := blob.Open(t.Context(), s.Config(t).Blob)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := d.Query(t.Context(), "SELECT sha256, size FROM media WHERE sha256 <> ''")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var hash string
		var size int64
		if err := rows.Scan(&hash, &size); err != nil {
			t.Fatal(err)
		}
		if info, err := store.Stat(t.Context(), "media/"+hash); err != nil || info.Size != size {
			t.Errorf("media %s: %+v, %v", hash, info, err)
		}
	}
	if err := rows.Err(); err != nil {
		t.Error(err)
	}
}

func TestBackupAndRestore(t *testing.T) {
	for _, from := range []string{"sqlite", "postgres"} {
		t.Run(from, func(t *testing.T) {
			source := opstest.NewSite(t, from)
			source.Start(t)
			w := makeWorld(t, source)
			dir := t.TempDir()
			stop := w.busy(t)
			live := filepath.Join(dir, "live.tar.zst")
			before := w.done.Load()
			for range 4 { // at several moments
				t.Log(source.MustRun(t, "backup", live))
				target := opstest.NewSite(t, "sqlite")
				target.MustRun(t, "restore", live)
				invariants(t, target)
			}
			t.Logf("%d rounds of requests while backups ran", w.done.Load()-before)
			if from == "postgres" {
				if out, err := source.Run(t, "restore", live, "--replace"); err == nil || !strings.Contains(out, "processes still run") {
					t.Errorf("the database of a living fleet was replaced: %v\n%s", err, out)
				}
			} else if out, err := source.Run(t, "restore", live, "--replace"); err == nil || !strings.Contains(out, "another process uses") {
				t.Errorf("the database of a living server was replaced: %v\n%s", err, out)
			}
			stop()
			since := w.users[0].Do(t, "GET", v3+"/sync?timeout=0", nil).Get("next_batch").String()
			want := w.view(t, source)
			source.Stop()
			last := filepath.Join(dir, "last.tar.zst")
			t.Log(source.MustRun(t, "backup", last, "--with-secrets"))
			source.MustRun(t, "backup", "--verify", last)
			named(t, source)
			rows := content(t, source)
			for _, to := range []string{"sqlite", "postgres"} {
				t.Run("live to "+to, func(t *testing.T) {
					target := opstest.NewSite(t, to)
					target.MustRun(t, "restore", live)
					invariants(t, target)
					target.Start(t)
					alive(t, target, w)
				})
				t.Run("last to "+to, func(t *testing.T) {
					target := opstest.NewSite(t, to)
					t.Log(target.MustRun(t, "restore", last))
					same(t, "the database and the blobs", rows, content(t, target))
					target.Start(t)
					same(t, "what users see", strings.Split(want, "\n"), strings.Split(w.view(t, target), "\n"))
					fresh := w.users[0].At(target).Do(t, "GET", v3+"/sync?timeout=0&since="+url.QueryEscape(since), nil)
					if n := len(fresh.Get("rooms.join").Map()); n != len(w.rooms) {
						t.Errorf("a client of before was given %d rooms afresh: %.300s", n, fresh.Raw)
					}
					alive(t, target, w)
				})
				t.Run("moved to "+to, func(t *testing.T) {
					target := opstest.NewSite(t, to)
					if out, err := target.Run(t, "restore", live, "--continue"); err == nil || !strings.Contains(out, "--continue") {
						t.Errorf("a backup of a living server is none to go on from: %v\n%s", err, out)
					}
					target.MustRun(t, "restore", last, "--continue")
					target.Start(t)
					u := w.users[0].At(target)
					event := u.Do(t, "PUT", inRoom(w.rooms[0], "send", "m.room.message", "moved"),
						map[string]string{"msgtype": "m.text", "body": "moved"}).Get("event_id").String()
					news := u.Do(t, "GET", v3+"/sync?timeout=0&since="+url.QueryEscape(since), nil)
					joined := news.Get("rooms.join").Map()
					if events := joined[w.rooms[0]].Get("timeline.events").Array(); len(joined) != 1 || len(events) != 1 ||
						events[0].Get("event_id").String() != event {
						t.Errorf("a client of before was not given the one new event: %.400s", news.Raw)
					}
				})
			}
		})
	}
}

// alive holds that a restored server takes everything, and gives no position twice.
func alive(t *testing.T, s *opstest.Site, w *world) {
	t.Helper()
	own := &world{users: w.users, rooms: w.rooms}
	own.media.Store(&[]string{})
	for n := range 3 {
		for i, u := range w.users {
			if err := own.act(t.Context(), u.At(s), i, 1_000_000+n); err != nil {
				t.Fatal(err)
			}
		}
	}
	page := w.users[0].At(s).Do(t, "GET", inRoom(w.rooms[0], "messages")+"?dir=b&limit=5", nil)
	if len(page.Get("chunk").Array()) != 5 {
		t.Errorf("/messages: %s", page.Raw)
	}
	invariants(t, s)
}

func TestBackupsAreRefusedWithReason(t *testing.T) {
	s := opstest.NewSite(t, "sqlite")
	if out, err := s.Run(t, "backup", filepath.Join(t.TempDir(), "b")); err == nil || !strings.Contains(out, "there is no server") {
		t.Errorf("a backup of nothing: %v\n%s", err, out)
	}
	s.Start(t)
	s.Register(t, "somebody")
	s.Stop()
	plain, secret := filepath.Join(t.TempDir(), "plain"), filepath.Join(t.TempDir(), "secret")
	s.MustRun(t, "backup", plain)
	if out := s.MustRun(t, "backup", secret, "--with-secrets"); !strings.Contains(out, "WARNING") {
		t.Errorf("no warning: %s", out)
	}
	for name, test := range map[string]struct {
		file    string
		environ []string
		want    string
	}{
		"no secret":        {plain, []string{"LYCEUM_FLEET_SECRET="}, "none is configured"},
		"another secret":   {plain, []string{"LYCEUM_FLEET_SECRET=quite another secret"}, "another secret"},
		"another name":     {plain, []string{"LYCEUM_SERVER_NAME=other.test"}, "server.name"},
		"secret in backup": {secret, []string{"LYCEUM_FLEET_SECRET="}, ""},
		"same secret":      {plain, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			target := opstest.NewSite(t, "sqlite")
			target.Environ = append(target.Environ, test.environ...)
			config := filepath.Join(t.TempDir(), "config.yaml")
			out, err := target.Run(t, "restore", test.file, "--write-config", config)
			if test.want != "" {
				if err == nil || !strings.Contains(out, test.want) {
					t.Fatalf("expected %q: %v\n%s", test.want, err, out)
				}
				opstest.NotCreated(t, target.Data)
				return
			}
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			text, err := os.ReadFile(config)
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(text), opstest.Secret) != (test.file == secret) || !strings.Contains(string(text), "backup.test") {
				t.Errorf("the configuration:\n%s", text)
			}
			if _, err := fleet.Load(conf.Sources{File: config, Environ: []string{}}); err != nil {
				t.Errorf("the configuration can not be read: %v", err)
			}
			target.Start(t)
			target.Stop()
			if out, err := target.Run(t, "restore", test.file); err == nil || !strings.Contains(out, "--replace") {
				t.Errorf("restored over a server: %v\n%s", err, out)
			}
			target.MustRun(t, "restore", test.file, "--replace")
		})
	}
}

// TestARestoreReplacesNoOtherServer, whose data and secret would be gone.
func TestARestoreReplacesNoOtherServer(t *testing.T) {
	file := filepath.Join(t.TempDir(), "backup.tar.zst")
	source := opstest.NewUpSite(t).Called("one.test")
	source.MustRun(t, "user", "add", "alice")
	source.MustRun(t, "backup", file, "--with-secrets")
	address := "LYCEUM_DATABASE_URL=" + enginestest.TestPostgres(t)
	for engine, other := range map[string]*opstest.Site{"sqlite": opstest.NewUpSite(t), "postgres": opstest.NewUpSite(t, address)} {
		other.Called("other.test").MustRun(t, "user", "add", "bob")
		other.Called("")
		secret, err := os.ReadFile(filepath.Join(other.Data, "secret"))
		if err != nil {
			t.Fatal(err)
		}
		for _, more := range [][]string{nil, {"--new-secret"}} {
			words := []string{"server other.test", "backup of one.test"}
			other.MustFail(t, words, append([]string{"restore", file, "--replace"}, more...)...)
		}
		if now, err := os.ReadFile(filepath.Join(other.Data, "secret")); err != nil || string(now) != string(secret) {
			t.Errorf("%s: the secret was changed, %v", engine, err)
		}
		if out := other.MustRun(t, "user", "list"); !strings.Contains(out, "@bob:other.test") {
			t.Errorf("%s: %s", engine, out)
		}
	}
	source.MustRun(t, "restore", file, "--replace")

	// The directory of a server over PostgreSQL, with its secret, and an empty database.
	other := opstest.NewUpSite(t, address).Without(address)
	other.Data = filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(other.Data, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"engine": "postgres\nother.test\n", "secret": strings.Repeat("other", 10)} {
		if err := os.WriteFile(filepath.Join(other.Data, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	other.Environ = append(other.Environ, "LYCEUM_SERVER_DATA="+other.Data, "LYCEUM_DATABASE_URL="+enginestest.TestPostgres(t))
	other.MustFail(t, []string{other.Data, "server other.test", "backup of one.test"}, "restore", file)
	if err := os.WriteFile(filepath.Join(other.Data, "engine"), []byte("postgres\none.test\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	other.MustRun(t, "restore", file) // its database was lost
}

// TestBackupKnowsEveryColumn holds that nobody adds a column of a type that a backup does not know, or a sequence.
func TestBackupKnowsEveryColumn(t *testing.T) {
	for _, engine := range []string{"sqlite", "postgres"} {
		s := opstest.NewSite(t, engine)
		s.Start(t)
		s.Stop()
		d := s.Database(t)
		tables, err := d.Tables(t.Context(), d)
		if err != nil || len(tables) < 40 {
			t.Fatalf("%d tables, %v", len(tables), err)
		}
		for _, table := range tables {
			for _, c := range table.Columns {
				if c.Kind == "" {
					t.Errorf("%s: column %s of table %s has a type that package backup does not know: add it to kinds in platform/db", engine,
						c.Name, table.Name)
				}
			}
		}
		if engine == "postgres" {
			var n int
			if err := d.QueryRow(t.Context(), "SELECT COUNT(*) FROM information_schema.sequences "+
				"WHERE sequence_schema = current_schema()").Scan(&n); err != nil || n > 0 {
				t.Errorf("%d sequences, %v: a restore does not carry them", n, err)
			}
		}
	}
}
