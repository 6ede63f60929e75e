package conf

import (
	"encoding/json"
	"reflect"
)

// Shared returns the keys whose values must be the same in all processes of a fleet, with these values as JSON, secrets in clear: all keys
// but those whose field has the tag own:"true".
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
				text = []byte(err.Error()) // the same in all processes of one version
			}
			out[l.key()] = string(text)
		}
	}
	return out
}

// plainJSON is plain with Go maps, which encoding/json can print, in the place of yaml.MapSlice.
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
