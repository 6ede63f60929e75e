package rooms

import (
	"bytes"
	"encoding/json"

	"lyceum/matrix"
)

// encodeJSON is v as JSON; what this package gives it can not fail.
func encodeJSON(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

func quoteJSON(s string) json.RawMessage { return matrix.AppendString(nil, s) }

// encodeJSONUnescaped is v as JSON with <, > and & as they are.
func encodeJSONUnescaped(v any) json.RawMessage {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err)
	}
	return bytes.TrimSpace(b.Bytes())
}
