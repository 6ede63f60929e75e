package sync

import (
	"encoding/json"
	"strings"
	"testing"

	"lyceum/matrix/event"
	"lyceum/platform/stream"
	"lyceum/rooms"
)

// worst is the largest token that a server comes to: 10^13 events, receipts, typing notices and changes of
// presence each, at 1,500 a second the work of two centuries, and 10^11 rows of the streams that move slowly.
func worst() (v vector) {
	for i := range v {
		switch {
		case i < receiptsAt:
			v[i] = 10_000_000_000_000 / rooms.Shards
		case i < deviceListsAt:
			v[i] = 10_000_000_000_000 / 8
		default:
			v[i] = 100_000_000_000 / 8
		}
	}
	return v
}

func TestTokenIsShort(t *testing.T) {
	v := worst()
	token := v.encode(1<<32 - 1)
	if len(token) > stream.MaxToken {
		t.Fatalf("the token has %d characters", len(token))
	}
	back, fresh, err := decodeToken(token, 1<<32-1)
	if err != nil || fresh || back != v {
		t.Fatalf("found %v %v %v", back, fresh, err)
	}
	if _, fresh, err := decodeToken(token, 7); err != nil || !fresh {
		t.Fatal("a token of another history of the database was taken")
	}
	if len(v) != rooms.TokenSize {
		t.Fatalf("a token has %d positions, package rooms reads %d", len(v), rooms.TokenSize)
	}
}

func FuzzToken(f *testing.F) {
	v := worst()
	f.Add(v.encode(3))
	f.Add((&vector{}).encode(0))
	f.Add("s")
	f.Fuzz(func(t *testing.T, token string) {
		v, _, err := decodeToken(token, 3)
		if err != nil {
			return
		}
		for _, pos := range v {
			if pos < 0 {
				t.Fatalf("a position below 0: %v", v)
			}
		}
		if again, _, err := decodeToken(v.encode(3), 3); err != nil && len(v.encode(3)) <= stream.MaxToken || err == nil && again != v {
			t.Fatalf("%v became %v: %v", v, again, err)
		}
		if _, err := DeviceListPositions(token); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzFilter(f *testing.F) {
	f.Add(`{"event_fields":["content.body","a\\.b"],"room":{"timeline":{"types":["m.*","*x*y"],"limit":3,"contains_url":true}}}`, "m.room.message")
	f.Add(`{"room":{"timeline":{"limit":-9223372036854775808,"not_types":["*"]}}}`, "")
	f.Fuzz(func(t *testing.T, text, typ string) {
		if !json.Valid([]byte(text)) || !strings.HasPrefix(text, "{") {
			return
		}
		flt, err := parseFilter(json.RawMessage(text))
		if err != nil {
			return
		}
		if n := flt.timelineLimit(); n < 0 || n > maxTimeline {
			t.Fatalf("the limit is %d", n)
		}
		e := &rooms.Event{Event: &event.Event{Type: typ, Sender: "@a:b", Content: []byte(`{"url":"x"}`)}}
		tl := &flt.Room.Timeline
		if passed := tl.event(e); passed && !tl.typed(typ) {
			t.Fatal("an event passed whose type is filtered out")
		}
		if out := pick([]byte(`{"type":"x","content":{"body":"y","a.b":1}}`), flt.EventFields); !json.Valid(out) {
			t.Fatalf("not JSON: %s", out)
		}
	})
}

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		pattern, text string
		want          bool
	}{
		{"m.room.*", "m.room.name", true},
		{"m.room.*", "m.room", false},
		{"*", "", true},
		{"*", "x", true},
		{"a*c", "abc", true},
		{"a*c", "ac", true},
		{"a*c", "acd", false},
		{"a*b*c", "a-b-b-c", true},
		{"a*bc*c", "abc", false},
		{"a", "a", true},
		{"a", "b", false},
	} {
		if got := glob(c.pattern, c.text); got != c.want {
			t.Errorf("%q on %q: found %v", c.pattern, c.text, got)
		}
	}
}

func TestPick(t *testing.T) {
	for _, c := range []struct{ fields, want string }{
		{"type", `{"type":"t"}`},
		{"content", `{"content":{"a":{"b":1},"c.d":"<"}}`},
		{"content.a.b", `{"content":{"a":{"b":1}}}`},
		{`content.c\.d`, `{"content":{"c.d":"<"}}`},
		{"content.x", `{}`},
	} {
		if got := string(pick([]byte(`{"type":"t","content":{"a":{"b":1},"c.d":"<"}}`), []string{c.fields})); got != c.want {
			t.Errorf("%s: found %s", c.fields, got)
		}
	}
}
