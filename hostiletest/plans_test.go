package hostiletest_test

import (
	"context"
	stdjson "encoding/json"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"lyceum/fleettest"
	"lyceum/platform/db"
	"lyceum/platform/db/dbfault"
	"lyceum/platform/engines/enginestest"
)

// small are the tables that do not grow with users, rooms or events: they are read as a whole.
var small = map[string]string{
	"fleet": "a row for each fact of the fleet", "secrets": "a row for each key of the server",
	"machines": "a row for each process", "leases": "a row for each shard",
	"migrations": "a row for each step", "migration_needs": "a row for each step", "search_positions": "a row for each shard",
	"used_nonces": "rows for a minute, of registrations by the shared secret", "room_upgrades": "rows of upgrades that are under way",
	"old_profiles": "rows for seconds, of users who were renamed while they joined",
}

// wholly are statements that read a table from end to end, by a part of their text, and why they may.
var wholly = map[string]string{
	"FROM users WHERE user_id LIKE $1 LIMIT 1":                 "once, when a database of an old version gets its name",
	"FROM users ORDER BY created_ms, user_id LIMIT 1":          "once, when a database of an old version gets its name",
	"WHERE p.name = 'displayname' AND n.user_id IS NULL LIMIT": "in the background, once at each start",
	"FROM reports WHERE event_id": "an administrator pages through what was reported, and sees how " +
		"many there are",
	"SELECT MIN(next_ms) FROM push_outbox WHERE shard = $1": "SQLite takes the first row of the index",
}

// TestStatementsReadByAnIndex takes every statement that a process sends while each route is asked, and has both engines
// explain it: none may read all of a table that grows.
//
// The statements are those of a process over PostgreSQL, whose protocol carries them as they are written. SQLite gets
// the same ones but for those that ask for the engine, of which no domain has any.
func TestStatementsReadByAnIndex(t *testing.T) {
	t.Parallel()
	p, err := dbfault.NewProxy(enginestest.TestPostgres(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	var mu sync.Mutex
	sent := map[string]bool{}
	p.HoldAnswers(func(r dbfault.Read) bool {
		mu.Lock()
		defer mu.Unlock()
		sent[r.Query] = true
		return false
	})
	f := fleettest.StartAlone(t, p.URL(), "LYCEUM_ACCOUNTS_SHARED_SECRET="+secret)
	eachRoute(t, f)
	p.LetAnswers()
	mu.Lock()
	defer mu.Unlock()
	if len(sent) < 300 {
		t.Errorf("saw %d statements only", len(sent))
	}
	open := func(url string, params map[string]string) *db.DB {
		d, err := db.Open(t.Context(), url, db.Options{Params: params})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = d.Close() })
		return d
	}
	sqlite := newPlanner(t, open(start(t, "sqlite").Database, nil))
	postgres := open(p.URL(), map[string]string{"enable_seqscan": "off", "plan_cache_mode": "force_generic_plan"})
	explained, needed := 0, map[string]bool{}
	for _, query := range slices.Sorted(maps.Keys(sent)) {
		if !reads.MatchString(query) || ofPostgres.MatchString(query) {
			continue
		}
		explained++
		var allowed string
		for part := range wholly {
			if strings.Contains(query, part) {
				allowed = part
			}
		}
		found := append(sqlite.whole(t.Context(), query), unindexed(t.Context(), postgres, query)...)
		switch {
		case allowed != "":
			needed[allowed] = needed[allowed] || len(found) > 0
		case len(found) > 0:
			t.Errorf("a statement reads too much: %s\n%s", strings.Join(found, "; "), query)
		}
	}
	t.Logf("explained %d of %d statements", explained, len(sent))
	for part, is := range needed {
		if !is {
			t.Errorf("%q reads no table as a whole: take it from the list", part)
		}
	}
}

// eachRoute asks each route as somebody who succeeds, and then what the table of routes does not come to.
func eachRoute(t *testing.T, f *fleettest.Alone) {
	shared := newWorld(t, f.Fleet)
	for _, r := range routes(t) {
		for _, e := range table[r.String()] {
			for _, who := range []string{"owner", "admin", "member", "invited", "outsider", "nobody"} {
				if want := e.expected(r, who); want != "200" && want != "" {
					continue
				}
				w := shared
				if r.method != "GET" {
					w = newWorld(t, f.Fleet)
				}
				w.judge(r, e, who, w.ask(r, e, who))
				break
			}
		}
	}
	walk(t, f)
}

