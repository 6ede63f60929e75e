package web

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"
)

func FuzzDecode(f *testing.F) {
	for _, seed := range []string{`{}`, `{"a":1}`, `{"a":"\""}`, `[[[]]]`, `null`, ` {"a":[{"b":"\\"}]} `, "\xff", `{"a":"\ud800"}`, `{}{}`, strings.Repeat("[", 101)} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var v map[string]any
		err := decodeJSON(bytes.Clone(body), &v)
		if err != nil {
			if answer := answerOf(err); answer.HTTPStatus() != 400 {
				t.Fatalf("status %d for a bad body: %v", answer.HTTPStatus(), err)
			}
			return
		}
		if !utf8.Valid(body) || !json.Valid(body) {
			t.Fatalf("took %q", body)
		}
		if depth := depthOf(v); depth > maxDepth {
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
			"origin_server_ts": 1700000000000 + i*977, "content": map[string]string{"msgtype": "m.text", "body": strings.Repeat(fmt.Sprint("word", i*i), 4)},
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
