package hostiletest_test

import (
	"bytes"
	stdjson "encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"lyceum/platform/stream"
)

const (
	kib = 1 << 10
	mib = 1 << 20
)

// largest says for routes with a body that is not bounded by http.max_body what bounds it, in bytes.
var largest = map[string]int{
	"PUT " + v3 + "/sendToDevice/{type}/{txnID}":          16 * mib,
	"PUT " + v3 + "/room_keys/keys":                       16 * mib,
	"PUT " + v3 + "/room_keys/keys/{roomID}":              16 * mib,
	"POST " + v3 + "/auth/{type}/fallback/web":            16 * kib,
	"POST /_matrix/media/v3/upload":                       uploadMost,
	"PUT /_matrix/media/v3/upload/{serverName}/{mediaID}": uploadMost,
}

const uploadMost = 2 * mib // set for the tests

// valid are bodies from which hostile ones are made, beside those of the table.
var valid = map[string]any{
	"POST " + v3 + "/createRoom": obj{
		"preset": "private_chat", "name": "x", "topic": "x", "room_alias_name": "x", "visibility": "private", "invite": []string{},
		"is_direct":    false,
		"room_version": "12", "creation_content": obj{"type": "x"}, "power_level_content_override": obj{"ban": 50},
		"initial_state": []obj{{"type": "x.y", "state_key": "", "content": obj{"x": "y"}}},
	},
	"POST " + v3 + "/login": obj{
		"type":                        "m.login.password",
		"identifier":                  obj{"type": "m.id.user", "user": "x"},
		"password":                    "x",
		"device_id":                   "x",
		"initial_device_display_name": "x",
	},
	"POST " + v3 + "/register": obj{
		"username": "x", "password": "x", "device_id": "x", "initial_device_display_name": "x", "inhibit_login": false,
		"auth": obj{"type": "m.login.dummy", "session": "x"},
	},
	"POST " + v3 + "/publicRooms": obj{
		"limit":  1,
		"since":  "p0",
		"filter": obj{"generic_search_term": "x", "room_types": []any{"x", nil}},
	},
	"POST " + v3 + "/search": obj{
		"search_categories": obj{
			"room_events": obj{
				"search_term":   "x",
				"keys":          []string{"content.body"},
				"order_by":      "rank",
				"filter":        obj{"limit": 1, "rooms": []string{"!x:y"}},
				"event_context": obj{"before_limit": 1, "after_limit": 1, "include_profile": true},
				"groupings":     obj{"group_by": []obj{{"key": "sender"}}},
			},
		},
	},
	"POST " + v3 + "/user_directory/search": obj{"search_term": "x", "limit": 1},
	"POST " + v3 + "/user/{userID}/filter": obj{
		"room":         obj{"timeline": obj{"limit": 1, "types": []string{"x"}}},
		"event_fields": []string{"x.y"},
	},
	"PUT " + v3 + "/pushrules/global/{kind}/{ruleID}": obj{
		"pattern":    "x",
		"actions":    []any{"notify", obj{"set_tweak": "sound", "value": "x"}},
		"conditions": []obj{{"kind": "event_match", "key": "type", "pattern": "x"}},
	},
	"POST " + v3 + "/pushers/set": obj{
		"pushkey":             "x",
		"kind":                "http",
		"app_id":              "x",
		"app_display_name":    "x",
		"device_display_name": "x",
		"lang":                "en",
		"profile_tag":         "x",
		"append":              true,
		"data":                obj{"url": "http://127.0.0.1:1/_matrix/push/v1/notify", "format": "x"},
	},
	"POST " + v3 + "/rooms/{roomID}/receipt/{type}/{eventID}": obj{"thread_id": "main"},
	"PUT " + v3 + "/rooms/{roomID}/typing/{userID}":           obj{"typing": true, "timeout": 1},
	"POST " + v3 + "/keys/query":                              obj{"device_keys": obj{"@x:y": []string{"x"}}, "timeout": 1},
	"POST " + v3 + "/keys/upload": obj{
		"one_time_keys": obj{"signed_curve25519:x": obj{"key": "x"}},
		"fallback_keys": obj{"signed_curve25519:y": obj{"key": "x", "fallback": true}},
	},
	"POST " + v3 + "/delete_devices":                         obj{"devices": []string{"x"}, "auth": obj{"type": "m.login.password"}},
	"POST " + v3 + "/refresh":                                obj{"refresh_token": "x"},
	"PUT " + v3 + "/user/{userID}/rooms/{roomID}/tags/{tag}": obj{"order": 0.5},
	"POST " + v3 + "/rooms/{roomID}/send/{type}":             obj{"msgtype": "m.text", "body": "x"},
	"PUT " + v3 + "/rooms/{roomID}/send/{type}/{txnID}": obj{
		"msgtype":      "m.text",
		"body":         "x",
		"m.relates_to": obj{"rel_type": "m.thread", "event_id": "$x", "key": "x"},
		"m.mentions":   obj{"user_ids": []string{"@x:y"}},
	},
	"PUT " + v3 + "/rooms/{roomID}/state/{type}/{stateKey}": obj{
		"membership":         "invite",
		"displayname":        "x",
		"third_party_invite": obj{"signed": obj{"mxid": "x", "token": "x"}},
	},
	"POST /_synapse/admin/v1/register": obj{
		"nonce":       "x",
		"username":    "x",
		"password":    "x",
		"admin":       false,
		"mac":         "00",
		"displayname": "x",
		"user_type":   "bot",
	},
	"POST " + v3 + "/account/deactivate": obj{
		"erase": true,
		"auth":  obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": "x"}, "password": "x", "session": "x"},
	},
	"PUT " + v3 + "/rooms/{roomID}/redact/{eventID}/{txnID}": obj{"reason": "x"},
	"POST " + v3 + "/rooms/{roomID}/upgrade":                 obj{"new_version": "12", "additional_creators": []string{"@x:y"}},
	"POST " + v3 + "/keys/device_signing/upload": obj{
		"master_key": obj{"user_id": "x", "usage": []string{"master"}, "keys": obj{"ed25519:x": "x"}, "signatures": obj{"x": obj{"y": "z"}}},
	},
}

