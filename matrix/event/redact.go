package event

import (
	"lyceum/matrix"
)

// Redact gives the canonical form of the event raw after redaction, with its
// hashes and signatures (client-server API, "Redactions"; the lists of each
// room version). unsigned is dropped.
func Redact(v Version, raw []byte) ([]byte, error) {
	obj, err := v.Canonical(raw)
	if err != nil {
		return nil, matrix.BadJSON("Invalid event: not canonical JSON").With(err)
	}
	if len(obj) == 0 || obj[0] != '{' {
		return nil, bad("expected an object")
	}
	return appendRedacted(make([]byte, 0, len(obj)), v.ref(), obj, true), nil
}

// Redacted gives the redacted form of e; its id stays.
func (e *Event) Redacted() *Event {
	r := &Event{JSON: appendRedacted(make([]byte, 0, len(e.JSON)), e.version, e.JSON, true), version: e.version, Pruned: e.Pruned}
	if _, err := r.readMembers(); err != nil {
		// Redaction only removes members, so what could be read stays so.
		return e
	}
	r.ID, r.RoomID = e.ID, e.RoomID
	return r
}

// appendRedacted appends the redacted canonical object obj. Without
// signatures it is the text that is signed and whose hash is the event id.
func appendRedacted(dst []byte, v *Version, obj []byte, signatures bool) []byte {
	typ, _ := stringView(matrix.Lookup(obj, "type"))
	dst = append(dst, '{')
	open := len(dst)
	for i := 1; ; {
		m, next, ok := matrix.NextMember(obj, i)
		if !ok {
			return append(dst, '}')
		}
		i = next
		switch string(m.Key) {
		case "auth_events", "content", "depth", "event_id", "hashes", "origin_server_ts",
			"prev_events", "room_id", "sender", "state_key", "type":
		case "signatures":
			if !signatures {
				continue
			}
		case "membership", "origin", "prev_state":
			if v.Redaction >= RedactV11 {
				continue
			}
		default:
			continue
		}
		if len(dst) > open {
			dst = append(dst, ',')
		}
		if string(m.Key) == "content" {
			dst = append(dst, `"content":`...)
			dst = appendRedactedContent(dst, v.Redaction, typ, m.Value)
			continue
		}
		dst = append(dst, m.Raw...)
	}
}

func appendRedactedContent(dst []byte, r Redaction, typ string, content []byte) []byte {
	if typ == TypeCreate && r >= RedactV11 {
		return append(dst, content...)
	}
	dst = append(dst, '{')
	if len(content) == 0 || content[0] != '{' {
		return append(dst, '}')
	}
	open := len(dst)
	for i := 1; ; {
		m, next, ok := matrix.NextMember(content, i)
		if !ok {
			return append(dst, '}')
		}
		i = next
		thirdParty := r >= RedactV11 && typ == TypeMember && string(m.Key) == "third_party_invite" && m.Value[0] == '{'
		if !thirdParty && !keepsContent(r, typ, m.Key) {
			continue
		}
		if len(dst) > open {
			dst = append(dst, ',')
		}
		if !thirdParty {
			dst = append(dst, m.Raw...)
			continue
		}
		dst = append(dst, `"third_party_invite":{`...)
		if signed := matrix.Lookup(m.Value, "signed"); signed != nil {
			dst = append(dst, `"signed":`...)
			dst = append(dst, signed...)
		}
		dst = append(dst, '}')
	}
}

// keepsContent reports whether a redaction keeps that member of the content.
func keepsContent(r Redaction, typ string, key []byte) bool {
	switch typ {
	case TypeMember:
		return string(key) == "membership" || r >= RedactV9 && string(key) == "join_authorised_via_users_server"
	case TypeCreate:
		return string(key) == "creator"
	case TypeJoinRules:
		return string(key) == "join_rule" || r >= RedactV8 && string(key) == "allow"
	case TypePowerLevels:
		switch string(key) {
		case "ban", "events", "events_default", "kick", "redact", "state_default", "users", "users_default":
			return true
		case "invite":
			return r >= RedactV11
		}
	case TypeAliases:
		return r < RedactV6 && string(key) == "aliases"
	case TypeHistoryVisibility:
		return string(key) == "history_visibility"
	case TypeRedaction:
		return r >= RedactV11 && string(key) == "redacts"
	}
	return false
}
