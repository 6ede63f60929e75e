package web

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/klauspost/compress/gzip"

	"lyceum/platform/jsontext"
)

func FuzzDecode(f *testing.F) {
	for _, seed := range []string{
		`{}`, `{"a":1}`, `{"a":"\""}`, `[[[]]]`, `null`, ` {"a":[{"b":"\\"}]} `, "\xff", `{"a":"\ud800"}`, `{}{}`,
		strings.Repeat("[", 101),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var v map[string]any
		err := decodeJSON(bytes.Clone(body), &v)
		if err != nil {
			if answer := AnswerOf(err); answer.HTTPStatus() != 400 {
				t.Fatalf("status %d for a bad body: %v", answer.HTTPStatus(), err)
			}
			return
		}
		if !utf8.Valid(body) || !json.Valid(body) {
			t.Fatalf("took %q", body)
		}
		if depth := depthOf(v); depth > jsontext.MaxDepth {
			t.Fatalf("took %d levels", depth)
		}
	})
}

func depthOf(v any) int {
	deepest := 0
	switch v := v.(type) {
	case map[string]any:
		for _, inner := range v {
			deepest = max(deepest, depthOf(inner))
		}
	case []any:
		for _, inner := range v {
			deepest = max(deepest, depthOf(inner))
		}
	default:
		return 0
	}
	return deepest + 1
}

func BenchmarkCompress(b *testing.B) {
	var events []map[string]any
	for i := range 280 {
		events = append(events, map[string]any{
			"event_id": fmt.Sprintf("$%032x", i*7919*104729), "type": "m.room.message", "sender": fmt.Sprintf("@user%d:example.org", i%13),
			"origin_server_ts": 1700000000000 + i*977, "content": map[string]string{"msgtype": "m.text", "body": strings.Repeat(fmt.Sprint("word",
				i*i), 4)},
		})
	}
	body, err := json.Marshal(events)
	if err != nil {
		b.Fatal(err)
	}
	for _, level := range []int{gzip.BestSpeed, 3, gzip.DefaultCompression} {
		b.Run(fmt.Sprint("level", level), func(b *testing.B) {
			packer, _ := gzip.NewWriterLevel(nil, level)
			var out bytes.Buffer
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				out.Reset()
				packer.Reset(&out)
				_, _ = packer.Write(body)
				_ = packer.Close()
			}
			b.ReportMetric(float64(len(body))/float64(out.Len()), "ratio")
		})
	}
}

func TestWhatOthersCouldNotRead(t *testing.T) {
	for text, ok := range map[string]bool{
		`{"a":1e308}`: true, `{"a":-1.5e-400}`: true, `{"a":1e400}`: false, `{"a":[-1E+400]}`: false, `{"a":` + strings.Repeat("9",
			400) + `}`: false,
		`{"a":"\ud83d\ude00"}`: true, `{"a":"\\ud800"}`: true, `{"a":"\ud800"}`: false, `{"a":"\udc00"}`: false, `{"a":"\ud83d\u0041"}`: false,
		`{"\ud800":1}`:  false,
		`{"a":"1e400"}`: true, `{"a":"\u0041\n"}`: true,
	} {
		if err := checkJSON([]byte(text)); (err == nil) != ok {
			t.Errorf("%.60s: %v", text, err)
		}
	}
}
