package conf

import (
	"encoding/json"
	"reflect"
)

// Shared gives the keys that all processes of a fleet must have alike, with their values as JSON texts, secrets
// included: all but those whose field has the tag own:"true".
func Shared(sections []Section) map[string]string {
	out := map[string]string{}
	for _, s := range sections {
		for _, l := range s.leaves() {
			if l.field.tag.Get("own") == "true" {
				continue
			}
			v := s.value().FieldByIndex(l.index)
			if v.Type() == secretType {
				out[l.key()] = v.Interface().(Secret).Reveal()
				continue
			}
			text, err := json.Marshal(plainJSON(v))
			if err != nil {
				text = []byte(err.Error()) // alike in all processes of one version
			}
			out[l.key()] = string(text)
		}
	}
	return out
}

// plainJSON is plain with maps that encoding/json knows.
func plainJSON(v reflect.Value) any {
	if v.Kind() == reflect.Map {
		m := map[string]any{}
		for _, name := range v.MapKeys() {
			m[name.String()] = plainJSON(v.MapIndex(name))
		}
		return m
	}
	return plain(v)
}
