package devices

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"

	"lyceum/platform/db/dbfault"
	"lyceum/platform/db/dbtest"
	"lyceum/platform/engines/enginestest"
	"lyceum/platform/role/roletest"
)

func session(first, forwarded int, verified bool, mark string) obj {
	return obj{"first_message_index": first, "forwarded_count": forwarded, "is_verified": verified, "session_data": obj{"mark": mark}}
}

func (l *login) newBackup() string {
	l.n.t.Helper()
	return l.do("POST /room_keys/version", obj{"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": obj{"public_key": "abc"}}).
		want(200).
		get("version").
		String()
}

func TestBackupVersions(t *testing.T) {
	run(t, func(t *testing.T, n *node) {
		alice, bob := n.register("alice"), n.register("bob")
		alice.do("GET /room_keys/version", nil).want(404, "M_NOT_FOUND")
		one := alice.newBackup()
		x := alice.do("GET /room_keys/version", nil).want(200)
		if x.get("version").String() != one || x.get("auth_data.public_key").String() != "abc" || x.get("count").Int() != 0 ||
			!x.get("etag").Exists() {
			t.Errorf("version: %s", x.body)
		}
		bob.do("GET /room_keys/version/"+one, nil).want(404, "M_NOT_FOUND")
		bob.do("DELETE /room_keys/version/"+one, nil).want(404, "M_NOT_FOUND")
		change := func(algorithm, version string) obj {
			return obj{"algorithm": algorithm, "auth_data": obj{"public_key": "def"}, "version": version}
		}
		alice.do("PUT /room_keys/version/"+one, change("other", one)).want(400, "M_INVALID_PARAM")
		alice.do("PUT /room_keys/version/"+one, change("m.megolm_backup.v1.curve25519-aes-sha2", "77")).want(400, "M_INVALID_PARAM")
		alice.do("PUT /room_keys/version/77", change("m.megolm_backup.v1.curve25519-aes-sha2", "77")).want(404, "M_NOT_FOUND")
		alice.do("PUT /room_keys/version/"+one, change("m.megolm_backup.v1.curve25519-aes-sha2", one)).want(200)
		if x = alice.do("GET /room_keys/version/"+one, nil).want(200); x.get("auth_data.public_key").String() != "def" {
			t.Errorf("after the change: %s", x.body)
		}
		two := alice.newBackup()
		if one == two {
			t.Fatal("two versions have one number")
		}
		x = alice.do("PUT /room_keys/keys/!r:x/s?version="+one, session(1, 0, false, "a")).want(403, "M_WRONG_ROOM_KEYS_VERSION")
		if x.get("current_version").String() != two {
			t.Errorf("%s", x.body)
		}
		alice.do("PUT /room_keys/keys/!r:x/s?version=99", session(1, 0, false, "a")).want(404, "M_NOT_FOUND")
		for _, other := range []string{"0" + two, "+" + two, " " + two, two + ".0"} {
			alice.do("PUT /room_keys/keys/!r:x/s?version="+url.QueryEscape(other), session(1, 0, false, "a")).want(404, "M_NOT_FOUND")
			alice.do("GET /room_keys/keys?version="+url.QueryEscape(other), nil).want(404, "M_NOT_FOUND")
			alice.do("GET /room_keys/version/"+url.PathEscape(other), nil).want(404, "M_NOT_FOUND")
		}
		alice.do("PUT /room_keys/keys/!r:x/s", session(1, 0, false, "a")).want(400, "M_MISSING_PARAM")
		alice.do("DELETE /room_keys/version/"+two, nil).want(200)
		alice.do("GET /room_keys/version/"+two, nil).want(404)
		if x = alice.do("GET /room_keys/version", nil).want(200); x.get("version").String() != one {
			t.Errorf("after the deletion: %s", x.body)
		}
		if three := alice.newBackup(); three == two {
			t.Error("a number is used again")
		}
		alice.do("POST /room_keys/version", obj{"algorithm": "x"}).want(400, "M_MISSING_PARAM")
	})
}

