package jsontext_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"lyceum/platform/jsontext"
)

func TestKindsOfErrors(t *testing.T) {
	floats := jsontext.Limits{Floats: true}
	for _, c := range []struct {
		text   string
		limits jsontext.Limits
		kind   jsontext.Kind
		offset int
	}{
		{`{"a":1,}`, floats, jsontext.Syntax, 7},
		{`{} {}`, floats, jsontext.Syntax, 3},
		{"[\"a\xff\"]", floats, jsontext.NotUTF8, 3},
		{`["\ud800"]`, floats, jsontext.LoneSurrogate, 2},
		{`[1, 1e400]`, floats, jsontext.NumberRange, 4},
		{strings.Repeat("[", 101), floats, jsontext.TooDeep, 100},
		{`[1,2]`, jsontext.Limits{Bytes: 4}, jsontext.TooLarge, 4},
		{`[1,2]`, jsontext.Limits{Values: 2}, jsontext.TooLarge, 3},
		{` []`, jsontext.Limits{Object: true}, jsontext.NotObject, 1},
	} {
		err := jsontext.Validate([]byte(c.text), c.limits)
		wrong, ok := errors.AsType[*jsontext.Error](err)
		if !ok || wrong.Kind != c.kind || wrong.Offset != c.offset || !errors.Is(err, jsontext.ErrInvalid) {
			t.Errorf("%.20q: expected kind %d at %d, found %v", c.text, c.kind, c.offset, err)
		}
	}
	if err := jsontext.Validate([]byte(`[1e400]`), jsontext.Limits{}); err != nil {
		t.Errorf("without Floats: %v", err)
	}
}

// FuzzValidate holds that what passes is JSON for encoding/json too, and that encoding/json reads each number.
func FuzzValidate(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"a":[1,-0,1e5,1.25]}`, ` null `, `"\ud83d\ude00\n"`, `"\ud800"`, "\"\xff\"", `[1e999]`, `{"a":1}{}`, strings.Repeat("[", 101),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		before := bytes.Clone(text)
		err := jsontext.Validate(text, jsontext.Limits{Floats: true})
		if !bytes.Equal(text, before) {
			t.Fatal("the text was changed")
		}
		var v any
		if err == nil && (!utf8.Valid(text) || json.Unmarshal(text, &v) != nil) {
			t.Fatalf("took %q", text)
		}
		if wrong, ok := errors.AsType[*jsontext.Error](err); err != nil && (!ok || wrong.Offset < 0 || wrong.Offset > len(text)) {
			t.Fatalf("an error without a place: %#v", err)
		}
	})
}

func BenchmarkValidate(b *testing.B) {
	members := make([]string, 200)
	for i := range members {
		members[i] = fmt.Sprintf(`"@user%d:example.org":{"algorithms":["m.olm.v1"],"name":"Größe %d \n","ts":%d}`, i, i, 1700000000000+i)
	}
	for name, text := range map[string]string{
		"message": `{"msgtype":"m.text","body":"A sentence of the usual length, as people write them in rooms."}`,
		"large":   "{" + strings.Join(members, ",") + "}",
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			body := []byte(text)
			for b.Loop() {
				if err := jsontext.Validate(body, jsontext.Limits{Floats: true}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
