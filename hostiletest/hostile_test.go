package hostiletest_test

import (
	"fmt"
	"maps"
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

// first is the beginning of a list, for people.
func first(list []string, n int) string {
	return strings.ToValidUTF8(strings.Join(list[:min(n, len(list))], "\n"), "?")
}