func TestBackupKeys(t *testing.T) {
	run(t, func(t *testing.T, n *node) {
		alice, bob := n.register("alice"), n.register("bob")
		v := alice.newBackup()
		if x := alice.do("GET /room_keys/keys?version="+v, nil).want(200); string(x.body) != `{"rooms":{}}` {
			t.Errorf("an empty backup: %s", x.body)
		}
		if x := alice.do("GET /room_keys/keys/!r:x?version="+v, nil).want(200); string(x.body) != `{"sessions":{}}` {
			t.Errorf("an empty room: %s", x.body)
		}
		rooms := obj{
			"!a:x": obj{"sessions": obj{"s1": session(5, 5, false, "a1"), "s2": session(0, 0, true, "a2")}},
			"!b:x": obj{"sessions": obj{"s1": session(0, 0, false, "b1")}},
		}
		x := alice.do("PUT /room_keys/keys?version="+v, obj{"rooms": rooms}).want(200)
		if x.get("count").Int() != 3 {
			t.Errorf("count: %s", x.body)
		}
		etag := x.get("etag").String()
		if again := alice.do("PUT /room_keys/keys?version="+v, obj{"rooms": rooms}).want(200); again.get("etag").String() != etag ||
			again.get("count").Int() != 3 {
			t.Errorf("the same keys again: %s", again.body)
		}
		x = alice.do("GET /room_keys/keys?version="+v, nil).want(200)
		if x.get(`rooms.!a\:x.sessions.s2.session_data.mark`).String() != "a2" || x.get(`rooms.!b\:x.sessions.s1.is_verified`).Raw != "false" ||
			x.get(`rooms.!a\:x.sessions.s1.first_message_index`).Int() != 5 {
			t.Errorf("all keys: %s", x.body)
		}
		bob.do("GET /room_keys/keys?version="+v, nil).want(404, "M_NOT_FOUND")
		for _, step := range []struct {
			first, forwarded int
			verified         bool
			mark             string
			replaces         bool
		}{
			{6, 0, false, "later", false},
			{5, 6, false, "further", false},
			{5, 5, false, "equal", false},
			{5, 4, false, "nearer", true},
			{4, 9, false, "earlier", true},
			{9, 9, true, "verified", true},
			{0, 0, false, "unverified", false},
			{8, 9, true, "verified and earlier", true},
		} {
			alice.do("PUT /room_keys/keys/!a:x/s1?version="+v, session(step.first, step.forwarded, step.verified, step.mark)).want(200)
			got := alice.do("GET /room_keys/keys/!a:x/s1?version="+v, nil).want(200).get("session_data.mark").String()
			if (got == step.mark) != step.replaces {
				t.Errorf("%s: the backup has %s", step.mark, got)
			}
		}
		alice.do("GET /room_keys/keys/!a:x/none?version="+v, nil).want(404, "M_NOT_FOUND")
		for _, bad := range []string{`{"sessions":{"s":{}}}`, `{"sessions":{"s":null}}`, `{"sessions":{"s":{"first_message_index":-1,` +
			`"forwarded_count":0,"is_verified":true,"session_data":{}}}}`} {
			alice.do("PUT /room_keys/keys/!a:x?version="+v, bad).want(400, "M_BAD_JSON")
		}
		if x = alice.do("DELETE /room_keys/keys/!a:x/s1?version="+v, nil).want(200); x.get("count").Int() != 2 || x.get("etag").String() == etag {
			t.Errorf("one deleted: %s", x.body)
		}
		if x = alice.do("DELETE /room_keys/keys/!a:x?version="+v, nil).want(200); x.get("count").Int() != 1 {
			t.Errorf("a room deleted: %s", x.body)
		}
		if x = alice.do("DELETE /room_keys/keys?version="+v, nil).want(200); x.get("count").Int() != 0 {
			t.Errorf("all deleted: %s", x.body)
		}
		alice.do("DELETE /room_keys/keys?version=99", nil).want(404, "M_NOT_FOUND")
	})
}