// costly values are tried where they are read first.
var costly = map[string]bool{"very long": true, "many": true, "many names": true, "lists in lists": true, "objects": true, "wild": true}

func hasBody(r route) bool { return r.method == "POST" || r.method == "PUT" }

// hostileBodies are bodies that no client sends, made from one that some do.
func hostileBodies(r route, body any) map[string][]byte {
	most := largest[r.String()]
	if most == 0 {
		most = mib
	}
	out := map[string][]byte{
		"one byte too much": append([]byte(`{"x":"`), append(bytes.Repeat([]byte("x"), most-7), `"}`...)...),
		"deep":              []byte(strings.Repeat(`{"a":`, 1000) + "1" + strings.Repeat("}", 1000)),
		"deep list":         []byte(`{"a":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + "}"),
		"no UTF-8":          []byte("{\"x\":\"\xff\xfe\"}"),
		"cut":               []byte(`{"x":"y`),
		"a list":            []byte(`[]`),
		"null":              []byte(`null`),
		"a string":          []byte(`"x"`),
		"two":               []byte(`{}{}`),
		"nothing known":     []byte(`{"x":"y"}`),
		"double keys":       []byte(`{"x":1,"x":2}`),
		"half a character":  []byte(`{"x":"\ud800"}`),
		"NUL":               []byte(`{"x\u0000":"\u0000"}`),
		"a large number":    []byte(`{"x":1e999,"y":-99999999999999999999999}`),
	}
	if strings.Contains(r.path, "/upload") && r.limit == "upload" {
		return map[string][]byte{"one byte too much": bytes.Repeat([]byte("x"), most+1)}
	}
	if body == nil {
		return out
	}
	text, err := stdjson.Marshal(body)
	if err != nil {
		panic(err)
	}
	var tree any
	if err := stdjson.Unmarshal(text, &tree); err != nil {
		panic(err)
	}
	many := make([]any, 20_000)
	names := obj{}
	for i := range many {
		many[i] = fmt.Sprint("@u", i, ":x")
		names[fmt.Sprint("@u", i, ":x")] = "x"
	}
	values := map[string]any{
		"a number": -7, "true": true, "null": nil, "a string": "x", "a list": []any{}, "an object": obj{}, "large": 1e300,
		"NUL": "a\x00b", "long": strings.Repeat("x", 70_000), "very long": strings.Repeat("é", 400_000), "wild": strings.Repeat("%_?*", 200),
		"many": many, "many names": names, "lists in lists": []any{[]any{[]any{}}}, "objects": []any{obj{"x": obj{"y": nil}}},
	}
	each(tree, "", func(name string, put func(any), now any) {
		deep := strings.Count(name, ".") > 1
		for what, value := range values {
			if deep && costly[what] {
				continue
			}
			put(value)
			text, err := stdjson.Marshal(tree)
			if err != nil {
				panic(err)
			}
			out[name+" is "+what] = text
		}
		put(now)
	})
	return out
}

// each calls fn with each place of a tree.
func each(tree any, name string, fn func(name string, put func(any), now any)) {
	switch tree := tree.(type) {
	case obj:
		for _, key := range slices.Sorted(maps.Keys(tree)) {
			now := tree[key]
			fn(name+"."+key, func(v any) { tree[key] = v }, now)
			each(now, name+"."+key, fn)
		}
	case []any:
		for i, now := range tree {
			fn(fmt.Sprint(name, "[", i, "]"), func(v any) { tree[i] = v }, now)
			each(now, fmt.Sprint(name, "[", i, "]"), fn)
		}
	}
}

// hostilePaths are values that stand in paths and queries.
var hostilePaths = map[string]string{
	"256 bytes": strings.Repeat(
		"x",
		256,
	), "long": strings.Repeat("x", 5000), "NUL": "a\x00b", "no UTF-8": "\xff\xfe", "dots": "..", "wild": "%_?*",
	"id": "!" + strings.Repeat(
		"x",
		300,
	) + ":y", "user": "@" + strings.Repeat("x", 300) + ":y", "space": " ", "number": "99999999999999999999", "other": "世界",
}

// parameters are those that some route reads from its query.
var parameters = []string{
	"limit",
	"from",
	"to",
	"since",
	"filter",
	"dir",
	"ts",
	"at",
	"timeout",
	"version",
	"width",
	"set_presence",
	"membership",
	"next_batch",
}

// trial is a request that was made, and its answer.
type trial struct {
	what, path string
	body       any
	status     int
}

// TestNothingIsTooMuch sends each route the largest, deepest, longest and oddest requests: they are answered soon and
// never by a fault of the server, and what is refused changes nothing.
func TestNothingIsTooMuch(t *testing.T) {
	for _, engine := range engines {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			f := start(t, engine, fmt.Sprint("LYCEUM_MEDIA_MAX_UPLOAD=", uploadMost))
			b := openBase(t, f)
			n := 0
			shared := newWorld(t, f.Fleet)
			for _, r := range routes(t) {
				w := shared
				if r.method != "GET" {
					w = newWorld(t, f.Fleet)
				}
				n += w.tryAll(b, r, engine == "postgres")
			}
			t.Logf("%d requests", n)
		})
	}
}

