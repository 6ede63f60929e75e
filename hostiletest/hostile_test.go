package hostiletest_test

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"

	"lyceum/fleettest"
)

// members gives the people of a list of names and groups.
func members(list string) []string {
	var out []string
	for _, name := range strings.Fields(list) {
		if group, ok := groups[name]; ok {
			out = append(out, strings.Fields(group)...)
		} else {
			out = append(out, name)
		}
	}
	return out
}

// expected is what somebody gets: "200", an error, or "" where any answer of the client's fault or success will do.
func (e entry) expected(r route, who string) string {
	if r.auth != "none" {
		switch {
		case who == "stranger":
			return "401 M_UNKNOWN_TOKEN"
		case who == "nobody" && r.auth != "optional":
			return "401 M_MISSING_TOKEN"
		}
	}
	if want, ok := e.but[who]; ok {
		return want
	}
	switch {
	case e.theirs:
		return ""
	case slices.Contains(members(e.may), who):
		return "200"
	}
	return e.deny
}

func (e entry) maySee(who string) bool {
	sees := e.sees
	if sees == "" {
		sees = e.may
	}
	return who == "owner" || who == "device" || slices.Contains(members(sees), who)
}

// ask sends the request of an entry as somebody.
func (w *world) ask(r route, e entry, who string) answer {
	w.t.Helper()
	u := w.people[who]
	path := w.path(r.path, e.with)
	if e.query != "" {
		path += "?" + e.query
	}
	var body any
	if e.body != nil {
		body = e.body(w, u)
	}
	status, got := u.Call(r.method, path, body)
	return answer{status, got}
}

// judge compares what somebody got with what was expected.
func (w *world) judge(r route, e entry, who string, got answer) {
	w.t.Helper()
	want := e.expected(r, who)
	switch {
	case got.status >= 500:
		w.t.Errorf("%s as %s: %s", r, who, got.body.Raw)
	case want == "" && got.status < 500:
	case got.String() != want:
		w.t.Errorf("%s %v as %s: expected %s, found %.300s", r, e.with, who, want, fmt.Sprint(got, " ", got.body.Raw))
	}
	if strings.Contains(got.body.Raw, mark) && !e.maySee(who) {
		w.t.Errorf("%s %v as %s gave a secret: %.600s", r, e.with, who, got.body.Raw)
	}
}

// TestEveryRouteHasAnEntry: whose it is.
func TestEveryRouteHasAnEntry(t *testing.T) {
	known := map[string]bool{}
	for _, r := range routes(t) {
		known[r.String()] = true
		if len(table[r.String()]) == 0 {
			t.Errorf("%s has no entry in the table: say who may call it, and what the others get", r)
		}
		old := func(e entry) bool { return e.with["eventID"] == "=old" }
		if r.method == "GET" && strings.Contains(r.path, "{eventID}") && !slices.ContainsFunc(table[r.String()], old) {
			t.Errorf("%s has no entry for an event that those who left have seen: one who has forgotten the room may not", r)
		}
	}
	for name := range table {
		if !known[name] {
			t.Errorf("%s is in the table, and not in manual/routes.md", name)
		}
	}
	for _, names := range [][]string{slices.Collect(maps.Keys(largest)), slices.Collect(maps.Keys(valid))} {
		for _, name := range names {
			if !known[name] {
				t.Errorf("%s has a body in the limits test, and is not in manual/routes.md", name)
			}
		}
	}
}

// TestNobodyGetsWhatIsOthers asks each route as everybody. What is refused changes nothing.
func TestNobodyGetsWhatIsOthers(t *testing.T) {
	for _, engine := range engines {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			f := start(t, engine)
			refused(t, f)
			if engine == "sqlite" { // the same code, and each makes a room of its own
				allowed(t, f)
			}
		})
	}
}

// refused asks all that must be refused, in one world, which it leaves as it was.
func refused(t *testing.T, f *fleettest.Alone) {
	w, b := newWorld(t, f.Fleet), openBase(t, f)
	before := b.settled()
	for _, r := range routes(t) {
		for _, e := range table[r.String()] {
			asked := 0
			for _, who := range everybody {
				if want := e.expected(r, who); want == "200" && r.method != "GET" || want == "" {
					continue
				}
				asked++
				w.judge(r, e, who, w.ask(r, e, who))
			}
			if asked == 0 {
				continue
			}
			after := b.dump()
			if changed := changes(before, after); len(changed) > 0 && !harmless(changed) {
				t.Errorf("%s %v: what was refused changed the database:\n%s", r, e.with, first(changed, 4))
			}
			before = after
		}
	}
}

