package event

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"lyceum/matrix"
)

func specKey(t testing.TB) matrix.SigningKey {
	seed, _ := matrix.DecodeBase64("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1")
	key, err := matrix.NewSigningKey("1", seed)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func mustVersion(t testing.TB, id string) Version {
	v, ok := VersionByID(id)
	if !ok {
		t.Fatal("no room version", id)
	}
	return v
}

func ptr(s string) *string { return &s }

func keysOf(key matrix.SigningKey) PublicKeys {
	return func(_, id string) (ed25519.PublicKey, bool) { return key.Public(), id == key.ID }
}

const hash43 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"

func roomOf(v Version) string {
	if v.RoomIDIsCreateHash {
		return "!" + hash43
	}
	return "!room:example.org"
}

// The vectors of the specification's appendix "Event Signing".
func TestHashAndSignSpecVectors(t *testing.T) {
	v := mustVersion(t, "1")
	for _, c := range []struct{ in, hash, sig string }{
		{
			`{"room_id":"!x:domain","sender":"@a:domain","origin":"domain","origin_server_ts":1000000,"signatures":{},"hashes":{},"type":"X",` +
				`"content":{},"prev_events":[],"auth_events":[],"depth":3,"unsigned":{"age_ts":1000000}}`,
			"5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos",
			"KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg",
		},
		{
			`{"content":{"body":"Here is the message content"},"event_id":"$0:domain","origin":"domain","origin_server_ts":1000000,` +
				`"type":"m.room.message","room_id":"!r:domain","sender":"@u:domain","signatures":{},"unsigned":{"age_ts":1000000}}`,
			"onLKD1bGljeBWQhWZ1kaP9SorVmRQNdN5aM2JYU2n/g",
			"Wm+VzmOUOz08Ds+0NTWb1d4CZrVsJSikkeRxh6aCcUwu6pNC78FunoD7KNWzqFn241eYHYMGCA5McEiVPdhzBA",
		},
	} {
		got, err := HashAndSign(v, []byte(c.in), "domain", specKey(t))
		if err != nil {
			t.Fatal(err)
		}
		hash, _ := matrix.LookupString(matrix.Lookup(got, "hashes"), "sha256")
		sig, _ := matrix.LookupString(matrix.Lookup(matrix.Lookup(got, "signatures"), "domain"), "ed25519:1")
		if hash != c.hash || sig != c.sig {
			t.Errorf("got %s %s\nwant %s %s", hash, sig, c.hash, c.sig)
		}
	}
}

func TestVersionTable(t *testing.T) {
	all := Versions()
	if len(all) != 12 {
		t.Fatal(len(all))
	}
	for i, v := range all {
		if v.ID != fmt.Sprint(i+1) {
			t.Error(v.ID)
		}
	}
	if v := mustVersion(t, "12"); !v.RoomIDIsCreateHash || v.StateRes != StateResV21 || v.CreateInAuthEvents {
		t.Errorf("%+v", v)
	}
	if _, ok := VersionByID("org.example.13"); ok {
		t.Error("an unknown version was found")
	}
	if _, ok := VersionByID(""); ok {
		t.Error("the empty version was found")
	}
}

func protoFor(v Version) Proto {
	p := Proto{
		RoomID: roomOf(v), Type: TypeMessage, Sender: "@alice:example.org",
		Content: json.RawMessage(`{"msgtype":"m.text","body":"hi \u00fc \"quoted\""}`), OriginServerTS: 1700000000000, Depth: 7,
		PrevEvents: []string{"$" + hash43}, AuthEvents: []string{"$a" + hash43[1:], "$b" + hash43[1:]},
	}
	if v.IDFormat == IDField {
		p.ID = "$abc:example.org"
	}
	return p
}

func TestBuildParseRoundTrip(t *testing.T) {
	key := specKey(t)
	for _, v := range Versions() {
		for _, typ := range []string{TypeMessage, TypeRedaction, TypeMember, TypePowerLevels} {
			p := protoFor(v)
			p.Type = typ
			switch typ {
			case TypeRedaction:
				p.Redacts = "$r" + hash43[1:]
			case TypeMember:
				p.StateKey = ptr("@bob:example.org")
				p.Content = json.RawMessage(`{"membership":"invite","displayname":"x"}`)
			case TypePowerLevels:
				p.StateKey = ptr("")
				p.Content = json.RawMessage(`{"users":{"@alice:example.org":100},"invite":50,"notifications":{"room":1}}`)
			}
			e, err := Build(v, p, key)
			if err != nil {
				t.Fatal(v.ID, typ, err)
			}
			if !matrix.IsCanonicalJSON(e.JSON) {
				t.Fatalf("%s %s: %s is not canonical", v.ID, typ, e.JSON)
			}
			got, err := Parse(v, e.JSON)
			if err != nil {
				t.Fatal(v.ID, typ, err)
			}
			if got.Pruned || got.ID != e.ID || !bytes.Equal(got.JSON, e.JSON) {
				t.Fatalf("%s %s: got %s %s, want %s %s", v.ID, typ, got.ID, got.JSON, e.ID, e.JSON)
			}
			if got.Redacts != p.Redacts || got.Sender != p.Sender || got.RoomID != p.RoomID || got.Depth != 7 ||
				fmt.Sprint(got.PrevEvents, got.AuthEvents) != fmt.Sprint(p.PrevEvents, p.AuthEvents) ||
				(got.StateKey == nil) != (p.StateKey == nil) || got.StateKey != nil && *got.StateKey != *p.StateKey {
				t.Errorf("%s %s: %+v", v.ID, typ, got)
			}
			if err := VerifySignatures(got, keysOf(key)); err != nil {
				t.Error(v.ID, typ, err)
			}
			// The signature and the id hold for the redacted event too.
			r := got.Redacted()
			if err := VerifySignatures(r, keysOf(key)); err != nil {
				t.Error(v.ID, typ, err)
			}
			back, err := Parse(v, r.JSON)
			if err != nil || back.ID != e.ID {
				t.Errorf("%s %s: the redacted event has id %s, want %s (%v)", v.ID, typ, back.ID, e.ID, err)
			}
			trusted, err := ParseTrusted(v, e.JSON, e.ID)
			if err != nil || trusted.ID != e.ID || trusted.RoomID != e.RoomID || trusted.Type != typ {
				t.Errorf("%s %s: %+v %v", v.ID, typ, trusted, err)
			}
		}
	}
}

func TestCreateEventOfVersion12(t *testing.T) {
	key := specKey(t)
	v := mustVersion(t, "12")
	p := Proto{
		Type:     TypeCreate,
		StateKey: ptr(""),
		Sender:   "@alice:example.org",
		Content:  json.RawMessage(`{"room_version":"12"}`),
		RoomID:   "!ignored:example.org",
		Depth:    1,
	}
	e, err := Build(v, p, key)
	if err != nil {
		t.Fatal(err)
	}
	if e.HasRoomID() || e.RoomID != "!"+e.ID[1:] || !matrix.ValidRoomID(e.RoomID) || matrix.Lookup(e.JSON, "room_id") != nil {
		t.Errorf("%s %s %s", e.ID, e.RoomID, e.JSON)
	}
	got, err := Parse(v, e.JSON)
	if err != nil || got.RoomID != e.RoomID || got.ID != e.ID {
		t.Errorf("%+v %v", got, err)
	}
	trusted, err := ParseTrusted(v, e.JSON, e.ID)
	if err != nil || trusted.RoomID != e.RoomID {
		t.Errorf("%+v %v", trusted, err)
	}
	if r := e.Redacted(); r.RoomID != e.RoomID || r.ID != e.ID {
		t.Error("redaction lost the room id")
	}
	raw := matrix.SetMember(e.JSON, "room_id", []byte(`"`+e.RoomID+`"`))
	if _, err := Parse(v, raw); err == nil {
		t.Error("a create event with room_id was taken")
	}
	if c := ClientJSON(nil, e, nil, true); !strings.Contains(string(c), `"room_id":"`+e.RoomID+`"`) {
		t.Errorf("%s", c)
	}
}

func TestParseRedactsOnHashMismatch(t *testing.T) {
	key := specKey(t)
	for _, v := range Versions() {
		e, err := Build(v, protoFor(v), key)
		if err != nil {
			t.Fatal(err)
		}
		forged := bytes.Replace(e.JSON, []byte("hi "), []byte("ho "), 1)
		got, err := Parse(v, forged)
		if err != nil {
			t.Fatal(err)
		}
		if !got.Pruned || string(got.Content) != "{}" || got.ID != e.ID {
			t.Errorf("%s: %+v", v.ID, got)
		}
		if err := VerifySignatures(got, keysOf(key)); err != nil {
			t.Error(v.ID, err)
		}
		forged = bytes.Replace(e.JSON, []byte("@alice:"), []byte("@mally:"), 1)
		if got, err = Parse(v, forged); err != nil {
			t.Fatal(err)
		}
		if err := VerifySignatures(got, keysOf(key)); !errors.Is(err, matrix.ErrSignature) {
			t.Error(v.ID, err)
		}
	}
}

// An event that is signed only when another server gets it is the same event, and there is room for the signature.
func TestSignLater(t *testing.T) {
	key := specKey(t)
	server := func(e *Event) string { return matrix.ServerOf(e.Sender) }
	for _, v := range Versions() {
		p := protoFor(v)
		now, err := Build(v, p, key)
		if err != nil {
			t.Fatal(err)
		}
		later, unsigned, err := Prepare(v, p, "")
		if err != nil || unsigned != nil {
			t.Fatal(err, unsigned)
		}
		if later.ID != now.ID {
			t.Errorf("%s: the id of an unsigned event is %s, expected %s", v.ID, later.ID, now.ID)
		}
		if err := VerifySignatures(later, keysOf(key)); !errors.Is(err, matrix.ErrSignature) {
			t.Errorf("%s: an event without a signature is verified: %v", v.ID, err)
		}
		read, err := ParseTrusted(v, later.JSON, later.ID)
		if err != nil {
			t.Fatal(err)
		}
		signed, err := Sign(read, server(read), key)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(signed.JSON, now.JSON) {
			t.Errorf("%s: signed later\n%s\nsigned at once\n%s", v.ID, signed.JSON, now.JSON)
		}
	}
	v, p := mustVersion(t, "11"), protoFor(mustVersion(t, "11"))
	key.ID = "ed25519:" + strings.Repeat("k", 64-len("ed25519:"))
	taken := 0
	for n := MaxBytes - 2000; n < MaxBytes; n++ {
		p.Content = []byte(`{"body":"` + strings.Repeat("x", n) + `"}`)
		e, _, err := Prepare(v, p, "")
		if err != nil {
			break
		}
		taken = n
		if n%100 == 0 {
			if _, err := Sign(e, server(e), key); err != nil {
				t.Fatalf("an event of %d bytes has no room for a signature: %v", len(e.JSON), err)
			}
		}
	}
	p.Content = []byte(`{"body":"` + strings.Repeat("x", taken) + `"}`)
	e, _, err := Prepare(v, p, "")
	if err != nil {
		t.Fatal(err)
	}
	if signed, err := Sign(e, server(e), key); err != nil || len(signed.JSON) != MaxBytes {
		t.Errorf("the longest event that is taken: %v", err)
	}
}

func TestParseRefuses(t *testing.T) {
	v := mustVersion(t, "11")
	e, err := Build(v, protoFor(v), specKey(t))
	if err != nil {
		t.Fatal(err)
	}
	set := func(key, value string) []byte { return matrix.SetMember(e.JSON, key, []byte(value)) }
	many := func(n int) string {
		return `["$x"` + strings.Repeat(`,"$x"`, n-1) + `]`
	}
	for name, raw := range map[string][]byte{
		"not JSON":      []byte(`{`),
		"no object":     []byte(`[]`),
		"empty":         []byte(`{}`),
		"float":         set("content", `{"a":1.5}`),
		"type":          set("type", `1`),
		"long type":     set("type", `"`+strings.Repeat("a", 256)+`"`),
		"sender":        set("sender", `"alice"`),
		"room":          set("room_id", `"!`+hash43+`"`),
		"state key":     set("state_key", `null`),
		"long key":      set("state_key", `"`+strings.Repeat("a", 256)+`"`),
		"content":       set("content", `[]`),
		"depth":         set("depth", `-1`),
		"depth type":    set("depth", `"1"`),
		"ts":            set("origin_server_ts", `"1"`),
		"prev":          set("prev_events", `{}`),
		"prev element":  set("prev_events", `[1]`),
		"many prev":     set("prev_events", many(21)),
		"many auth":     set("auth_events", many(11)),
		"hashes":        set("hashes", `""`),
		"signatures":    set("signatures", `""`),
		"no signatures": matrix.AppendWithout(nil, e.JSON, "signatures"),
		"no hashes":     matrix.AppendWithout(nil, e.JSON, "hashes"),
		"no prev":       matrix.AppendWithout(nil, e.JSON, "prev_events"),
		"no room":       matrix.AppendWithout(nil, e.JSON, "room_id"),
		"too large":     set("content", `{"a":"`+strings.Repeat("x", 65536)+`"}`),
	} {
		_, err := Parse(v, raw)
		var me *matrix.Error
		if !errors.As(err, &me) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Parse(v, set("prev_events", many(20))); err != nil {
		t.Error(err)
	}
	if _, err := Parse(v, set("unsigned", `{"age":`+"1"+`}`)); err != nil {
		t.Error(err)
	}
	old := mustVersion(t, "5")
	p := protoFor(old)
	p.Content = json.RawMessage(`{"big":1e3,"f":1.5}`)
	o, err := Build(old, p, specKey(t))
	if err != nil || string(o.Content) != `{"big":1000,"f":1.5}` {
		t.Errorf("%+v %v", o, err)
	}
	if _, err := Build(v, p, specKey(t)); !matrix.HasCode(err, matrix.CodeBadJSON) {
		t.Error(err)
	}
	p = protoFor(v)
	p.Content = json.RawMessage(`{"a":"` + strings.Repeat("x", 65536) + `"}`)
	if _, err := Build(v, p, specKey(t)); !matrix.HasCode(err, matrix.CodeTooLarge) {
		t.Error(err)
	}
}

func TestRedactKeepsWhatTheVersionSays(t *testing.T) {
	for _, c := range []struct{ version, typ, content, want string }{
		{"1", TypeMember, `{"membership":"join","displayname":"x","join_authorised_via_users_server":"@a:b"}`, `{"membership":"join"}`},
		{"8", TypeMember, `{"membership":"join","join_authorised_via_users_server":"@a:b"}`, `{"membership":"join"}`},
		{"9", TypeMember, `{"membership":"join","join_authorised_via_users_server":"@a:b"}`, `{"join_authorised_via_users_server":"@a:b",` +
			`"membership":"join"}`},
		{"10", TypeMember, `{"membership":"invite","third_party_invite":{"signed":{"a":1},"display_name":"x"}}`, `{"membership":"invite"}`},
		{"11", TypeMember, `{"membership":"invite","third_party_invite":{"signed":{"a":1},"display_name":"x"}}`, `{"membership":"invite",` +
			`"third_party_invite":{"signed":{"a":1}}}`},
		{"11", TypeMember, `{"membership":"invite","third_party_invite":1}`, `{"membership":"invite"}`},
		{"10", TypeCreate, `{"creator":"@a:b","m.federate":false}`, `{"creator":"@a:b"}`},
		{"11", TypeCreate, `{"creator":"@a:b","m.federate":false}`, `{"creator":"@a:b","m.federate":false}`},
		{"7", TypeJoinRules, `{"join_rule":"restricted","allow":[],"x":1}`, `{"join_rule":"restricted"}`},
		{"8", TypeJoinRules, `{"join_rule":"restricted","allow":[],"x":1}`, `{"allow":[],"join_rule":"restricted"}`},
		{"10", TypePowerLevels, `{"ban":1,"events":{},"events_default":1,"invite":1,"kick":1,"notifications":{},"redact":1,"state_default":1,` +
			`"users":{},"users_default":1}`, `{"ban":1,"events":{},"events_default":1,"kick":1,"redact":1,"state_default":1,"users":{},` +
			`"users_default":1}`},
		{"11", TypePowerLevels, `{"ban":1,"invite":1,"notifications":{}}`, `{"ban":1,"invite":1}`},
		{"5", TypeAliases, `{"aliases":["#a:b"]}`, `{"aliases":["#a:b"]}`},
		{"6", TypeAliases, `{"aliases":["#a:b"]}`, `{}`},
		{"6", TypeHistoryVisibility, `{"history_visibility":"shared","x":1}`, `{"history_visibility":"shared"}`},
		{"10", TypeRedaction, `{"redacts":"$a","reason":"x"}`, `{}`},
		{"11", TypeRedaction, `{"redacts":"$a","reason":"x"}`, `{"redacts":"$a"}`},
		{"12", TypeMessage, `{"body":"x"}`, `{}`},
	} {
		v := mustVersion(t, c.version)
		raw := fmt.Sprintf(
			`{"type":%q,"content":%s,"origin":"o","membership":"join","prev_state":[],"foo":1,"redacts":"$x","unsigned":{"age":1},`+
				`"signatures":{},"state_key":""}`,
			c.typ,
			c.content,
		)
		got, err := Redact(v, []byte(raw))
		if err != nil {
			t.Fatal(err)
		}
		top := `,"membership":"join","origin":"o","prev_state":[]`
		if v.Redaction >= RedactV11 {
			top = ""
		}
		want := fmt.Sprintf(`{"content":%s%s,"signatures":{},"state_key":"","type":%q}`, c.want, top, c.typ)
		if string(got) != want {
			t.Errorf("%s %s\ngot  %s\nwant %s", c.version, c.typ, got, want)
		}
		again, err := Redact(v, got)
		if err != nil || !bytes.Equal(again, got) {
			t.Errorf("%s %s: not idempotent: %s", c.version, c.typ, again)
		}
	}
}

func TestClientJSON(t *testing.T) {
	key := specKey(t)
	for _, c := range []struct{ version, want string }{
		{"10", `{"content":{"redacts":"$r","reason":"spam"},"event_id":"ID","origin_server_ts":5,"redacts":"$r","room_id":"!room:example.org",` +
			`"sender":"@alice:example.org","type":"m.room.redaction","unsigned":{"age":1}}`},
		{"11", `{"content":{"reason":"spam","redacts":"$r"},"event_id":"ID","origin_server_ts":5,"redacts":"$r","room_id":"!room:example.org",` +
			`"sender":"@alice:example.org","type":"m.room.redaction","unsigned":{"age":1}}`},
	} {
		v := mustVersion(t, c.version)
		e, err := Build(
			v,
			Proto{
				RoomID:         "!room:example.org",
				Type:           TypeRedaction,
				Sender:         "@alice:example.org",
				Redacts:        "$r",
				Content:        json.RawMessage(`{"reason":"spam"}`),
				OriginServerTS: 5,
			},
			key,
		)
		if err != nil {
			t.Fatal(err)
		}
		got := string(ClientJSON([]byte("x"), e, []byte(`{"age":1}`), true))
		if want := "x" + strings.Replace(c.want, "ID", e.ID, 1); got != want {
			t.Errorf("%s\ngot  %s\nwant %s", c.version, got, want)
		}
	}
	v := mustVersion(t, "11")
	e, err := Build(v, Proto{RoomID: "!room:example.org", Type: "m.\"x\"", StateKey: ptr("a\nb"), Sender: "@alice:example.org"}, key)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"content":{},"event_id":"` + e.ID + `","origin_server_ts":0,"sender":"@alice:example.org","state_key":"a\nb","type":"m.\"x\""}`
	if got := string(ClientJSON(nil, e, []byte(`{}`), false)); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	want = `{"content":{},"sender":"@alice:example.org","state_key":"a\nb","type":"m.\"x\""}`
	if got := string(StrippedJSON(nil, e, e.Content)); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	want = `{"content":{},"event_id":"` + e.ID + `","origin_server_ts":0,"sender":"@alice:example.org","state_key":"a\nb","type":"m.\"x\""}`
	if got := string(StrippedJSONWithTime(nil, e, e.Content)); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

func TestSigners(t *testing.T) {
	key := specKey(t)
	build := func(version, content string, stateKey string) *Event {
		v := mustVersion(t, version)
		p := protoFor(v)
		if v.IDFormat == IDField {
			p.ID = "$x:other.example"
		}
		p.Type, p.StateKey, p.Content = TypeMember, &stateKey, json.RawMessage(content)
		e, err := Build(v, p, key)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	join := `{"membership":"join","join_authorised_via_users_server":"@c:third.example"}`
	for _, c := range []struct{ version, content, want string }{
		{"1", `{"membership":"join"}`, "[example.org other.example]"},
		{"7", join, "[example.org]"},
		{"8", join, "[example.org third.example]"},
		{"8", `{"membership":"join","join_authorised_via_users_server":"@c:example.org"}`, "[example.org]"},
		{"11", `{"membership":"invite","third_party_invite":{}}`, "[]"},
	} {
		if got := fmt.Sprint(build(c.version, c.content, "@b:x").Signers()); got != c.want {
			t.Errorf("%s %s: got %s, want %s", c.version, c.content, got, c.want)
		}
	}
	e := build("11", join, "@alice:example.org")
	if err := VerifySignatures(e, keysOf(key)); !errors.Is(err, matrix.ErrSignature) {
		t.Error(err)
	}
	signed, err := Sign(e, "third.example", key)
	if err != nil || signed.ID != e.ID {
		t.Fatal(err)
	}
	if err := VerifySignatures(signed, keysOf(key)); err != nil {
		t.Error(err)
	}
	none := func(string, string) (ed25519.PublicKey, bool) { return nil, false }
	if err := VerifySignatures(signed, none); !errors.Is(err, matrix.ErrSignature) {
		t.Error(err)
	}
}

func TestSealTemplate(t *testing.T) {
	v := mustVersion(t, "11")
	template := `{"room_id":"!r:remote.example","sender":"@a:domain","state_key":"@a:domain","type":"m.room.member",` +
		`"content":{"membership":"join"},"depth":9,"prev_events":["$p"],"auth_events":["$q"],"origin":"remote.example","origin_server_ts":1,` +
		`"hashes":{"sha256":"x"},"signatures":{"evil":{}}}`
	e, err := Seal(v, []byte(template), "domain", specKey(t))
	if err != nil || e.Pruned || e.Membership() != MembershipJoin {
		t.Fatalf("%+v %v", e, err)
	}
	if err := VerifySignatures(e, keysOf(specKey(t))); err != nil {
		t.Error(err)
	}
}

func TestBuildParseProperty(t *testing.T) {
	key := specKey(t)
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.SampledFrom(Versions()).Draw(t, "version")
		p := protoFor(v)
		p.Type = rapid.SampledFrom([]string{TypeMessage, TypeMember, TypeJoinRules, TypePowerLevels, "x.\ny"}).Draw(t, "type")
		if rapid.Bool().Draw(t, "state") {
			p.StateKey = ptr(rapid.StringN(0, 20, 60).Draw(t, "key"))
		}
		content, _ := json.Marshal(rapid.MapOf(rapid.String(), rapid.Int64Range(-(1<<53)+1, 1<<53-1)).Draw(t, "content"))
		p.Content = content
		e, err := Build(v, p, key)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Parse(v, append([]byte(" "), e.JSON...))
		if err != nil || got.ID != e.ID || got.Pruned || got.Type != p.Type {
			t.Fatalf("%+v %v", got, err)
		}
		once, err := Redact(v, e.JSON)
		if err != nil {
			t.Fatal(err)
		}
		twice, err := Redact(v, once)
		if err != nil || !bytes.Equal(once, twice) || !matrix.IsCanonicalJSON(once) {
			t.Fatalf("redact: %s %s %v", once, twice, err)
		}
		if !json.Valid(ClientJSON(nil, e, nil, true)) || !json.Valid(StrippedJSON(nil, e, e.Content)) {
			t.Fatal("the client form is not JSON")
		}
	})
}

func FuzzParseEvent(f *testing.F) {
	key := specKey(f)
	for _, v := range Versions() {
		e, err := Build(v, protoFor(v), key)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(e.JSON, uint8(v.number))
	}
	create, err := Build(versions[12], Proto{Type: TypeCreate, StateKey: ptr(""), Sender: "@a:b"}, key)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(create.JSON, uint8(12))
	f.Add([]byte(`{"auth_events":[[]],"prev_events":[["$a:b",{}]],"content":{"\u0000":[{}]}}`), uint8(1))
	f.Fuzz(func(t *testing.T, raw []byte, n uint8) {
		v := versions[1+int(n)%12]
		e, err := Parse(v, raw)
		if err != nil {
			var me *matrix.Error
			if !errors.As(err, &me) {
				t.Fatalf("%T", err)
			}
			return
		}
		again, err := Parse(v, e.JSON)
		if err != nil || again.ID != e.ID || !bytes.Equal(again.JSON, e.JSON) {
			t.Fatalf("not stable: %v\n%s\n%s", err, e.JSON, again.JSON)
		}
		trusted, err := ParseTrusted(v, e.JSON, e.ID)
		if err != nil || trusted.RoomID != e.RoomID {
			t.Fatal(err)
		}
		if !json.Valid(ClientJSON(nil, e, nil, true)) {
			t.Fatal("the client form is not JSON")
		}
		if r := e.Redacted(); r.ID != e.ID {
			t.Fatal("redaction changed the id")
		}
		_ = VerifySignatures(e, keysOf(key))
	})
}

func benchProto(v Version) Proto {
	p := protoFor(v)
	p.Content = json.RawMessage(
		`{"msgtype":"m.text","body":"Hello, this is a message of usual length, as people write them in rooms all ` +
			`day.","format":"org.matrix.custom.html","formatted_body":"Hello, <b>this</b> is a message of usual ` +
			`length","m.mentions":{"user_ids":["@bob:example.org"]}}`,
	)
	p.AuthEvents = append(p.AuthEvents, "$c"+hash43[1:])
	return p
}

func BenchmarkBuild(b *testing.B) {
	v, key := mustVersion(b, "12"), specKey(b)
	p := benchProto(v)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Build(v, p, key); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	v := mustVersion(b, "12")
	e, err := Build(v, benchProto(v), specKey(b))
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(e.JSON)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(v, e.JSON); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseTrusted(b *testing.B) {
	v := mustVersion(b, "12")
	e, err := Build(v, benchProto(v), specKey(b))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseTrusted(v, e.JSON, e.ID); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifySignatures(b *testing.B) {
	v, key := mustVersion(b, "12"), specKey(b)
	e, err := Build(v, benchProto(v), key)
	if err != nil {
		b.Fatal(err)
	}
	keys := keysOf(key)
	b.ReportAllocs()
	for b.Loop() {
		if err := VerifySignatures(e, keys); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkClientJSON(b *testing.B) {
	v := mustVersion(b, "12")
	e, err := Build(v, benchProto(v), specKey(b))
	if err != nil {
		b.Fatal(err)
	}
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		dst = ClientJSON(dst[:0], e, nil, true)
	}
}

func TestMatchType(t *testing.T) {
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
		if got := matchType(c.pattern, c.text); got != c.want {
			t.Errorf("%q on %q: found %v", c.pattern, c.text, got)
		}
	}
}
