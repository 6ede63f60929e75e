package matrix

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestCanonicalJSONSpecExamples(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{`{}`, `{}`},
		{"{\n \"one\": 1,\n \"two\": \"Two\"\n}", `{"one":1,"two":"Two"}`},
		{`{ "b": "2", "a": "1" }`, `{"a":"1","b":"2"}`},
		{`{"b":"2","a":"1"}`, `{"a":"1","b":"2"}`},
		{
			`{"auth": {"success": true,"mxid": "@john.doe:example.com","profile": {"display_name": "John Doe","three_pids": [{"medium": ` +
				`"email","address": "john.doe@example.org"},{"medium": "msisdn","address": "123456789"}]}}}`,
			`{"auth":{"mxid":"@john.doe:example.com","profile":{"display_name":"John ` +
				`Doe","three_pids":[{"address":"john.doe@example.org","medium":"email"},{"address":"123456789","medium":"msisdn"}]},"success":true}}`,
		},
		{`{"a": "日本語"}`, `{"a":"日本語"}`},
		{`{"本": 2,"日": 1}`, `{"日":1,"本":2}`},
		{`{"a": "\u65E5"}`, `{"a":"日"}`},
		{`{"a": null}`, `{"a":null}`},
		// Beyond the specification's list.
		{`"\/\u0007\u001F\u007f\u0022\b"`, "\"/\\u0007\\u001f\x7f\\\"\\b\""},
		{`"\ud83d\ude00"`, `"😀"`},
		{`{"\ud83d\ude00":1,"\uff61":2}`, `{"｡":2,"😀":1}`},
		{`{"!":1,"\u0001":2,"\"":3,"\\":4,"z":5}`, `{"\u0001":2,"!":1,"\"":3,"\\":4,"z":5}`},
		{` [ 1 , -9007199254740991 , [ ] , { } ] `, `[1,-9007199254740991,[],{}]`},
		{`{"b":{"d":1,"c":2},"a":[{"f":1,"e":2}]}`, `{"a":[{"e":2,"f":1}],"b":{"c":2,"d":1}}`},
	} {
		got, err := CanonicalJSON([]byte(c.in))
		if err != nil || string(got) != c.want {
			t.Errorf("%s: got %s, %v; want %s", c.in, got, err, c.want)
		}
	}
	got, err := CanonicalJSONLenient([]byte(`{"a": -0, "b": 1e10}`))
	if want := `{"a":0,"b":10000000000}`; err != nil || string(got) != want {
		t.Errorf("got %s, %v; want %s", got, err, want)
	}
	got, err = CanonicalJSONLenient([]byte(`{"b":1.5,"a":92233720368547758070,"b":2.50}`))
	if want := `{"a":92233720368547758070,"b":2.5}`; err != nil || string(got) != want {
		t.Errorf("got %s, %v; want %s", got, err, want)
	}
}

