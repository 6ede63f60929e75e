package rooms

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/tidwall/gjson"

	"lyceum/matrix"
	"lyceum/matrix/event"
)

func canonicalOf(t *testing.T, content any) []byte {
	t.Helper()
	text, err := matrix.CanonicalJSON(encodeJSON(content))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestStrippedContents: usual contents are given as they are; of large ones it is what the room is shown by.
func TestStrippedContents(t *testing.T) {
	long, half := strings.Repeat("x", 61<<10), strings.Repeat("y", 900)
	allow := []obj{{"type": "m.room_membership", "room_id": "!a:b"}}
	for _, test := range []struct {
		typ        string
		give, want obj // nil: left out
	}{
		{
			event.TypeCreate,
			obj{"room_version": "11", "creator": "@a:x", "type": "m.space", "additional_creators": []string{"@b:x"}},
			obj{"room_version": "11", "creator": "@a:x", "type": "m.space", "additional_creators": []string{"@b:x"}},
		},
		{event.TypeCreate, obj{"room_version": "11", "type": long, "additional_creators": []string{long}}, obj{"room_version": "11"}},
		{event.TypeJoinRules, obj{"join_rule": "restricted", "allow": allow}, obj{"join_rule": "restricted", "allow": allow}},
		{event.TypeJoinRules, obj{"join_rule": "restricted", "allow": []string{long}}, obj{"join_rule": "restricted"}},
		{event.TypeCanonicalAlias, obj{"alias": "#a:x", "alt_aliases": []string{long}}, obj{"alias": "#a:x"}},
		{event.TypeAvatar, obj{"url": "mxc://x/y", "info": obj{"x": long}}, obj{"url": "mxc://x/y"}},
		{event.TypeAvatar, obj{"url": long}, nil},
		{event.TypeName, obj{"name": "Café \"1\"\n"}, obj{"name": "Café \"1\"\n"}},
		{event.TypeName, obj{"name": long}, nil},
		{event.TypeName, obj{}, nil},
		{event.TypeEncryption, obj{"algorithm": "m.megolm.v1.aes-sha2"}, obj{"algorithm": "m.megolm.v1.aes-sha2"}},
		{event.TypeTopic, obj{"topic": "short", "m.topic": obj{"m.text": long}}, obj{"topic": "short"}},
		{event.TypeTopic, obj{"topic": long}, nil},
		{
			event.TypeMember,
			obj{"membership": "invite", "displayname": "Bob", "avatar_url": "mxc://x/y", "is_direct": true, "reason": long},
			obj{"membership": "invite", "displayname": "Bob", "avatar_url": "mxc://x/y", "is_direct": true},
		},
		{event.TypeMember, obj{"membership": "knock", "displayname": "Bob", "reason": "usual"}, obj{"membership": "knock", "displayname": "Bob"}},
		{event.TypeMember, obj{"membership": "invite", "displayname": half, "avatar_url": half, "is_direct": true}, obj{
			"membership":  "invite",
			"displayname": half, "is_direct": true,
		}},
		{TypeSpaceChild, obj{"via": []string{"x", "y"}, "order": "a", "suggested": true}, obj{
			"via": []string{"x", "y"}, "order": "a",
			"suggested": true,
		}},
		{TypeSpaceChild, obj{"via": []string{"x", long}, "order": long, "suggested": true}, obj{"via": []string{"x"}, "suggested": true}},
		{TypeSpaceChild, obj{"via": []string{long}, "order": "a"}, nil},
		{"org.example.other", obj{"name": "x"}, nil},
	} {
		whole := canonicalOf(t, test.give)
		if len(whole) <= strippedWhole {
			if got := strippedContent(&event.Event{Type: test.typ, Content: whole}); string(got) != string(whole) {
				t.Errorf("%s: a usual content: expected %s, found %s", test.typ, whole, got)
			}
		}
		test.give["org.example.more"] = long
		got, want := strippedContent(&event.Event{Type: test.typ, Content: canonicalOf(t, test.give)}), ""
		if test.want != nil {
			want = string(canonicalOf(t, test.want))
		}
		if got != nil {
			got, _ = matrix.CanonicalJSON(got)
		}
		if string(got) != want {
			t.Errorf("%s, %.80s: expected %s, found %.200s", test.typ, whole, want, got)
		}
	}
}

// TestStrippedContentsAreBounded: whatever somebody wrote, it is valid JSON of bounded size, and a membership stays.
func TestStrippedContentsAreBounded(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var odd func(depth int) any
	odd = func(depth int) any {
		switch random.IntN(10) {
		case 0:
			return nil
		case 1:
			return random.IntN(2) == 0
		case 2:
			return random.IntN(1 << 30)
		case 3:
			return strings.Repeat("\x01\\\"é", random.IntN(300))
		case 4:
			return strings.Repeat("z", random.IntN(20<<10))
		case 5, 6:
			var list []any
			for range random.IntN(8) {
				list = append(list, odd(max(0, depth-1)))
			}
			return list
		case 7:
			nested := any("deep")
			for range random.IntN(60) {
				nested = []any{nested}
			}
			return nested
		default:
			if depth == 0 {
				return ""
			}
			inner := obj{}
			for range random.IntN(5) {
				inner[fmt.Sprint("k\"", random.IntN(100))] = odd(depth - 1)
			}
			return inner
		}
	}
	cut := 0
	for typ, fields := range strippedFields {
		for range 300 {
			content := obj{"org.example.more": odd(3)}
			for _, field := range fields {
				if random.IntN(5) > 0 {
					content[field] = odd(3)
				}
			}
			if typ == event.TypeMember {
				content["membership"] = "invite"
			}
			text := canonicalOf(t, content)
			got := strippedContent(&event.Event{Type: typ, Content: text})
			switch {
			case len(text) <= strippedWhole:
				if string(got) != string(text) {
					t.Fatalf("%s: expected %s, found %s", typ, text, got)
				}
				continue
			case typ == event.TypeMember && gjson.GetBytes(got, "membership").String() != "invite":
				t.Fatalf("a membership became %s", got)
			case got == nil:
				continue
			}
			cut++
			if err := matrix.ValidateJSON(got, matrix.Limits{Bytes: strippedCut, Object: true}); err != nil {
				t.Fatalf("%s: %s: %v", typ, got, err)
			}
		}
	}
	if cut < 500 {
		t.Errorf("only %d contents were cut", cut)
	}
}

// TestAnInviteIsSmall: who invites writes as much as there is room for, and whom it reaches gets little.
func TestAnInviteIsSmall(t *testing.T) {
	serve(t, func(t *testing.T, h *house) {
		long, some := strings.Repeat("x", 60<<10), strings.Repeat("y", 950)
		id := h.alice.create(obj{
			"creation_content": obj{"type": some, "x": long},
			"initial_state": []obj{
				{"type": "m.room.join_rules", "content": obj{"join_rule": "knock", "x": long}},
				{"type": "m.room.avatar", "content": obj{"url": some, "x": long}},
				{"type": "m.room.name", "content": obj{"name": some, "x": long}},
				{"type": "m.room.encryption", "content": obj{"algorithm": some, "x": long}},
				{"type": "m.room.topic", "content": obj{"topic": some, "x": long}},
				{"type": "m.room.canonical_alias", "content": obj{"x": long}},
			},
		})
		h.alice.Want(200, at("PUT", id, "state/m.room.member/"+esc(h.alice.id)), obj{"membership": "join", "displayname": some, "x": long})
		h.alice.Want(200, at("PUT", id, "state/m.room.member/"+esc(h.bob.id)), obj{"membership": "invite", "displayname": some, "x": long})
		h.carol.Want(200, "POST /_matrix/client/v3/knock/"+esc(id), obj{"reason": long})
		head, _, err := h.Head(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		for user, membership := range map[string]string{h.bob.id: "invite", h.carol.id: "knock"} {
			stripped, err := h.StrippedState(t.Context(), head.Root, user, h.alice.id)
			if err != nil {
				t.Fatal(err)
			}
			text := encodeJSON(stripped)
			if len(text) > 16<<10 {
				t.Errorf("%s: %d bytes", membership, len(text))
			}
			if got := gjson.GetBytes(text, `#(state_key=="`+user+`").content.membership`).String(); got != membership {
				t.Errorf("expected the membership %s, found %q", membership, got)
			}
			if len(stripped) != 8 { // all but the alias
				t.Errorf("%s: %d events: %.300s", membership, len(stripped), text)
			}
		}
		a := h.bob.Want(200, "GET /_matrix/client/v1/room_summary/"+esc(id), nil)
		if a.Get("name").String() != some || a.Get("join_rule").String() != "knock" {
			t.Errorf("%.300s", a.Body)
		}
		h.alice.state(id, "m.room.name", "", obj{"name": long})
		if a := h.bob.Want(200, "GET /_matrix/client/v1/room_summary/"+esc(id), nil); len(a.Body) > 8<<10 || a.Get("name").Exists() {
			t.Errorf("a summary of %d bytes", len(a.Body))
		}
	})
}