// harmless are changes by which nothing is granted: an interactive authentication that waits for its steps, keys of
// the server that are made when first needed, and the note that a file is no picture.
func harmless(changed []string) bool {
	return !slices.ContainsFunc(changed, func(line string) bool {
		return !slices.ContainsFunc([]string{"interactive_sessions", "secrets", "used_nonces", "thumbnails"}, func(table string) bool {
			return strings.HasPrefix(line, "+ "+table+": ")
		})
	})
}

// allowed asks all that succeeds or is about the caller's own, in a world for each request that changes something.
func allowed(t *testing.T, f *fleettest.Alone) {
	b := openBase(t, f)
	shared := newWorld(t, f.Fleet)
	for _, r := range routes(t) {
		for _, e := range table[r.String()] {
			if e.theirs && r.method != "GET" {
				keepsTheirs(t, newWorld(t, f.Fleet), b, r, e)
				continue
			}
			for _, who := range everybody {
				if want := e.expected(r, who); want != "200" && want != "" {
					continue
				}
				w := shared
				if r.method != "GET" {
					w = newWorld(t, f.Fleet)
				}
				w.judge(r, e, who, w.ask(r, e, who))
			}
		}
	}
}

// keepsTheirs asks what everybody does to their own, the owner last.
func keepsTheirs(t *testing.T, w *world, b *base, r route, e entry) {
	before := b.settled()
	for _, who := range everybody {
		if want := e.expected(r, who); want != "200" && want != "" || who == "device" {
			continue
		}
		if who == "owner" {
			changed := about(changes(before, b.dump()), w.people["owner"].ID, w.names["roomID"], mark)
			if len(changed) > 0 {
				t.Errorf("%s: what others did changed what is the owner's:\n%s", r, first(changed, 4))
			}
		}
		w.judge(r, e, who, w.ask(r, e, who))
	}
}

// open are the routes that suspended users keep: they read, leave, take back what they said, report, keep their devices and
// keys, and log out (Client-Server API, "Account suspension"). All others that change something are closed to them, but for what
// suspendedMay says.
var open = map[string]bool{
	"POST " + v3 + "/account/deactivate": true, "POST " + v3 + "/account/password": true,
	"DELETE " + v3 + "/devices/{deviceID}": true, "PUT " + v3 + "/devices/{deviceID}": true, "POST " + v3 + "/delete_devices": true,
	"POST " + v3 + "/keys/claim": true, "POST " + v3 + "/keys/device_signing/upload": true, "POST " + v3 + "/keys/query": true,
	"POST " + v3 + "/keys/signatures/upload": true, "POST " + v3 + "/keys/upload": true, "PUT " + v3 + "/sendToDevice/{type}/{txnID}": true,
	"POST " + v3 + "/room_keys/version": true, "PUT " + v3 + "/room_keys/version/{version}": true,
	"DELETE " + v3 + "/room_keys/version/{version}": true,
	"PUT " + v3 + "/room_keys/keys":                 true, "PUT " + v3 + "/room_keys/keys/{roomID}": true,
	"PUT " + v3 + "/room_keys/keys/{roomID}/{sessionID}": true,
	"DELETE " + v3 + "/room_keys/keys":                   true, "DELETE " + v3 + "/room_keys/keys/{roomID}": true,
	"DELETE " + v3 + "/room_keys/keys/{roomID}/{sessionID}": true,
	"POST " + v3 + "/publicRooms":                           true, "POST " + v3 + "/search": true,
	"POST " + v3 + "/user_directory/search": true,
	"POST " + v3 + "/pushers/set":           true, "PUT " + v3 + "/pushrules/global/{kind}/{ruleID}": true,
	"DELETE " + v3 + "/pushrules/global/{kind}/{ruleID}":      true,
	"PUT " + v3 + "/pushrules/global/{kind}/{ruleID}/actions": true, "PUT " + v3 + "/pushrules/global/{kind}/{ruleID}/enabled": true,
	"PUT " + v3 + "/pushrules/{part...}": true, "DELETE " + v3 + "/pushrules/{part...}": true, // they change nothing
	"POST " + v3 + "/rooms/{roomID}/leave": true, "POST " + v3 + "/rooms/{roomID}/forget": true,
	"PUT " + v3 + "/rooms/{roomID}/redact/{eventID}/{txnID}": true,
	"POST " + v3 + "/rooms/{roomID}/read_markers":            true, "POST " + v3 + "/rooms/{roomID}/receipt/{type}/{eventID}": true,
	"POST " + v3 + "/rooms/{roomID}/report": true, "POST " + v3 + "/rooms/{roomID}/report/{eventID}": true,
	"POST " + v3 + "/users/{userID}/report":            true,
	"PUT " + v3 + "/user/{userID}/account_data/{type}": true, "POST " + v3 + "/user/{userID}/filter": true,
	"POST " + v3 + "/user/{userID}/openid/request_token":              true,
	"PUT " + v3 + "/user/{userID}/rooms/{roomID}/account_data/{type}": true, "PUT " + v3 + "/user/{userID}/rooms/{roomID}/tags/{tag}": true,
	"DELETE " + v3 + "/user/{userID}/rooms/{roomID}/tags/{tag}":          true,
	"DELETE " + v3 + "/user/{userID}/account_data/{type}":                true,
	"DELETE " + v3 + "/user/{userID}/rooms/{roomID}/account_data/{type}": true,
	"DELETE " + msc3391 + "/account_data/{type}":                         true,
	"DELETE " + msc3391 + "/rooms/{roomID}/account_data/{type}":          true,
}