func TestLargeBackupIsSentInPages(t *testing.T) {
	run(t, func(t *testing.T, n *node) {
		alice := n.register("alice")
		v := alice.newBackup()
		var wg sync.WaitGroup
		for room := range 3 {
			wg.Go(func() {
				sessions := obj{}
				for i := range backupPageSize/2 + 1 {
					sessions[fmt.Sprintf("session%d", i)] = session(i, 0, true, "x")
				}
				alice.do(fmt.Sprintf("PUT /room_keys/keys/!%d:x?version=%s", room, v), obj{"sessions": sessions}).want(200)
			})
		}
		wg.Wait()
		x := alice.do("GET /room_keys/keys?version="+v, nil).want(200)
		total := 0
		for _, room := range x.get("rooms").Map() {
			total += len(room.Get("sessions").Map())
		}
		count := alice.do("GET /room_keys/version", nil).want(200).get("count").Int()
		if total != 3*(backupPageSize/2+1) || int(count) != total {
			t.Errorf("%d sessions came, the count is %d", total, count)
		}
		one := alice.do("GET /room_keys/keys/!1:x?version="+v, nil).want(200)
		if len(one.get("sessions").Map()) != backupPageSize/2+1 {
			t.Errorf("a room has %d sessions", len(one.get("sessions").Map()))
		}
	})
}

// TestWhatAPageOfABackupHoldsIsBounded: sessions and the description of a backup have a size.
func TestWhatAPageOfABackupHoldsIsBounded(t *testing.T) {
	run(t, func(t *testing.T, n *node) {
		alice := n.register("alice")
		v := alice.newBackup()
		alice.do("PUT /room_keys/keys/!r:x/s?version="+v, session(0, 0, true, strings.Repeat("x", maxSessionData))).want(413, "M_TOO_LARGE")
		alice.do("PUT /room_keys/keys/!r:x/s?version="+v, session(0, 0, true, strings.Repeat("x", maxSessionData-100))).want(200)
		large := obj{"algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": obj{"x": strings.Repeat("x", maxAuthData)}}
		alice.do("POST /room_keys/version", large).want(413, "M_TOO_LARGE")
		alice.do("PUT /room_keys/version/"+v, large).want(413, "M_TOO_LARGE")
	})
}

// Requests for backups that come at once get a version each, and the last one is current.
func TestBackupVersionsAtOnce(t *testing.T) {
	const rounds, callers = 6, 16
	fleet(t, func(t *testing.T, one, two *node) {
		failed := 0
		for round := range rounds {
			alice := one.register(fmt.Sprint("alice", round))
			answers := make([]answer, callers)
			roletest.AtOnce(callers, func(i int) {
				answers[i] = alice.on([]*node{one, two}[i%2]).do("POST /room_keys/version", obj{"algorithm": "a", "auth_data": obj{"n": i}})
			})
			given := map[string]bool{}
			for _, x := range answers {
				if x.status == 200 {
					given[x.get("version").String()] = true
				}
			}
			if len(given) != callers || alice.do("GET /room_keys/version", nil).want(200).get("version").String() != fmt.Sprint(callers) {
				failed++
			}
		}
		if failed > 0 {
			t.Errorf("in %d of %d rounds not each of %d requests got a version of its own", failed, rounds, callers)
		}
	})
}

// A version whose commit is not confirmed is the one that its client gets, and the only one.
func TestABackupVersionWhoseCommitIsNotConfirmed(t *testing.T) {
	for _, fault := range []dbfault.Fault{dbfault.Before, dbfault.After, dbfault.Late, dbfault.LateEnd} {
		t.Run(fault.String(), func(t *testing.T) {
			url := enginestest.TestPostgres(t)
			dbtest.Open(t, url, allMigrations...)
			proxy, d := behind(t, url)
			p := roletest.New(t, d)
			n := wire(t, p)
			roletest.Start(t, p)
			t.Cleanup(proxy.Open)
			alice := n.register("alice")
			proxy.Also(regexp.MustCompile(`INSERT INTO backup_versions`))
			proxy.Shut()
			made := make(chan answer, 1)
			go func() {
				made <- alice.do("POST /room_keys/version", obj{"algorithm": "m.x", "auth_data": obj{"public_key": "k"}})
			}()
			roletest.Until(t, "the commit comes", func() bool { return len(proxy.Held()) > 0 })
			proxy.Held()[0].Decide(fault)
			proxy.Open()
			if got := (<-made).want(200).get("version").String(); got != "1" {
				t.Errorf("the version is %s", got)
			}
			if got := n.number(`SELECT COUNT(*) FROM backup_versions`); got != 1 {
				t.Errorf("there are %d versions", got)
			}
		})
	}
}
