package conf

import (
	"encoding"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// Error is one thing wrong in the configuration.
type Error struct {
	Where   string // "lyceum.yaml:12", "environment LYCEUM_BUS_PREFIX", "flag bus.prefix", or empty
	Key     string // "bus.prefix", or empty
	Problem string // what was expected, what was found, what to do
}

func (e *Error) Error() string {
	var parts []string
	for _, part := range []string{e.Where, e.Key, e.Problem} {
		if part != "" {
			parts = append(parts, Redact(part))
		}
	}
	return strings.Join(parts, ": ")
}

// decoder fills values from parsed YAML and gathers what is wrong with it.
type decoder struct {
	source string // name of the file, or of the variable
	inText bool   // the YAML is the value of a variable or flag, so errors name no line
	errs   []error
	where  map[string]string // place where each key was set

	// later notes a file that holds a secret, to be read at the end if neither environment nor flags override it. It returns false for a key
	// that they can not override: then the file is read at once, as all are when later is nil.
	later    func(secretKey, path, place string) bool
	secretIn func(path string) // Sources.SecretIn; may be nil
}

func (d *decoder) at(n ast.Node) string {
	if d.inText {
		return d.source
	}
	if n != nil && n.GetToken() != nil && n.GetToken().Position != nil {
		return d.source + ":" + strconv.Itoa(n.GetToken().Position.Line)
	}
	return d.source
}

func (d *decoder) fail(n ast.Node, key, problem string) {
	d.errs = append(d.errs, &Error{Where: d.at(n), Key: key, Problem: problem})
}

// parseYAML returns the root of the single document, nil when it is empty.
func parseYAML(text []byte) (root ast.Node, err error) {
	defer func() {
		// The file is an operator's: a defect of the parser must read as an error, not end in a stack trace.
		if p := recover(); p != nil {
			root, err = nil, fmt.Errorf("this is not YAML that can be read: %v", p)
		}
	}()
	// keysOf refuses repeated keys itself, to say where and what to do.
	file, err := parser.ParseBytes(text, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		return nil, syntaxError(err)
	}
	for _, doc := range file.Docs {
		if doc == nil || doc.Body == nil || doc.Body.Type() == ast.NullType || doc.Body.Type() == ast.CommentType {
			continue
		}
		if root != nil {
			return nil, errors.New("expected one document, found several: remove the lines with ---")
		}
		root = doc.Body
	}
	return root, nil
}

// syntaxError keeps the parser's message and line but not the excerpt of the file, which may hold a secret.
func syntaxError(err error) error {
	var syntax yaml.Error
	if !errors.As(err, &syntax) {
		return errors.New("this is not YAML that can be read")
	}
	message := syntax.GetMessage()
	if strings.Contains(message, "invalid key") { // as for {address: ::1}
		message += ": a text with colons goes in quotes"
	}
	if token := syntax.GetToken(); token != nil && token.Position != nil {
		return fmt.Errorf("line %d: %s", token.Position.Line, message)
	}
	return errors.New(message)
}

// entries returns the keys and values of a mapping; ok is false when n is no mapping.
func entries(n ast.Node) (values []*ast.MappingValueNode, ok bool) {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, true
	}
	return nil, false
}

func keyText(n *ast.MappingValueNode) string {
	if n.Key == nil || n.Key.GetToken() == nil {
		return ""
	}
	return n.Key.GetToken().Value
}

// keysOf calls fn for each entry of a mapping and refuses repeated keys.
func (d *decoder) keysOf(n ast.Node, key string, fn func(entry *ast.MappingValueNode, name string)) {
	list, ok := entries(n)
	if !ok {
		d.fail(n, key, "expected keys with values, found "+describe(n)+": write \"key: value\" lines below it")
		return
	}
	seen := map[string]bool{}
	for _, entry := range list {
		name := keyText(entry)
		if seen[name] {
			d.fail(entry, join(key, name), "the key is there twice: remove one")
			continue
		}
		seen[name] = true
		fn(entry, name)
	}
}

func join(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}

