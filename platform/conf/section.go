package conf

import (
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"strings"
)

// Section is the part of the configuration that one package owns.
//
// Into points to a struct. Its fields carry tags:
//
//	yaml:"listen"            the key; "-" is no key; ",inline" has the keys of the struct beside its own
//	default:"127.0.0.1:80"   in the form the environment uses; a field that is set before Load keeps its value
//	help:"…"                 one line for the reference
//	min:"1" max:"50MiB"      bounds of numbers, durations and sizes
//	oneof:"text|json"        allowed values of a text
//	env:"NAME"               another variable that sets it, which other programs read too
//	own:"true"               may differ between the processes of a fleet
//
// Fields may be texts, booleans, numbers, Duration, Size, Secret, anything with UnmarshalText, structs,
// pointers, and lists and maps of these. A struct with a method Validate() error is asked once all is set;
// its errors begin with the key ("listen: expected …, found …: do …") and may be joined.
type Section struct {
	Name string // top-level key of the file
	Into any
	Help string
}

// Key describes one key of the configuration.
type Key struct {
	Section string
	Path    string // "listen", "tls.cert", "rules[].name"
	Env     string // name of the variable that overrides it; empty below lists and maps
	Type    string // for people
	Default string
	Help    string
	Secret  bool
}

const envPrefix = "LYCEUM_"

// field is one field of a struct that holds configuration.
type field struct {
	name  string // key
	index []int
	tag   reflect.StructTag
	typ   reflect.Type
}

var (
	secretType   = reflect.TypeFor[Secret]()
	durationType = reflect.TypeFor[Duration]()
	sizeType     = reflect.TypeFor[Size]()
	textType     = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// isText tells whether a value is written as one text that the type itself reads.
func isText(t reflect.Type) bool { return reflect.PointerTo(t).Implements(textType) }

// isTree tells whether a value is a struct with keys of its own.
func isTree(t reflect.Type) bool { return t.Kind() == reflect.Struct && !isText(t) }

func fieldsOf(t reflect.Type) []field {
	var fields []field
	for i := range t.NumField() {
		f := t.Field(i)
		name, option, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case name == "-" || !f.IsExported() && !f.Anonymous:
		case option == "inline" && f.Type.Kind() == reflect.Struct:
			for _, inner := range fieldsOf(f.Type) {
				inner.index = append([]int{i}, inner.index...)
				fields = append(fields, inner)
			}
		case f.IsExported():
			if name == "" {
				name = strings.ToLower(f.Name)
			}
			fields = append(fields, field{name: name, index: []int{i}, tag: f.Tag, typ: f.Type})
		}
	}
	return fields
}

// check refuses structs that Load could not fill. Its errors are mistakes of a programmer.
func (s Section) check() error {
	v := reflect.ValueOf(s.Into)
	if s.Name == "" || v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return fmt.Errorf("section %q: expected a name and a pointer to a struct, found %T", s.Name, s.Into)
	}
	return checkType(s.Name, v.Elem().Type(), 0)
}

func checkType(path string, t reflect.Type, depth int) error {
	if depth > 10 {
		return fmt.Errorf("%s: the type %s contains itself", path, t)
	}
	if isText(t) {
		return nil
	}
	switch t.Kind() {
	case reflect.String, reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Float32, reflect.Float64:
		return nil
	case reflect.Slice, reflect.Pointer:
		return checkType(path, t.Elem(), depth+1)
	case reflect.Map:
		if t.Key().Kind() == reflect.String {
			return checkType(path, t.Elem(), depth+1)
		}
	case reflect.Struct:
		var errs []error
		seen := map[string]bool{}
		for _, f := range fieldsOf(t) {
			if seen[f.name] {
				errs = append(errs, fmt.Errorf("%s: the key %q is there twice", path, f.name))
			}
			seen[f.name] = true
			errs = append(errs, checkType(path+"."+f.name, f.typ, depth+1))
		}
		return errors.Join(errs...)
	}
	return fmt.Errorf("%s: a field of type %s can not be configured", path, t)
}

// leaf is a key that the environment and flags can set: no struct, and not in a list or map.
type leaf struct {
	section string
	path    string // dotted, below the section
	field   field
	index   []int // from the section's struct
}

func (l leaf) key() string { return l.section + "." + l.path }

func (l leaf) env() string { return envName(l.section, l.path) }

func envName(section, path string) string {
	return envPrefix + strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(section+"_"+path))
}

func leavesOf(section, prefix string, t reflect.Type, index []int) []leaf {
	var leaves []leaf
	for _, f := range fieldsOf(t) {
		at := append(append([]int{}, index...), f.index...)
		if isTree(f.typ) {
			leaves = append(leaves, leavesOf(section, prefix+f.name+".", f.typ, at)...)
			continue
		}
		leaves = append(leaves, leaf{section: section, path: prefix + f.name, field: f, index: at})
	}
	return leaves
}

func (s Section) value() reflect.Value { return reflect.ValueOf(s.Into).Elem() }

func (s Section) leaves() []leaf { return leavesOf(s.Name, "", s.value().Type(), nil) }

// typeName says what to write for a type.
func typeName(t reflect.Type) string {
	switch t {
	case secretType:
		return "secret"
	case durationType:
		return "duration"
	case sizeType:
		return "size"
	}
	if isText(t) {
		return "text"
	}
	switch t.Kind() {
	case reflect.String:
		return "text"
	case reflect.Bool:
		return "true or false"
	case reflect.Float32, reflect.Float64:
		return "number"
	case reflect.Pointer:
		return typeName(t.Elem())
	case reflect.Slice:
		return "list of " + typeName(t.Elem())
	case reflect.Map:
		return "map to " + typeName(t.Elem())
	case reflect.Struct:
		return "keys"
	default:
		return "integer"
	}
}

// nearest returns the candidate most like name, or "" when none is close.
func nearest(name string, candidates []string) string {
	if len(name) > 100 {
		return "" // nobody mistypes that much, and the distance costs the product of the lengths
	}
	best, bestDistance := "", max(2, len(name)/3)+1
	for _, c := range candidates {
		if d := editDistance(name, c); d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best
}

// editDistance counts the letters to insert, remove, replace or swap with a neighbour.
func editDistance(a, b string) int {
	before, last, now := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		now[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			now[j] = min(last[j]+1, now[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				now[j] = min(now[j], before[j-2]+1)
			}
		}
		before, last, now = last, now, before
	}
	return last[len(b)]
}
