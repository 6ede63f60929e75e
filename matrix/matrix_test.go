package matrix

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

// specKey is the key of the specification's test vectors.
func specKey(t testing.TB) SigningKey {
	seed, err := DecodeBase64("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1")
	if err != nil {
		t.Fatal(err)
	}
	key, err := NewSigningKey("1", seed)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestSignJSONSpecVectors(t *testing.T) {
	key := specKey(t)
	for _, c := range []struct{ in, want string }{
		{`{}`, `{"signatures":{"domain":{"ed25519:1":` +
			`"K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ"}}}`},
		{`{"one": 1, "two": "Two"}`, `{"one":1,"signatures":{"domain":{"ed25519:1":` +
			`"KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw"}},"two":"Two"}`},
	} {
		got, err := SignJSON([]byte(c.in), "domain", key)
		if err != nil || string(got) != c.want {
			t.Errorf("got %s, %v\nwant %s", got, err, c.want)
		}
		if err := VerifyJSON(got, "domain", "ed25519:1", key.Public()); err != nil {
			t.Error(err)
		}
		if err := VerifyJSON(got, "other", "ed25519:1", key.Public()); !errors.Is(err, ErrSignature) {
			t.Error(err)
		}
	}
}

func TestSignaturesAccumulate(t *testing.T) {
	key := specKey(t)
	other, err := GenerateSigningKey("b_2", bytes.NewReader(bytes.Repeat([]byte{7}, 32)))
	if err != nil {
		t.Fatal(err)
	}
	obj := []byte(`{"a":1,"unsigned":{"age":1}}`)
	for _, s := range []struct {
		entity string
		key    SigningKey
	}{{"z.example", key}, {"a.example", key}, {"a.example", other}, {"z.example", key}} {
		if obj, err = SignJSON(obj, s.entity, s.key); err != nil {
			t.Fatal(err)
		}
	}
	obj = bytes.Replace(obj, []byte(`"age":1`), []byte(`"age":2`), 1)
	for entity, n := range map[string]int{"a.example": 2, "z.example": 1, "none": 0} {
		ids, err := KeyIDs(obj, entity)
		if err != nil || len(ids) != n {
			t.Errorf("%s: %v, %v", entity, ids, err)
		}
	}
	if err := VerifyJSON(obj, "a.example", "ed25519:b_2", other.Public()); err != nil {
		t.Error(err)
	}
	bad := bytes.Replace(obj, []byte(`"a":1`), []byte(`"a":2`), 1)
	if err := VerifyJSON(bad, "a.example", "ed25519:1", key.Public()); !errors.Is(err, ErrSignature) {
		t.Error(err)
	}
	if err := VerifyJSON(obj, "a.example", "ed25519:1", other.Public()); !errors.Is(err, ErrSignature) {
		t.Error(err)
	}
	if _, err := SignJSON([]byte(`{"signatures":1}`), "a", key); err == nil {
		t.Error("signatures must be an object")
	}
	if _, err := SignJSON([]byte(`[]`), "a", key); err == nil {
		t.Error("only objects are signed")
	}
}

func TestKeyIDGrammar(t *testing.T) {
	for id, ok := range map[string]bool{"ed25519:1": true, "ed25519:a_B9": true, "ed25519:": false, "rsa:1": false, "ed25519:a-b": false} {
		if ValidKeyID(id) != ok {
			t.Error(id)
		}
	}
	if _, err := NewSigningKey("a", make([]byte, 31)); err == nil {
		t.Error("short seed taken")
	}
	if _, err := NewSigningKey("a b", make([]byte, 32)); err == nil {
		t.Error("bad name taken")
	}
}

func TestBase64(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "f": "Zg", "fo": "Zm8", "foo": "Zm9v", "foob": "Zm9vYg", "fooba": "Zm9vYmE",
		"foobar": "Zm9vYmFy",
	} {
		if got := Base64([]byte(in)); got != want {
			t.Errorf("%q: got %s, want %s", in, got, want)
		}
		for _, pad := range []string{"", "=", "=="} {
			if got, err := DecodeBase64(want + pad); err != nil || string(got) != in {
				t.Errorf("%q: got %s, %v", want, got, err)
			}
		}
	}
	if got, err := DecodeBase64("-_8"); err != nil || !bytes.Equal(got, []byte{0xfb, 0xff}) {
		t.Error(got, err)
	}
}