// suspendedMay are requests on routes that are closed.
var suspendedMay = []struct {
	method, path string
	body         obj
}{
	{"PUT", v3 + "/presence/{userID}/status", obj{"presence": "unavailable"}},
	{"PUT", v3 + "/presence/{userID}/status", obj{"presence": "online", "status_msg": ""}},
	{"PUT", v3 + "/rooms/{roomID}/typing/{userID}", obj{"typing": false}},
	{"PUT", v3 + "/rooms/{roomID}/state/m.room.member/{userID}", obj{"membership": "leave"}},
}

// TestSuspendedUsersSayNothing asks all that changes something as the owner of a room who is suspended.
func TestSuspendedUsersSayNothing(t *testing.T) {
	f := start(t, "sqlite")
	w, b := newWorld(t, f.Fleet), openBase(t, f)
	for name := range open {
		if len(table[name]) == 0 {
			t.Errorf("%s is open to the suspended, and not in the table", name)
		}
	}
	owner := w.people["owner"]
	w.people["admin"].Do("PUT", v1+"/admin/suspend/"+url.PathEscape(owner.ID), obj{"suspended": true})
	before := b.settled()
	each := func(opened bool) {
		for _, r := range routes(t) {
			if r.method == "GET" || r.auth != "user" && r.auth != "guest" || open[r.String()] != opened {
				continue
			}
			asked := 0
			for _, e := range table[r.String()] {
				for _, who := range []string{"owner", "device"} {
					if want := e.expected(r, who); !opened && want != "200" && want != "" && len(table[r.String()]) > 1 {
						continue // it is refused to everybody
					}
					asked++
					const no = "403 M_USER_SUSPENDED"
					switch got := w.ask(r, e, who); {
					case got.status >= 500, opened && got.String() == no, !opened && got.String() != no:
						t.Errorf("%s as %s, suspended: %v %.200s", r, who, got, got.body.Raw)
					}
				}
			}
			if asked == 0 {
				t.Errorf("%s has no entry that the owner may ask", r)
			}
		}
	}
	each(false)
	if changed := changes(before, b.dump()); len(changed) > 0 && !harmless(changed) {
		t.Errorf("what was refused changed the database:\n%s", first(changed, 8))
	}
	for _, c := range suspendedMay {
		if status, got := owner.Call(c.method, w.path(c.path, nil), c.body); status != 200 {
			t.Errorf("%s %s %v: %d %s", c.method, c.path, c.body, status, got.Raw)
		}
	}
	each(true)
	if status, got := owner.Call("POST", v3+"/logout", obj{}); status != 200 {
		t.Errorf("logout: %d %s", status, got.Raw)
	}
}

// first is the beginning of a list, for people.
func first(list []string, n int) string {
	return strings.ToValidUTF8(strings.Join(list[:min(n, len(list))], "\n"), "?")
}
