package syncapi

import (
	"encoding/json"
	"strings"
	"testing"

	"lyceum/matrix/event"
	"lyceum/platform/stream"
	"lyceum/rooms"
)

// worst is the largest token that a server reaches: 10^13 events, receipts, typing notices and changes of
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
	h, v := open(t, "sqlite"), worst()
	for described, most := range map[bool]int{false: 400, true: stream.MaxToken} {
		h.layout.SelfDescribing = described
		token := h.layout.Encode(1<<32-1, v[:], "")
		if len(token) > most || (token[0] == 'v') != described {
			t.Errorf("%d characters: %s", len(token), token)
		}
		h.Process.SetLogEpoch(1<<32 - 1)
		if at, err := h.decodeToken(token); err != nil || at.initial || at.since != v || at.fromStart || at.fromNow != nil || at.carried != "" {
			t.Errorf("found %+v %v", at, err)
		}
		h.Process.SetLogEpoch(7)
		if at, err := h.decodeToken(token); err != nil || !at.initial || at.since != (vector{}) {
			t.Errorf("a token of another history of the database: %+v %v", at, err)
		}
	}
}

// TestTokensOfBeforeGoOn: tokens that were written before tokens described themselves keep their meaning.
func TestTokensOfBeforeGoOn(t *testing.T) {
	h := open(t, "sqlite")
	h.Process.SetLogEpoch(7)
	at, err := h.decodeToken("sAAAABwECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEytaw")
	if err != nil || at.initial || at.fromStart || at.fromNow != nil {
		t.Fatalf("found %+v %v", at, err)
	}
	for name, part := range map[string]struct{ at, n, first int }{
		"events": {eventsAt, 16, 1}, "receipts": {receiptsAt, 8, 17}, "typing": {typingAt, 8, 25}, "presence": {presenceAt, 8, 33},
		"device lists": {deviceListsAt, 8, 41}, "to-device": {toDeviceAt, 1, 49}, "account data": {accountDataAt, 1, 50},
	} {
		for i := range part.n {
			if got := at.since[part.at+i]; got != int64(part.first+i) {
				t.Errorf("%s, shard %d: found %d", name, i, got)
			}
		}
	}
}

// BenchmarkToken is what a token costs a request.
func BenchmarkToken(b *testing.B) {
	h, v := open(b, "sqlite"), worst()
	for i := range v {
		v[i] /= 1_000_000
	}
	for _, form := range []string{"first", "described"} {
		h.layout.SelfDescribing = form == "described"
		token := h.layout.Encode(0, v[:], "")
		b.Run("encode/"+form, func(b *testing.B) {
			b.ReportAllocs()
			answer := make([]byte, 0, 1000)
			for b.Loop() {
				answer = h.layout.Append(answer[:0], 0, v[:], "")
			}
		})
		b.Run("decode/"+form, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if at, err := h.decodeToken(token); err != nil || at.initial || at.since != v {
					b.Fatal(err)
				}
			}
		})
	}
}

func FuzzFilter(f *testing.F) {
	f.Add(
		`{"event_fields":["content.body","a\\.b"],"room":{"timeline":{"types":["m.*","*x*y"],"limit":3,"contains_url":true}}}`,
		"m.room.message",
	)
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
		if passed := tl.event(e); passed && !tl.MatchType(typ) {
			t.Fatal("an event passed whose type is filtered out")
		}
		if out := selectFields([]byte(`{"type":"x","content":{"body":"y","a.b":1}}`), flt.EventFields); !json.Valid(out) {
			t.Fatalf("not JSON: %s", out)
		}
	})
}

// TestStoredFilters holds that a filter which was stored before its fields were read never makes /sync fail, and that rel_types work.
func TestStoredFilters(t *testing.T) {
	many := strings.Repeat(`"a",`, 2000) + `"a"`
	for _, part := range []string{
		`{"types":[` + many + `]}`, `{"related_by_senders":[` + many + `]}`, `{"related_by_senders":"x"}`, `{"related_by_rel_types":[1]}`,
		`{"org.matrix.msc3874.rel_types":{}}`, `{"org.matrix.msc3874.not_rel_types":7}`, `{"senders":["\u0000"]}`, `{"limit":-3}`, `null`,
	} {
		f, err := parseFilter(json.RawMessage(`{"room":{"timeline":` + part + `}}`))
		if err != nil {
			t.Errorf("%.40s: %v", part, err)
		} else if tl := &f.Room.Timeline; len(tl.RelTypes)+len(tl.NotRelTypes)+len(tl.RelatedBySenders)+len(tl.RelatedByRelTypes) > 0 {
			t.Errorf("%.40s: found %v", part, tl.Filter)
		}
	}
	if _, err := parseFilter(json.RawMessage(`{"room":{"timeline":{"types":"x"}}}`)); err == nil {
		t.Error("types that are no list: expected an error")
	}
	f, err := parseFilter(json.RawMessage(`{"room":{"timeline":{"org.matrix.msc3874.rel_types":["m.thread"]}}}`))
	if err != nil {
		t.Fatal(err)
	}
	for content, want := range map[string]bool{
		`{"m.relates_to":{"event_id":"$a","rel_type":"m.thread"}}`:  true,
		`{"m.relates_to":{"event_id":"$a","rel_type":"m.replace"}}`: false,
		`{}`: false,
	} {
		e := &rooms.Event{Event: &event.Event{Type: "m.room.message", Sender: "@a:b", Content: []byte(content)}}
		if got := f.Room.Timeline.event(e); got != want {
			t.Errorf("%s: found %v", content, got)
		}
	}
}

// TestRelatedEvents holds that related_by_senders and related_by_rel_types of a filter decide which events a timeline has.
func TestRelatedEvents(t *testing.T) {
	run(t, func(t *testing.T, h *testNode) {
		alice, bob := h.as(t, "alice"), h.as(t, "bob")
		room := h.room(t, "alice", "bob")
		root := alice.say(room, "root")
		alice.say(room, "plain")
		bob.send(room, "m.room.message", obj{"body": "reply", "m.relates_to": obj{"rel_type": "m.thread", "event_id": root}})
		for filter, want := range map[string]string{
			`"related_by_rel_types":["m.thread"]`:                                        "[root]",
			`"related_by_senders":["` + id("bob") + `"]`:                                 "[root]",
			`"related_by_senders":["` + id("alice") + `"]`:                               "[]",
			`"related_by_senders":["\u0000"],"related_by_rel_types":["m\u0000"]`:         "[]",
			`"related_by_rel_types":["m.replace"]`:                                       "[]",
			`"org.matrix.msc3874.rel_types":["m.thread"]`:                                "[reply]",
			`"types":["m.room.message"],"org.matrix.msc3874.not_rel_types":["m.thread"]`: "[root plain]",
		} {
			a := alice.peek("filter", `{"room":{"timeline":{`+filter+`}}}`)
			same(t, filter, bodies(in(a, "join", room, "timeline.events")), want)
		}
	})
}

func TestPick(t *testing.T) {
	for _, c := range []struct{ fields, want string }{
		{"type", `{"type":"t"}`},
		{"content", `{"content":{"a":{"b":1},"c.d":"<"}}`},
		{"content.a.b", `{"content":{"a":{"b":1}}}`},
		{`content.c\.d`, `{"content":{"c.d":"<"}}`},
		{"content.x", `{}`},
	} {
		if got := string(selectFields([]byte(`{"type":"t","content":{"a":{"b":1},"c.d":"<"}}`), []string{c.fields})); got != c.want {
			t.Errorf("%s: found %s", c.fields, got)
		}
	}
}