// walk does what has an answer to an earlier request in it.
func walk(t *testing.T, f *fleettest.Alone) {
	w := newWorld(t, f.Fleet)
	owner, member, room := w.people["owner"], w.people["member"], w.names["roomID"]
	auth := obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": owner.Name()}, "password": "owner-password"}
	auth["refresh_token"] = true
	pair := owner.Do("POST", v3+"/login", auth)
	delete(auth, "refresh_token")
	again := *owner
	for range 2 {
		pair = again.Do("POST", v3+"/refresh", obj{"refresh_token": pair.Get("refresh_token").String()})
		again.Token = pair.Get("access_token").String()
		again.Do("GET", v3+"/account/whoami", nil)
	}
	again.Do("POST", v3+"/logout", obj{})

	owner.Do(
		"GET",
		v3+"/rooms/"+url.PathEscape(
			room,
		)+"/messages?dir=f&limit=2&filter="+url.QueryEscape(
			`{"types":["m.room.message"],"senders":["@x:y"],"not_types":["x"],"contains_url":true}`,
		),
		nil,
	)
	page := owner.Do("GET", w.room("messages")+"?dir=b&limit=2", nil)
	owner.Do("GET", w.room("messages")+"?dir=b&limit=2&from="+page.Get("end").String(), nil)
	for _, filter := range []string{`{}`, `{"room":{"include_leave":true,"timeline":{"limit":1,"types":["m.room.message"]},` +
		`"state":{"lazy_load_members":true}}}`} {
		since := owner.Sync("", 0).Get("next_batch").String()
		owner.Send(room, w.transaction(), "text")
		member.Do("POST", w.room("receipt", "m.read", w.names["eventID"]), obj{})
		member.Do("PUT", v3+"/sendToDevice/test/"+w.transaction(), obj{"messages": obj{owner.ID: obj{"*": obj{}}}})
		owner.Do("GET", v3+"/sync?since="+since+"&filter="+url.QueryEscape(filter), nil)
		owner.Do("GET", v3+"/sync?full_state=true&since="+since+"&filter="+url.QueryEscape(filter), nil)
		owner.Do("GET", v3+"/keys/changes?from="+since+"&to="+owner.Sync("", 0).Get("next_batch").String(), nil)
	}
	relations := v1 + "/rooms/" + url.PathEscape(room) + "/relations/" + url.PathEscape(w.names["eventID"])
	for _, path := range []string{"", "/m.thread", "/m.thread/m.room.message"} {
		for _, query := range []string{"?dir=f", "?dir=b&recurse=true", "?from=" + page.Get("start").String()} {
			owner.Do("GET", relations+path+query, nil)
		}
	}
	found := obj{
		"search_term":   mark,
		"order_by":      "recent",
		"filter":        obj{"limit": 1, "rooms": []string{room}, "types": []string{"m.room.message"}, "senders": []string{owner.ID}},
		"event_context": obj{},
	}
	owner.Do("POST", v3+"/search", obj{"search_categories": obj{"room_events": found}})
	delete(found, "order_by")
	delete(found, "filter")
	owner.Do("POST", v3+"/search", obj{"search_categories": obj{"room_events": found}})
	owner.Do("POST", v3+"/user_directory/search", obj{"search_term": "the owner", "limit": 2})
	owner.Do("POST", v3+"/publicRooms", obj{"filter": obj{"generic_search_term": "a"}})
	owner.Do("PUT", w.room("redact", w.names["thread"], w.transaction()), obj{})

	owner.Do("POST", v3+"/account/password", obj{"new_password": "another-password", "logout_devices": true, "auth": auth})
	auth["password"] = "another-password"
	owner.Do("POST", v3+"/logout/all", obj{})
	login := owner.Do("POST", v3+"/login", auth)
	owner.Token = login.Get("access_token").String()
	owner.Do("POST", v3+"/account/deactivate", obj{"erase": true, "auth": auth})
}

var (
	// reads finds statements that look for rows; those that only add some take a key.
	reads      = regexp.MustCompile(`(?s)^UPDATE \w|^(WITH|SELECT|DELETE)\b.*\b(FROM|UPDATE) \w|^INSERT .* SELECT .* FROM (\w+ |\w+$)`)
	ofPostgres = regexp.MustCompile(`\bpg_|information_schema|array_position|clock_timestamp`)
	fenced     = regexp.MustCompile(`(?s)^WITH found AS \((.*?)( RETURNING 1)?\) SELECT lyceum_fence\(.*$`)
)

// planner has SQLite explain statements.
type planner struct {
	db      *db.DB
	tables  []string
	partial []string // indexes of some rows: which those are is what makes them few
}

