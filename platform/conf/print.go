package conf

import (
	"encoding"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
)

// Keys lists every key of the sections in the order of their declaration.
func Keys(sections []Section) []Key {
	var keys []Key
	for _, s := range sections {
		keys = append(keys, keysBelow(s.Name, "", s.value().Type(), true)...)
	}
	return keys
}

func keysBelow(section, prefix string, t reflect.Type, env bool) []Key {
	var keys []Key
	for _, f := range fieldsOf(t) {
		path := prefix + f.name
		if isTree(f.typ) {
			keys = append(keys, keysBelow(section, path+".", f.typ, env)...)
			continue
		}
		key := Key{
			Section: section, Path: path, Type: typeName(f.typ),
			Default: f.tag.Get("default"), Help: f.tag.Get("help"), Secret: f.typ == secretType,
		}
		if env {
			key.Env = envName(section, path)
		}
		if allowed := f.tag.Get("oneof"); allowed != "" {
			key.Type = strings.ReplaceAll(allowed, "|", ", ")
		}
		if low, high := f.tag.Get("min"), f.tag.Get("max"); low != "" && high != "" {
			key.Type += ", " + low + " to " + high
		} else if low != "" {
			key.Type += ", at least " + low
		} else if high != "" {
			key.Type += ", at most " + high
		}
		keys = append(keys, key)
		inner, below := f.typ, path
		for inner.Kind() == reflect.Slice || inner.Kind() == reflect.Map || inner.Kind() == reflect.Pointer {
			switch inner.Kind() {
			case reflect.Slice:
				below += "[]"
			case reflect.Map:
				below += ".NAME"
			}
			inner = inner.Elem()
		}
		if isTree(inner) {
			keys = append(keys, keysBelow(section, below+".", inner, false)...)
		}
	}
	return keys
}

// Reference prints every key as Markdown: what to write, the variable that overrides it, type, default and help.
func Reference(sections []Section) []byte {
	var b strings.Builder
	cell := strings.NewReplacer("|", `\|`, "\n", " ")
	code := func(text string) string {
		if text == "" {
			return ""
		}
		return "`" + cell.Replace(text) + "`"
	}
	for i, s := range sections {
		if i > 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "## %s\n\n", s.Name)
		if s.Help != "" {
			fmt.Fprintf(&b, "%s\n\n", s.Help)
		}
		b.WriteString("| key | environment | type | default | meaning |\n|---|---|---|---|---|\n")
		for _, k := range Keys(sections[i : i+1]) {
			kind := k.Type
			if k.Secret {
				kind += " (or a file: `" + k.Path + "_file`)"
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n",
				code(k.Section+"."+k.Path), code(k.Env), cell.Replace(kind), code(k.Default), cell.Replace(k.Help))
		}
	}
	return []byte(b.String())
}

// Effective prints the values in use as YAML that Load reads, with secrets and the passwords of addresses hidden.
func Effective(sections []Section) []byte {
	all := yaml.MapSlice{}
	for _, s := range sections {
		all = append(all, yaml.MapItem{Key: s.Name, Value: redacted(plain(s.value()))})
	}
	text, err := yaml.Marshal(all)
	if err != nil {
		return []byte("# " + strings.ReplaceAll(err.Error(), "\n", "\n# ") + "\n")
	}
	return text
}

// redacted hides the passwords of addresses in a result of plain.
func redacted(v any) any {
	switch v := v.(type) {
	case string:
		return Redact(v)
	case []any:
		for i := range v {
			v[i] = redacted(v[i])
		}
	case yaml.MapSlice:
		for i := range v {
			v[i].Value = redacted(v[i].Value)
		}
	}
	return v
}

// plain converts a value into texts, numbers, lists and yaml.MapSlice, which the YAML library can print.
func plain(v reflect.Value) any {
	t := v.Type()
	if t.Kind() != reflect.Pointer {
		if m, ok := v.Interface().(encoding.TextMarshaler); ok {
			text, err := m.MarshalText()
			if err != nil {
				return err.Error()
			}
			return string(text)
		}
	}
	switch t.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		return plain(v.Elem())
	case reflect.Slice:
		list := make([]any, v.Len())
		for i := range list {
			list[i] = plain(v.Index(i))
		}
		return list
	case reflect.Map:
		items := yaml.MapSlice{}
		names := v.MapKeys()
		slices.SortFunc(names, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		for _, name := range names {
			items = append(items, yaml.MapItem{Key: name.String(), Value: plain(v.MapIndex(name))})
		}
		return items
	case reflect.Struct:
		items := yaml.MapSlice{}
		for _, f := range fieldsOf(t) {
			value := v.FieldByIndex(f.index)
			if value.Kind() == reflect.Pointer && value.IsNil() {
				continue // a key without a value would be refused when it is read again
			}
			items = append(items, yaml.MapItem{Key: f.name, Value: plain(value)})
		}
		return items
	}
	return v.Interface()
}