func TestServerNames(t *testing.T) {
	for name, want := range map[string]string{
		"matrix.org": "matrix.org 0", "matrix.org:8888": "matrix.org 8888", "1.2.3.4": "1.2.3.4 0", "1.2.3.4:1234": "1.2.3.4 1234",
		"[1234:5678::abcd]": "[1234:5678::abcd] 0", "[1234:5678::abcd]:5678": "[1234:5678::abcd] 5678", "localhost:1": "localhost 1",
		"UPPER.example": "UPPER.example 0", "123.com": "123.com 0",
	} {
		host, port, err := ParseServerName(name)
		if got := fmt.Sprint(host, " ", port); err != nil || got != want || !ValidServerName(name) {
			t.Errorf("%s: got %s, %v; want %s", name, got, err, want)
		}
	}
	for _, name := range []string{
		"", ":80", "a:", "a:b", "a:123456", "a:65536", "a b", "a/b", "256.1.1.1", "[::1", "[::1]x", "[1.2.3.4]", "[fe80::1%eth0]",
		"::1", "a:1:2", "ex_ample.org", "münchen.de", strings.Repeat("a", 256),
	} {
		if ValidServerName(name) {
			t.Errorf("%q was taken", name)
		}
	}
}

func TestIDs(t *testing.T) {
	hash := strings.Repeat("aB-_", 10) + "abc"
	for _, c := range []struct {
		id    string
		valid func(string) bool
		ok    bool
	}{
		{"@alice:example.org", ValidUserID, true},
		{"@Alice Ünï!:example.org:8448", ValidUserID, true},
		{"@:example.org", ValidUserID, true},
		{"@a\x00:example.org", ValidUserID, false},
		{"@a\xff:example.org", ValidUserID, false},
		{"@alice", ValidUserID, false},
		{"alice:example.org", ValidUserID, false},
		{"@alice:", ValidUserID, false},
		{"", ValidUserID, false},
		{"@" + strings.Repeat("a", 242) + ":example.org", ValidUserID, true},
		{"@" + strings.Repeat("a", 243) + ":example.org", ValidUserID, false},
		{"!room:example.org", ValidRoomID, true},
		{"!" + hash, ValidRoomID, true},
		{"!" + hash + "a", ValidRoomID, false},
		{"!" + hash[1:] + "+", ValidRoomID, false},
		{"!room", ValidRoomID, false},
		{"", ValidRoomID, false},
		{"#room:example.org", ValidAlias, true},
		{"#日本:example.org", ValidAlias, true},
		{"#room", ValidAlias, false},
		{"$ev:example.org", ValidEventID, true},
		{"$acR1l0raoZnm60CBwAVgqbZqoO/mYU81xysh1u7XcJk", ValidEventID, true},
		{"$", ValidEventID, false},
		{"ev", ValidEventID, false},
		{"$" + strings.Repeat("a", 255), ValidEventID, false},
	} {
		if c.valid(c.id) != c.ok {
			t.Errorf("%q: want %v", c.id, c.ok)
		}
	}
	if ServerOf("@a:b.c:80") != "b.c:80" || ServerOf("!"+hash) != "" || LocalpartOf("@a:b") != "a" || LocalpartOf("") != "" {
		t.Error("ServerOf, LocalpartOf")
	}
	if id, err := NewUserID("a=/b", "x.org"); id != "@a=/b:x.org" || err != nil {
		t.Error(id, err)
	}
	for _, local := range []string{"", "A", "ä", "a:b"} {
		if _, err := NewUserID(local, "x.org"); !errors.Is(err, ErrID) {
			t.Errorf("%q was taken", local)
		}
	}
}

func TestMXC(t *testing.T) {
	server, media, err := ParseMXC("mxc://example.org:80/abc_D-1")
	if err != nil || server != "example.org:80" || media != "abc_D-1" || NewMXC(server, media) != "mxc://example.org:80/abc_D-1" {
		t.Error(server, media, err)
	}
	for _, uri := range []string{"", "mxc://", "mxc://a", "mxc://a/", "mxc:///b", "mxc://a/b/c", "mxc://a/..", "http://a/b", "mxc://a b/c"} {
		if _, _, err := ParseMXC(uri); err == nil {
			t.Errorf("%q was taken", uri)
		}
	}
}