// tree fills a struct.
func (d *decoder) tree(n ast.Node, v reflect.Value, key string) {
	if n.Type() == ast.NullType {
		return // a key whose lines are all commented out
	}
	fields := fieldsOf(v.Type())
	d.keysOf(n, key, func(entry *ast.MappingValueNode, name string) {
		for _, f := range fields {
			if f.name == name {
				d.value(entry.Value, v.FieldByIndex(f.index), join(key, name))
				return
			}
		}
		for _, f := range fields {
			if f.typ == secretType && f.name+"_file" == name {
				d.secretFile(entry.Value, v.FieldByIndex(f.index), join(key, name), join(key, f.name))
				return
			}
		}
		var names []string
		for _, f := range fields {
			names = append(names, f.name)
		}
		d.fail(entry, join(key, name), unknown(name, names))
	})
}

func unknown(name string, known []string) string {
	if guess := nearest(name, known); guess != "" {
		return fmt.Sprintf("unknown key: did you mean %q?", guess)
	}
	return "unknown key: expected one of " + strings.Join(known, ", ") + ": remove it"
}

func (d *decoder) secretFile(n ast.Node, v reflect.Value, key, secretKey string) {
	if place := d.where[secretKey]; strings.HasPrefix(place, d.source) {
		d.fail(n, key, "the secret is also set at "+place+": remove one")
		return
	}
	text, ok := n.(*ast.StringNode)
	if !ok {
		d.fail(n, key, "expected the path of a file, found "+describe(n))
		return
	}
	d.where[secretKey] = d.at(n)
	if d.later != nil && d.later(secretKey, text.Value, d.at(n)) {
		return
	}
	secret, err := readSecret(text.Value)
	if err != nil {
		d.fail(n, key, err.Error())
		return
	}
	d.holdsSecret(text.Value)
	v.SetString(secret)
}

// holdsSecret reports a file from which a secret was read to Sources.SecretIn.
func (d *decoder) holdsSecret(path string) {
	if d.secretIn != nil {
		d.secretIn(path)
	}
}

// value fills v from n. When n is wrong, it notes the error and leaves v as it was.
func (d *decoder) value(n ast.Node, v reflect.Value, key string) {
	t := v.Type()
	switch n.(type) {
	case *ast.AnchorNode, *ast.AliasNode, *ast.TagNode, *ast.MergeKeyNode:
		d.fail(n, key, "anchors, aliases and tags of YAML are not read here: write the value out")
		return
	case *ast.NullNode:
		if !isTree(t) {
			d.fail(n, key, "there is no value: write one or remove the key; it is a "+typeName(t))
		}
		return
	}
	if t == secretType && strings.HasPrefix(d.where[key], d.source) {
		d.fail(n, key, "the secret is also set at "+d.where[key]+": remove one")
		return
	}
	if d.where[key] == "" || !isTree(t) {
		d.where[key] = d.at(n)
	}
	switch {
	case t == secretType:
		if text, _, ok := word(n); ok && text != "" && !d.inText {
			d.holdsSecret(d.source)
		}
		d.scalar(n, v, key)
	case isText(t):
		d.scalar(n, v, key)
	case t.Kind() == reflect.Struct:
		d.tree(n, v, key)
	case t.Kind() == reflect.Pointer:
		fresh := reflect.New(t.Elem())
		setDefaults(fresh.Elem())
		d.value(n, fresh.Elem(), key)
		v.Set(fresh)
	case t.Kind() == reflect.Slice:
		list, ok := n.(*ast.SequenceNode)
		if !ok {
			d.fail(n, key, "expected a "+typeName(t)+", found "+describe(n)+": write [a, b] or lines that begin with a dash")
			return
		}
		out := reflect.MakeSlice(t, len(list.Values), len(list.Values))
		for i, item := range list.Values {
			setDefaults(out.Index(i))
			d.value(item, out.Index(i), key+"["+strconv.Itoa(i)+"]")
		}
		v.Set(out)
	case t.Kind() == reflect.Map:
		out := reflect.MakeMap(t)
		d.keysOf(n, key, func(entry *ast.MappingValueNode, name string) {
			item := reflect.New(t.Elem()).Elem()
			setDefaults(item)
			d.value(entry.Value, item, join(key, name))
			out.SetMapIndex(reflect.ValueOf(name).Convert(t.Key()), item)
		})
		v.Set(out)
	default:
		d.scalar(n, v, key)
	}
}

