package rooms

import (
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