func newPlanner(t *testing.T, d *db.DB) *planner {
	t.Helper()
	tables, err := db.Texts(d.Query(t.Context(), `SELECT name FROM sqlite_master WHERE type = 'table'`))
	if err != nil {
		t.Fatal(err)
	}
	partial, err := db.Texts(d.Query(t.Context(), `SELECT name FROM sqlite_master WHERE type = 'index' AND sql LIKE '%) WHERE %'`))
	if err != nil || len(tables) < 30 || len(partial) < 5 {
		t.Fatalf("found the tables %v and the partial indexes %v: %v", tables, partial, err)
	}
	return &planner{d, tables, partial}
}

// grows tells whether a name in a statement, or what it stands for there, is a table that grows.
func (p *planner) grows(query, name string) bool {
	if !slices.Contains(p.tables, name) {
		m := regexp.MustCompile(`\b(\w+) (?:AS )?`+regexp.QuoteMeta(name)+`\b`).FindAllStringSubmatch(query, -1)
		i := slices.IndexFunc(m, func(m []string) bool { return slices.Contains(p.tables, m[1]) })
		if i < 0 {
			return false // the rows of a list, or of a part of the statement
		}
		name = m[i][1]
	}
	return small[name] == ""
}

var (
	step   = regexp.MustCompile(`^(SCAN|SEARCH) (\w+)(?: USING (.*?INDEX|INTEGER PRIMARY KEY)(?: (\w+))?)?(?: \((.*)\))?`)
	narrow = regexp.MustCompile(`\b(event_id|target) = (ANY\()?\$`) // they choose one event, or what is about it
)

// whole says what SQLite reads as a whole: a table, all rows of a shard, or more than the events that it is asked about.
func (p *planner) whole(ctx context.Context, query string) (found []string) {
	query = fenced.ReplaceAllString(query, "$1")
	steps, err := db.List(func(row db.Row) (text string, err error) {
		var id, parent, unused int
		err = row.Scan(&id, &parent, &unused, &text)
		return text, err
	})(p.db.Query(ctx, "EXPLAIN QUERY PLAN "+query, make([]any, arguments(query))...))
	if err != nil {
		return []string{"it has no plan: " + err.Error()}
	}
	for _, text := range steps {
		m := step.FindStringSubmatch(text)
		if m == nil || !p.grows(query, m[2]) {
			continue
		}
		if !slices.Contains(p.partial, m[4]) && (m[1] == "SCAN" || m[5] == "shard=?") || strings.Contains(m[3], "AUTOMATIC") {
			found = append(found, text)
		}
	}
	for _, m := range narrow.FindAllStringSubmatch(query, -1) {
		if all := strings.Join(steps, "; "); !strings.Contains(all, m[1]+"=?") {
			found = append(found, "not by "+m[1]+": "+all)
		}
	}
	return found
}

// node is a part of a plan of PostgreSQL.
type node struct {
	Type  string `json:"Node Type"`
	Table string `json:"Relation Name"`
	Plans []node
}

// unindexed finds tables that no index of PostgreSQL serves: it may read none from end to end, and does. Which index it
// takes tells nothing, as it chooses by how few rows there are here.
func unindexed(ctx context.Context, d *db.DB, query string) (found []string) {
	var out []struct{ Plan node }
	nulls := ""
	if n := arguments(query); n > 0 {
		nulls = "(" + strings.TrimSuffix(strings.Repeat("NULL,", n), ",") + ")"
	}
	err := d.Tx(ctx, func(tx *db.Tx) error {
		if _, err := tx.Exec(ctx, "PREPARE planned AS "+query); err != nil {
			return err
		}
		var text string
		if err := tx.QueryRow(ctx, "EXPLAIN (FORMAT JSON) EXECUTE planned"+nulls).Scan(&text); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "DEALLOCATE planned"); err != nil {
			return err
		}
		return stdjson.Unmarshal([]byte(text), &out)
	})
	if err != nil || len(out) != 1 {
		return []string{fmt.Sprint("it has no plan: ", err)}
	}
	var look func(n node)
	look = func(n node) {
		if n.Type == "Seq Scan" && small[n.Table] == "" {
			found = append(found, "Seq Scan of "+n.Table)
		}
		for _, part := range n.Plans {
			look(part)
		}
	}
	look(out[0].Plan)
	return found
}

var argument = regexp.MustCompile(`\$(\d+)`)

// arguments is the number of arguments of a statement.
func arguments(query string) (n int) {
	for _, m := range argument.FindAllStringSubmatch(query, -1) {
		k, _ := strconv.Atoi(m[1]) // digits
		n = max(n, k)
	}
	return n
}