func FuzzParseIDs(f *testing.F) {
	for _, s := range []string{
		"@a:b", "!a:b.c:1", "#ä:[::1]:9", "$x", "mxc://a/b", "1.2.3.4:5", "@:x", "!" + strings.Repeat("x", 43), "", ":", "@\x00:a",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for sigil, parse := range map[string]func(string) (string, string, error){
			"@": ParseUserID, "!": ParseRoomID, "#": ParseAlias,
			"$": ParseEventID,
		} {
			local, server, err := parse(s)
			if err != nil {
				continue
			}
			back := sigil + local
			if server != "" {
				back += ":" + server
			}
			if back != s || len(s) > MaxIDBytes || server != "" && !ValidServerName(server) || ServerOf(s) != server {
				t.Fatalf("%q became %q", s, back)
			}
		}
		if server, media, err := ParseMXC(s); err == nil && NewMXC(server, media) != s {
			t.Fatal(s)
		}
		if host, port, err := ParseServerName(s); (err == nil) != ValidServerName(s) || err == nil && (host == "" || port < 0 || port > 65535) {
			t.Fatal(s, host, port, err)
		}
	})
}

func TestErrorJSON(t *testing.T) {
	e := LimitExceeded(1500 * time.Millisecond).With(io.EOF)
	raw, err := json.Marshal(e)
	if want := `{"errcode":"M_LIMIT_EXCEEDED","error":"Too many requests","retry_after_ms":1500}`; err != nil || string(raw) != want {
		t.Fatalf("got %s, %v; want %s", raw, err, want)
	}
	var back Error
	if err := json.Unmarshal(raw, &back); err != nil {
		t.Fatal(err)
	}
	if back.Status != 429 || back.Code != CodeLimitExceeded || back.Extra["retry_after_ms"] != 1500.0 || back.Cause != nil {
		t.Errorf("%+v", back)
	}
	kept := Error{Status: 503}
	if err := json.Unmarshal([]byte(`{"errcode":"M_UNKNOWN"}`), &kept); err != nil || kept.Status != 503 {
		t.Errorf("%+v, %v", kept, err)
	}
	if err := json.Unmarshal([]byte(`{"error":"x"}`), &kept); err == nil {
		t.Error("an error without errcode was taken")
	}
	if !errors.Is(e, io.EOF) || !strings.Contains(e.Error(), "EOF") {
		t.Error("the cause is lost")
	}
}

func TestAsError(t *testing.T) {
	if AsError(nil) != nil {
		t.Error("nil must stay nil")
	}
	inner := Forbidden("no")
	if got := AsError(fmt.Errorf("join: %w", inner)); got != inner {
		t.Error(got)
	}
	secret := errors.New("password of the database")
	got := AsError(secret)
	raw, _ := json.Marshal(got)
	if got.Status != 500 || got.Code != CodeUnknown || !errors.Is(got, secret) || bytes.Contains(raw, []byte("password")) {
		t.Errorf("%+v %s", got, raw)
	}
	if !HasCode(fmt.Errorf("x: %w", inner), CodeForbidden) || HasCode(secret, CodeForbidden) {
		t.Error("HasCode")
	}
	if !errors.Is(fmt.Errorf("x: %w", NotFound("room")), NotFound("")) || errors.Is(NotFound("room"), NotFound("user")) {
		t.Error("Is")
	}
	a := Forbidden("x")
	b := a.WithExtra("k", 1)
	if len(a.Extra) != 0 || b.Extra["k"] != 1 {
		t.Error("WithExtra changed its receiver")
	}
	for _, e := range []*Error{
		UnknownToken(true), MissingToken(), MethodNotAllowed(), Unrecognized(), Unavailable("x"),
		IncompatibleRoomVersion("1"), UserLocked("x"), BadState("x"),
	} {
		raw, err := json.Marshal(e)
		var back Error
		if err != nil || json.Unmarshal(raw, &back) != nil || back.Code != e.Code || back.Message != e.Message ||
			len(back.Extra) != len(e.Extra) {
			t.Errorf("%s: %+v", raw, back)
		}
	}
}