func TestCanonicalJSONRefuses(t *testing.T) {
	for _, in := range []string{
		``, ` `, `{`, `}`, `[`, `[1`, `[1,]`, `{"a"}`, `{"a":}`, `{"a":1,}`, `{,}`, `{a:1}`, `nul`, `nulll`, `tru`, `01`, `-`, `+1`,
		`1 2`, `"a`, `"\x"`, `"\u12"`, `"\u12g4"`, `"\`, "\"\x01\"", "\"\xff\"", "\"\xc0\x80\"", "\"\xed\xa0\x80\"",
		`"\ud800"`, `"\ud800\u0041"`, `"\udc00"`, `1.0`, `1e3`, `1.`, `1e`, `-0`, `9007199254740992`, `-9007199254740992`,
		`{"a":1,"a":2}`, `{"b":1,"a":1,"\u0061":2}`, `{"a":1,"\u0061":2}`, `NaN`, `Infinity`, "{}\x00",
		strings.Repeat("[", 101) + strings.Repeat("]", 101),
		strings.Repeat(`{"a":`, 101) + "1" + strings.Repeat("}", 101),
	} {
		got, err := CanonicalJSON([]byte(in))
		if !errors.Is(err, ErrJSON) {
			t.Errorf("%.40q: got %s, %v; want ErrJSON", in, got, err)
		}
	}
	for _, in := range []string{strings.Repeat("[", 100) + strings.Repeat("]", 100), strings.Repeat(" [", 100) + strings.Repeat("]", 100)} {
		if _, err := CanonicalJSON([]byte(in)); err != nil {
			t.Error(err)
		}
	}
}

func TestCanonicalJSONKeepsItsArgument(t *testing.T) {
	in := []byte(`{"b": {"y":1,"x":"\u0041"}, "a":2}`)
	before := string(in)
	if _, err := CanonicalJSON(in); err != nil || string(in) != before {
		t.Fatal(string(in), err)
	}
	canonical := []byte(`{"a":1}`)
	got, err := CanonicalJSON(canonical)
	if err != nil || &got[0] != &canonical[0] {
		t.Fatal("canonical text was copied", err)
	}
}

// anyJSON draws a value that canonical JSON can hold.
func anyJSON() *rapid.Generator[any] {
	return rapid.Custom(func(t *rapid.T) any { return drawJSON(t, 3) })
}

func drawJSON(t *rapid.T, depth int) any {
	kind := rapid.IntRange(0, 5).Draw(t, "kind")
	if depth == 0 {
		kind %= 4
	}
	switch kind {
	case 0:
		return nil
	case 1:
		return rapid.Bool().Draw(t, "bool")
	case 2:
		return rapid.Int64Range(-(1<<53)+1, 1<<53-1).Draw(t, "int")
	case 3:
		return rapid.String().Draw(t, "string")
	case 4:
		list := make([]any, rapid.IntRange(0, 4).Draw(t, "len"))
		for i := range list {
			list[i] = drawJSON(t, depth-1)
		}
		return list
	}
	m := map[string]any{}
	for range rapid.IntRange(0, 6).Draw(t, "len") {
		m[rapid.String().Draw(t, "key")] = drawJSON(t, depth-1)
	}
	return m
}

func TestCanonicalJSONProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := anyJSON().Draw(t, "value")
		var in []byte
		if rapid.Bool().Draw(t, "indent") {
			in, _ = json.MarshalIndent(v, " ", "\t")
		} else {
			in, _ = json.Marshal(v)
		}
		got, err := CanonicalJSON(in)
		if err != nil {
			t.Fatal(err)
		}
		// encoding/json sorts keys by bytes, which is code point order, and
		// differs only in what it escapes.
		var want bytes.Buffer
		enc := json.NewEncoder(&want)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(v); err != nil {
			t.Fatal(err)
		}
		w := strings.TrimSuffix(want.String(), "\n")
		w = strings.NewReplacer(`\\`, `\\`, `\u2028`, "\u2028", `\u2029`, "\u2029").Replace(w)
		if string(got) != w {
			t.Fatalf("got %q\nwant %q", got, w)
		}
		again, err := CanonicalJSON(got)
		if err != nil || !bytes.Equal(again, got) || !IsCanonicalJSON(got) {
			t.Fatalf("not idempotent: %q, %q, %v", got, again, err)
		}
		if err := ValidateJSON(in, Limits{}); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzCanonicalJSON(f *testing.F) {
	for _, s := range []string{
		`{}`, `{"b":"2","a":"1"}`, `[1,-0,1e5,1.25,"\u00e9\ud83d\ude00"]`, `{"\u0000":1,"a":[{"z":{},"y":[]}]}`,
		` { "x" : null , "x" : true } `, `"\ud800"`, `-9007199254740992`, "\"\xff\"",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		strict, err := CanonicalJSON(in)
		lenient, lerr := CanonicalJSONLenient(in)
		verr := ValidateJSON(in, Limits{})
		if err == nil {
			if lerr != nil || verr != nil || !bytes.Equal(strict, lenient) {
				t.Fatalf("strict took what others refuse: %v %v", lerr, verr)
			}
			if !IsCanonicalJSON(strict) {
				t.Fatalf("%q is not canonical", strict)
			}
			if !json.Valid(in) {
				t.Fatal("encoding/json refuses it")
			}
			var a, b any
			if json.Unmarshal(in, &a) != nil || json.Unmarshal(strict, &b) != nil {
				t.Fatal("encoding/json can not read it")
			}
			x, _ := json.Marshal(a)
			y, _ := json.Marshal(b)
			if !bytes.Equal(x, y) {
				t.Fatalf("the value changed: %s, %s", x, y)
			}
		}
		if lerr == nil {
			again, err := CanonicalJSONLenient(lenient)
			if err != nil || !bytes.Equal(again, lenient) {
				t.Fatalf("lenient is not idempotent: %q %q %v", lenient, again, err)
			}
		}
		if verr == nil && !json.Valid(in) {
			t.Fatal("ValidateJSON took what encoding/json refuses")
		}
	})
}

func TestValidateJSON(t *testing.T) {
	deep := strings.Repeat("[", 5) + strings.Repeat("]", 5)
	for _, c := range []struct {
		in  string
		lim Limits
		ok  bool
	}{
		{`{"a":1.5e3}`, Limits{}, true},
		{`{"a":1,"a":2}`, Limits{}, true},
		{`[]`, Limits{Object: true}, false},
		{` {} `, Limits{Object: true}, true},
		{deep, Limits{Depth: 5}, true},
		{deep, Limits{Depth: 4}, false},
		{`[1,2,3]`, Limits{Values: 4}, true},
		{`[1,2,3]`, Limits{Values: 3}, false},
		{`[1,2,3]`, Limits{Bytes: 6}, false},
		{`{"a" 1}`, Limits{}, false},
		{`[1 2]`, Limits{}, false},
		{`{1:2}`, Limits{}, false},
	} {
		if err := ValidateJSON([]byte(c.in), c.lim); (err == nil) != c.ok {
			t.Errorf("%s %+v: %v", c.in, c.lim, err)
		}
	}
}

func TestAppendString(t *testing.T) {
	for in, want := range map[string]string{
		"":                     `""`,
		"a/<>&":                `"a/<>&"`,
		"\x00\x1f\n\t\r\b\f\"": `"\u0000\u001f\n\t\r\b\f\""`,
		"日本\u2028":             "\"日本\u2028\"",
		"a\xffb":               "\"a\ufffdb\"",
		"\xed\xa0\x80":         "\"\ufffd\ufffd\ufffd\"",
		"\xe6":                 "\"\ufffd\"",
	} {
		if got := string(AppendString(nil, in)); got != want {
			t.Errorf("%q: got %s, want %s", in, got, want)
		}
		if got := string(AppendString(nil, []byte(in))); got != want {
			t.Errorf("%q: got %s, want %s", in, got, want)
		}
	}
}

func TestMembers(t *testing.T) {
	obj := []byte(`{"a":"x\"}","b":{"c":[1,"]"]},"d":-1,"e":true}`)
	for key, want := range map[string]string{"a": `"x\"}"`, "b": `{"c":[1,"]"]}`, "d": `-1`, "e": `true`, "f": ``} {
		if got := string(Lookup(obj, key)); got != want {
			t.Errorf("%s: got %s, want %s", key, got, want)
		}
	}
	if s, ok := LookupString(obj, "a"); !ok || s != `x"}` {
		t.Error(s, ok)
	}
	if _, ok := LookupString(obj, "d"); ok {
		t.Error("a number is no string")
	}
	if got := string(AppendWithout(nil, obj, "a", "d")); got != `{"b":{"c":[1,"]"]},"e":true}` {
		t.Error(got)
	}
	if got := string(SetMember(obj, "b", []byte(`0`))); got != `{"a":"x\"}","b":0,"d":-1,"e":true}` {
		t.Error(got)
	}
	if got := string(SetMember([]byte(`{"b":1}`), "a\"", []byte(`0`))); got != `{"a\"":0,"b":1}` {
		t.Error(got)
	}
	if got := string(SetMember(nil, "z", []byte(`0`))); got != `{"z":0}` {
		t.Error(got)
	}
}

var benchJSON = []byte(
	`{"type":"m.room.message","content":{"msgtype":"m.text","body":"Hello, wörld. This is a message of usual length, as people write them ` +
		`in rooms.","format":"org.matrix.custom.html","formatted_body":"Hello, <b>wörld</b>. This is a message of usual ` +
		`length","m.mentions":{"user_ids":["@bob:example.org"]}},"sender":"@alice:example.org",` +
		`"room_id":"!0123456789abcdefghijklmnopqrstuvwxyzABCDEFG","origin_server_ts":1700000000000,"depth":12345,` +
		`"prev_events":["$0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"],"auth_events":["$0123456789abcdefghijklmnopqrstuvwxyzABCDEFG",` +
		`"$1123456789abcdefghijklmnopqrstuvwxyzABCDEFG"]}`,
)

func BenchmarkCanonicalJSON(b *testing.B) {
	b.SetBytes(int64(len(benchJSON)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := CanonicalJSON(benchJSON); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCanonicalJSONAlready(b *testing.B) {
	in, _ := CanonicalJSON(benchJSON)
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := CanonicalJSON(in); err != nil {
			b.Fatal(err)
		}
	}
}
