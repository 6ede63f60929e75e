package fleet

import (
	"reflect"
	"strings"

	"github.com/goccy/go-yaml"

	"lyceum/platform/conf"
)

// YAML prints the configuration as it is in use, with its secrets or without these keys.
func (c *Config) YAML(secrets bool) ([]byte, error) {
	var tree yaml.MapSlice
	if err := yaml.UnmarshalWithOptions(conf.Effective(c.Sections()), &tree, yaml.UseOrderedMap()); err != nil {
		return nil, err
	}
	kept := tree[:0]
	for _, s := range c.Sections() {
		for _, item := range tree {
			if item.Key != s.Name {
				continue
			}
			if v := withSecrets(reflect.ValueOf(s.Into).Elem(), item.Value, secrets); v != nil {
				kept = append(kept, yaml.MapItem{Key: item.Key, Value: v})
			}
		}
	}
	text, err := yaml.Marshal(kept)
	return text, err
}

// withSecrets puts the secrets of v into its printed form, or takes their keys out; nil is nothing.
func withSecrets(v reflect.Value, printed any, secrets bool) any {
	if s, ok := v.Interface().(conf.Secret); ok {
		if !secrets || s == "" {
			return nil
		}
		return s.Reveal()
	}
	if v.Kind() == reflect.String { // an address may hold a password
		switch address := v.String(); {
		case conf.Redact(address) == address:
			return printed
		case secrets:
			return address
		default:
			return conf.WithoutPasswords(address)
		}
	}
	items, ok := printed.(yaml.MapSlice)
	switch {
	case v.Kind() == reflect.Pointer && !v.IsNil():
		return withSecrets(v.Elem(), printed, secrets)
	case !ok && v.Kind() == reflect.Slice:
		list, _ := printed.([]any)
		for i := range list {
			if i < v.Len() {
				list[i] = withSecrets(v.Index(i), list[i], secrets)
			}
		}
		return printed
	case !ok:
		return printed
	}
	kept := yaml.MapSlice{}
	for _, item := range items {
		name, _ := item.Key.(string)
		inner := item.Value
		if field := memberOf(v, name); field.IsValid() {
			inner = withSecrets(field, item.Value, secrets)
		}
		if inner != nil {
			kept = append(kept, yaml.MapItem{Key: item.Key, Value: inner})
		}
	}
	return kept
}

// memberOf finds the field or the entry of a map that has a name in the configuration.
func memberOf(v reflect.Value, name string) reflect.Value {
	switch v.Kind() {
	case reflect.Map:
		return v.MapIndex(reflect.ValueOf(name).Convert(v.Type().Key()))
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			key, option, _ := strings.Cut(f.Tag.Get("yaml"), ",")
			switch {
			case option == "inline":
				if found := memberOf(v.Field(i), name); found.IsValid() {
					return found
				}
			case f.IsExported() && (key == name || key == "" && strings.EqualFold(f.Name, name)):
				return v.Field(i)
			}
		}
	}
	return reflect.Value{}
}
