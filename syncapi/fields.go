package syncapi

import (
	"bytes"
	"encoding/json"
	"strings"
)

// selectFields returns an event with the named fields only (client-server API, "Filtering", event_fields). A name is a path of keys with
// dots between them; a dot or backslash in a key is escaped by a backslash. A path of more than two keys selects the whole value at the
// first two, as a server may return more than was asked for.
func selectFields(text []byte, fields []string) []byte {
	var whole map[string]json.RawMessage
	if json.Unmarshal(text, &whole) != nil {
		return text
	}
	out := map[string]json.RawMessage{}
	parts := map[string]map[string]json.RawMessage{}
	for _, field := range fields {
		path := splitPath(field)
		value, ok := whole[path[0]]
		if !ok {
			continue
		}
		if len(path) == 1 {
			out[path[0]] = value
			continue
		}
		var inner map[string]json.RawMessage
		if json.Unmarshal(value, &inner) != nil || inner[path[1]] == nil {
			continue
		}
		if parts[path[0]] == nil {
			parts[path[0]] = map[string]json.RawMessage{}
		}
		parts[path[0]][path[1]] = inner[path[1]]
	}
	for key, inner := range parts {
		if out[key] == nil {
			out[key] = encode(inner)
		}
	}
	return encode(out)
}

// encode writes an object whose values are valid JSON, so encoding does not fail.
func encode(m map[string]json.RawMessage) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(m)
	return bytes.TrimSpace(b.Bytes())
}

// splitPath returns the keys of a path.
func splitPath(field string) []string {
	var out []string
	var part strings.Builder
	for i := 0; i < len(field); i++ {
		switch c := field[i]; {
		case c == '\\' && i+1 < len(field) && (field[i+1] == '.' || field[i+1] == '\\'):
			i++
			part.WriteByte(field[i])
		case c == '.':
			out = append(out, part.String())
			part.Reset()
		default:
			part.WriteByte(c)
		}
	}
	return append(out, part.String())
}