// TestTokensAreBounded gives intact tokens that this server would not write to all who read them: they are answered, and the
// next token is no longer than one that is read.
func TestTokensAreBounded(t *testing.T) {
	const read = 4 * stream.MaxToken
	for _, engine := range engines {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, start(t, engine).Fleet)
			who := w.people["owner"]
			own := who.Do("GET", v3+"/sync", nil).Get("next_batch").String()
			if len(own) > stream.MaxToken {
				t.Errorf("a token of %d characters", len(own))
			}
			foreign := stream.NewLayout(stream.Part{Number: stream.MaxNumber, N: 310})
			at, err := foreign.Decode(own, make([]int64, 310))
			if err != nil {
				t.Fatal(err)
			}
			// 310 positions of 9 bytes make about the longest token that is read.
			high := slices.Repeat([]int64{1 << 62}, 310)
			long := foreign.Encode(at.Log, high, "")
			carried, err := stream.NewLayout(stream.Part{Number: 1, N: 16}).Decode(long, make([]int64, 16))
			if err != nil {
				t.Fatal(err)
			}
			tokens := map[string]string{
				"without streams": long, "with all and more": foreign.Encode(at.Log, make([]int64, 310), at.Carried),
				"of later":        stream.NewLayout(stream.Part{Number: 1, N: 16}).Encode(at.Log, high, carried.Carried),
				"of other shards": stream.NewLayout(stream.Part{Number: 1, Generation: 2, N: 300}).Encode(at.Log, high, ""),
				"of elsewhere":    stream.NewLayout(stream.Part{Number: 1, N: 16}).Encode(at.Log+1, high, ""),
			}
			for number, n := range map[int]int{1: 16, 2: 8, 3: 8, 4: 8, 5: 8, 6: 1, 7: 1} {
				tokens[fmt.Sprintf("of stream %d alone, beyond its end", number)] = stream.NewLayout(stream.Part{Number: number, N: n}).
					Encode(at.Log, high, "")
			}
			room := w.path("/_matrix/client/v3/rooms/{roomID}", nil)
			for what, token := range tokens {
				for _, path := range []string{
					v3 + "/sync?since=" + token, room + "/messages?dir=b&from=" + token, room + "/messages?dir=f&from=" + token,
					room + "/messages?dir=b&to=" + token,
					room + "/members?at=" + token, v3 + "/keys/changes?from=" + token + "&to=" + own, v3 + "/keys/changes?from=" + own + "&to=" + token,
				} {
					status, a := who.Call("GET", path, nil)
					if status != 200 {
						t.Errorf("a token %s: GET %s: %d %s", what, path, status, a.Raw)
					}
					if next := a.Get("next_batch").String(); len(next) > read {
						t.Errorf("a token %s became one of %d characters", what, len(next))
					}
				}
			}
			for _, token := range []string{long + "AAAA", strings.Repeat("v", read+1), own[:len(own)-1]} {
				if status, a := who.Call("GET", v3+"/sync?since="+token, nil); status != 400 || a.Get("errcode").String() != "M_INVALID_PARAM" {
					t.Errorf("a damaged token: %d %s", status, a.Raw)
				}
			}
		})
	}
}