// scalar fills a text, number or boolean, and refuses YAML of another kind: no number for a text, for example.
func (d *decoder) scalar(n ast.Node, v reflect.Value, key string) {
	text, kind, ok := word(n)
	t := v.Type()
	wanted := typeName(t)
	found := describe(n)
	if t == secretType {
		found = strings.SplitN(found, " ", 2)[0] // the kind alone: the value is secret
	}
	switch {
	case !ok:
		d.fail(n, key, "expected "+article(wanted)+", found "+found)
		return
	case t == sizeType && kind == ast.IntegerType, t == durationType && text == "0":
	case isText(t) || t.Kind() == reflect.String:
		if kind != ast.StringType {
			problem := "expected " + article(wanted) + ", found " + found + ": put it in quotes"
			if t == durationType {
				problem = errDuration.Error() + ", found " + found + ": add the unit"
			}
			d.fail(n, key, problem)
			return
		}
	case t.Kind() == reflect.Bool && kind != ast.BoolType,
		isNumber(t) && kind != ast.IntegerType && kind != ast.FloatType:
		d.fail(n, key, "expected "+article(wanted)+", found "+found)
		return
	}
	if t.Kind() == reflect.String && Redact(text) != text && !d.inText { // an address with a password
		d.holdsSecret(d.source)
	}
	if err := setText(v, text); err != nil {
		d.fail(n, key, err.Error()+", found "+found)
	}
}

// word returns the text of a scalar node.
func word(n ast.Node) (text string, kind ast.NodeType, ok bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, ast.StringType, true
	case *ast.LiteralNode:
		return n.Value.Value, ast.StringType, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return n.GetToken().Value, n.Type(), true
	case *ast.MappingNode, *ast.MappingValueNode:
		text, ok = withColon(n)
		return text, ast.StringType, ok
	}
	return "", ast.UnknownNodeType, false
}

// withColon returns the text that was meant by a mapping of one key whose colon no space follows. In braces, the parser reads host:6379 as
// the key host with the value 6379, though YAML asks for a space after the colon of a key.
func withColon(n ast.Node) (text string, ok bool) {
	list, _ := entries(n)
	if len(list) != 1 || list[0].Value == nil || list[0].Key == nil {
		return "", false
	}
	value, _, ok := word(list[0].Value)
	key, at := list[0].Key.GetToken(), list[0].Value.GetToken()
	if !ok || key == nil || at == nil || at.Position.Offset != key.Position.Offset+utf8.RuneCountInString(key.Value)+1 {
		return "", false
	}
	return key.Value + ":" + value, true
}

func describe(n ast.Node) string {
	text, kind, ok := word(n)
	if text = Redact(text); len(text) > 60 { // redacted before it is cut: Redact would not know the beginning of an address
		text = text[:60] + "…"
	}
	switch {
	case ok && kind == ast.StringType:
		return fmt.Sprintf("text %q", text)
	case ok:
		return strings.ToLower(kind.String()) + " " + text
	case n == nil || n.Type() == ast.NullType:
		return "nothing"
	case n.Type() == ast.SequenceType:
		return "a list"
	case n.Type() == ast.MappingType || n.Type() == ast.MappingValueType:
		return "keys"
	}
	return strings.ToLower(n.Type().String())
}

func article(noun string) string {
	if noun == "true or false" {
		return noun
	}
	if strings.HasPrefix(noun, "i") {
		return "an " + noun
	}
	return "a " + noun
}

func isNumber(t reflect.Type) bool {
	k := t.Kind()
	return k >= reflect.Int && k <= reflect.Float64 && k != reflect.Uintptr
}

// setText fills a scalar from a text of the environment, a flag or a default.
func setText(v reflect.Value, text string) error {
	t := v.Type()
	if isText(t) {
		return v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(text))
	}
	switch t.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return errors.New("expected true or false")
		}
		v.SetBool(b)
	case reflect.Float32, reflect.Float64:
		f, err := strconv.ParseFloat(text, t.Bits())
		if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			return errors.New("expected a number")
		}
		v.SetFloat(f)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		n, err := strconv.ParseInt(text, 10, t.Bits())
		if err != nil {
			return fmt.Errorf("expected an integer of %d bits", t.Bits())
		}
		v.SetInt(n)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		n, err := strconv.ParseUint(text, 10, t.Bits())
		if err != nil {
			return fmt.Errorf("expected a positive integer of %d bits", t.Bits())
		}
		v.SetUint(n)
	default:
		return fmt.Errorf("a %s can not be written as one word", typeName(t))
	}
	return nil
}
