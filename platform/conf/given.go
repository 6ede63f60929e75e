package conf

import "reflect"

// Given is a key that the file, the environment or a flag sets.
type Given struct {
	Key   string // "http.max_body"
	Where string // the place, for messages
	Env   string // the variable that overrides it
	Value any    // for a YAML encoder; of a secret the text, not hidden
	// Secret: the key is a secret. Holds: it is a list or map with secrets in it; Value hides those.
	Secret, Holds bool
}

// LoadGiven does what Load does, and returns the keys that the sources set, in the order of their declaration.
func LoadGiven(sources Sources, sections ...Section) ([]Given, error) {
	l := load(sources, sections)
	if err := l.done(); err != nil {
		return nil, err
	}
	var out []Given
	for _, s := range sections {
		for _, leaf := range s.leaves() {
			place := l.where[leaf.key()]
			if place == "" {
				continue
			}
			v := s.value().FieldByIndex(leaf.index)
			g := Given{
				Key: leaf.key(), Where: place, Env: leaf.env(), Value: plain(v), Secret: v.Type() == secretType,
				Holds: holdsSecrets(v.Type()),
			}
			if secret, ok := v.Interface().(Secret); ok {
				g.Value = secret.Reveal()
			}
			out = append(out, g)
		}
	}
	return out, nil
}

// holdsSecrets reports whether a value of the type can have secrets in it.
func holdsSecrets(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Slice, reflect.Map, reflect.Pointer:
		return t.Elem() == secretType || holdsSecrets(t.Elem())
	case reflect.Struct:
		if isText(t) {
			return false
		}
		for _, f := range fieldsOf(t) {
			if f.typ == secretType || holdsSecrets(f.typ) {
				return true
			}
		}
	}
	return false
}