// tryAll tries a route in a world of its own. few leaves out what another engine shows as well.
func (w *world) tryAll(b *base, r route, few bool) int {
	t := w.t
	who := w.people["owner"]
	if r.auth == "admin" {
		who = w.people["admin"]
	}
	e := table[r.String()][0]
	var trials []*trial
	path := func(with map[string]string) string {
		path := w.path(r.path, with)
		if e.query != "" {
			path += "?" + e.query
		}
		return path
	}
	var body any
	if e.body != nil {
		body = e.body(w, who)
	}
	if hasBody(r) {
		from := body
		if valid[r.String()] != nil {
			from = valid[r.String()]
		}
		for what, text := range hostileBodies(r, from) {
			if few && !strings.Contains(what, "NUL") && !strings.Contains(what, "long") && !strings.Contains(what, "half") &&
				!strings.Contains(what, "many") {
				continue
			}
			trials = append(trials, &trial{what: what, path: path(e.with), body: text})
		}
	}
	for rest := r.path; strings.Contains(rest, "{"); {
		_, after, _ := strings.Cut(rest, "{")
		name, next, _ := strings.Cut(after, "}")
		rest = next
		name = strings.TrimSuffix(name, "...")
		if name == "$" {
			continue
		}
		for what, value := range hostilePaths {
			with := maps.Clone(e.with)
			if with == nil {
				with = map[string]string{}
			}
			with[name] = value
			trials = append(trials, &trial{what: name + " is " + what, path: path(with), body: body})
		}
	}
	if r.method == "GET" {
		for _, name := range parameters {
			for _, value := range []string{"-1", "99999999999999999999", strings.Repeat("x", 5000), "\x00", `{"types":7}`} {
				if few && value != "\x00" {
					continue
				}
				q, _ := url.ParseQuery(e.query)
				q.Set(name, value)
				trials = append(trials, &trial{what: name + "=" + value[:min(len(value), 20)], path: w.path(r.path, e.with) + "?" + q.Encode()})
			}
		}
	}
	slices.SortFunc(trials, func(a, b *trial) int { return strings.Compare(a.what, b.what) })
	run := func(tr *trial) {
		began := time.Now()
		status, got, err := who.Try(r.method, tr.path, tr.body)
		switch took := time.Since(began); {
		case err != nil:
			t.Errorf("%s, %s: %v", r, tr.what, err)
		case status >= 500:
			t.Errorf("%s, %s: %d %s", r, tr.what, status, got.Raw)
		case took > 10*time.Second:
			t.Errorf("%s, %s: answered after %s", r, tr.what, took)
		case tr.what == "one byte too much" && status < 400 && !strings.HasSuffix(r.path, "/media/v1/create"): // which reads none
			t.Errorf("%s: a body of %d bytes was taken", r, len(tr.body.([]byte)))
		}
		tr.status = status
	}
	for _, tr := range trials {
		run(tr)
	}
	// Those that were refused once more, until nothing else happens: what some of them wanted may be there now.
	all := len(trials)
	if few {
		return all // the order of statements is the same over all engines
	}
	for pass := 0; r.method != "GET" && pass < 4; pass++ {
		trials = slices.DeleteFunc(trials, func(tr *trial) bool { return tr.status < 400 })
		before := b.settled()
		for _, tr := range trials {
			run(tr)
		}
		if slices.ContainsFunc(trials, func(tr *trial) bool { return tr.status < 400 }) {
			continue
		}
		if changed := changes(before, b.dump()); len(changed) > 0 && !harmless(changed) {
			t.Errorf("%s: what was refused changed the database:\n%s", r, first(changed, 4))
		}
		return all
	}
	return all
}
