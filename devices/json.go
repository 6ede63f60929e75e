package devices

import (
	"bytes"
	"encoding/json"

	"lyceum/matrix"
)

// object is a JSON object whose names are compared exactly, as encoding/json does not do for structs.
type object = map[string]json.RawMessage

// rawStrings parses a JSON object of strings.
func rawStrings(raw json.RawMessage) (map[string]string, bool) {
	var out map[string]string
	if len(raw) == 0 || raw[0] != '{' || json.Unmarshal(raw, &out) != nil {
		return nil, false
	}
	return out, true
}

// objectMember returns a member of an object whose name may need escapes, nil for none.
func objectMember(raw json.RawMessage, name string) json.RawMessage {
	var o object
	if json.Unmarshal(raw, &o) != nil {
		return nil
	}
	return o[name]
}

// sameJSON compares two canonical JSON texts without the members that signatures do not cover.
func sameJSON(a, b []byte) bool {
	return bytes.Equal(matrix.AppendWithout(nil, a, "signatures", "unsigned"), matrix.AppendWithout(nil, b, "signatures", "unsigned"))
}
