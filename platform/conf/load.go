package conf

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// maxFile bounds the size of the file and of secrets.
const maxFile = 1 << 20

// Sources says where the configuration comes from. Later fields override earlier ones.
type Sources struct {
	File    string            // path of the YAML file; empty: none
	Environ []string          // "NAME=value"; nil: the environment of the process
	Flags   map[string]string // "section.key" to value, in the form of the environment
	// SecretIn is called with each file from which a secret was read, the YAML file among them when it has one. May be nil.
	SecretIn func(path string)
}

// Load fills the sections: defaults, then the file, then the environment, then flags; then it checks
// bounds and asks Validate. It returns all that is wrong, each with its place and remedy.
//
// A variable LYCEUM_SECTION_KEY holds a list as "a,b" and a map as "k=v,k2=v2", or either as YAML in
// brackets. A secret may be the name of a file in KEY_file, LYCEUM_SECTION_KEY_FILE or the flag section.key_file.
func Load(sources Sources, sections ...Section) error {
	return load(sources, sections).done()
}

func (l *loader) done() error { return errors.Join(l.errs...) }

func load(sources Sources, sections []Section) *loader {
	l := &loader{sections: sections, where: map[string]string{}, secretIn: sources.SecretIn}
	if l.secretIn == nil {
		l.secretIn = func(string) {}
	}
	names := map[string]bool{}
	for _, s := range sections {
		if names[s.Name] {
			l.errs = append(l.errs, fmt.Errorf("section %q is there twice", s.Name))
			return l
		}
		names[s.Name] = true
		err := s.check()
		if err == nil {
			if err = setDefaults(s.value()); err != nil {
				err = fmt.Errorf("section %q: %w", s.Name, err)
			}
		}
		if err != nil {
			l.errs = append(l.errs, err)
			return l
		}
	}
	if sources.File != "" {
		l.file(sources.File)
	}
	environ := sources.Environ
	if environ == nil {
		environ = os.Environ()
	}
	l.environ(environ)
	l.flags(sources.Flags)
	l.secretFiles()
	// The checks would complain of defaults in the place of values that could not be read.
	if len(l.errs) == 0 {
		for _, s := range sections {
			l.bounds(s.value(), s.Name)
		}
	}
	if len(l.errs) == 0 {
		for _, s := range sections {
			l.validate(s.value(), s.Name)
		}
	}
	return l
}

type loader struct {
	sections []Section
	secretIn func(path string)
	where    map[string]string
	errs     []error
	files    []secretFile // that the configuration file names
}

// secretFile is the file of a secret.
type secretFile struct{ key, path, place string }

// secretFiles reads the files of secrets that the configuration file names, but not those of keys that the environment or a flag overrides.
// A service of systemd gets its secrets as credentials, named by variables, and may not be able to open the files.
func (l *loader) secretFiles() {
	for _, s := range l.sections {
		for _, leaf := range s.leaves() {
			for _, f := range l.files {
				if f.key == leaf.key() && l.where[f.key] == f.place {
					l.secret(f.place, s, leaf, f.path, false)
				}
			}
		}
	}
}

// isSecret reports whether a key is a secret. Keys in lists and maps do not count: no variable or flag overrides them.
func (l *loader) isSecret(key string) bool {
	for _, s := range l.sections {
		for _, leaf := range s.leaves() {
			if leaf.key() == key && leaf.field.typ == secretType {
				return true
			}
		}
	}
	return false
}

func (l *loader) fail(where, key, problem string) {
	l.errs = append(l.errs, &Error{Where: where, Key: key, Problem: problem})
}

func (l *loader) file(path string) {
	text, err := readBounded(path)
	if err != nil {
		l.fail("", "", "the configuration file: "+err.Error())
		return
	}
	l.yaml(path, text)
}

func (l *loader) yaml(name string, text []byte) {
	root, err := parseYAML(text)
	if err != nil {
		l.fail(name, "", err.Error())
		return
	}
	if root == nil {
		return
	}
	d := &decoder{source: name, where: l.where, secretIn: l.secretIn, later: func(key, path, place string) bool {
		if !l.isSecret(key) {
			return false
		}
		l.files = append(l.files, secretFile{key, path, place})
		return true
	}}
	d.keysOf(root, "", func(entry *ast.MappingValueNode, name string) {
		var known []string
		for _, s := range l.sections {
			if s.Name == name {
				d.value(entry.Value, s.value(), name)
				return
			}
			known = append(known, s.Name)
		}
		d.fail(entry, name, unknown(name, known))
	})
	l.errs = append(l.errs, d.errs...)
}

// serviceVariable matches variables that Kubernetes sets for each service of a namespace. Those of services called lyceum or lyceum-media
// begin with LYCEUM_, as ours do.
var serviceVariable = regexp.MustCompile(`_SERVICE_(HOST|PORT(_.*)?)$|_PORT(_[0-9]+_(TCP|UDP|SCTP)(_.*)?)?$`)

func (l *loader) environ(environ []string) {
	known := map[string]bool{}
	var names []string
	given := map[string]string{}
	for _, pair := range environ {
		if name, value, ok := strings.Cut(pair, "="); ok {
			given[name] = value
		}
	}
	for _, s := range l.sections {
		for _, leaf := range s.leaves() {
			known[leaf.env()] = true
			names = append(names, leaf.env())
			text, set := given[leaf.env()]
			if leaf.field.typ == secretType {
				known[leaf.env()+"_FILE"] = true
				if path, ok := given[leaf.env()+"_FILE"]; ok {
					l.secret("environment "+leaf.env()+"_FILE", s, leaf, path, set)
				}
			}
			if set {
				l.text("environment "+leaf.env(), s, leaf, text)
			} else if other := leaf.field.tag.Get("env"); other != "" && given[other] != "" {
				l.text("environment "+other, s, leaf, given[other])
			}
		}
	}
	for name := range given {
		if known[name] || !strings.HasPrefix(name, envPrefix) || serviceVariable.MatchString(name) {
			continue
		}
		// Other variables with our prefix belong to the command line or to other programs.
		ours := slices.ContainsFunc(l.sections, func(s Section) bool { return strings.HasPrefix(name+"_", envName(s.Name, "")) })
		guess := nearest(name, names)
		if ours || guess != "" && editDistance(guess, name) <= 2 {
			problem := "unknown variable: remove it"
			if guess != "" {
				problem = "unknown variable: did you mean " + guess + "?"
			}
			l.fail("environment "+name, "", problem)
		}
	}
}

func (l *loader) flags(flags map[string]string) {
	var keys []string
	known := map[string]bool{}
	for _, s := range l.sections {
		for _, leaf := range s.leaves() {
			known[leaf.key()] = true
			keys = append(keys, leaf.key())
			text, set := flags[leaf.key()]
			if leaf.field.typ == secretType {
				known[leaf.key()+"_file"] = true
				if path, ok := flags[leaf.key()+"_file"]; ok {
					l.secret("flag "+leaf.key()+"_file", s, leaf, path, set)
				}
			}
			if set {
				l.text("flag "+leaf.key(), s, leaf, text)
			}
		}
	}
	for key := range flags {
		if known[key] {
			continue
		}
		problem := unknown(key, keys)
		for _, whole := range keys {
			if rest, inside := strings.CutPrefix(key, whole+"."); inside {
				problem = fmt.Sprintf("it is a part of %s: set that as a whole, as in '%s={%s}'", whole, whole, nested(rest))
			}
		}
		l.fail("flag "+key, "", problem)
	}
}

// nested writes the path a.b as YAML: a: {b: …}.
func nested(path string) string {
	name, rest, deeper := strings.Cut(path, ".")
	if !deeper {
		return name + ": …"
	}
	return name + ": {" + nested(rest) + "}"
}

func (l *loader) secret(where string, s Section, leaf leaf, path string, both bool) {
	if both {
		l.fail(where, leaf.key(), "the secret is also set directly: remove one")
		return
	}
	secret, err := readSecret(path)
	if err != nil {
		l.fail(where, leaf.key(), err.Error())
		return
	}
	l.secretIn(path)
	s.value().FieldByIndex(leaf.index).SetString(secret)
	l.where[leaf.key()] = where
}

func (l *loader) text(where string, s Section, leaf leaf, text string) {
	if err := setAnyText(s.value().FieldByIndex(leaf.index), where, leaf.key(), text); err != nil {
		l.errs = append(l.errs, err)
		return
	}
	l.where[leaf.key()] = where
}

// setAnyText fills a value from one text: a scalar, a list "a,b", a map "k=v,k2=v2", or YAML in brackets.
func setAnyText(v reflect.Value, where, key, text string) error {
	t := v.Type()
	wrong := func(err error) error {
		problem := err.Error()
		if t != secretType {
			problem += fmt.Sprintf(", found %q", Redact(text))
		}
		return &Error{Where: where, Key: key, Problem: problem}
	}
	if t.Kind() == reflect.Pointer && !isText(t) {
		fresh := reflect.New(t.Elem())
		setDefaults(fresh.Elem())
		if err := setAnyText(fresh.Elem(), where, key, text); err != nil {
			return err
		}
		v.Set(fresh)
		return nil
	}
	if isText(t) || t.Kind() != reflect.Slice && t.Kind() != reflect.Map && t.Kind() != reflect.Struct {
		if err := setText(v, text); err != nil {
			return wrong(err)
		}
		return nil
	}
	trimmed := strings.TrimSpace(text)
	if strings.HasPrefix(trimmed, "[") || strings.HasPrefix(trimmed, "{") {
		root, err := parseYAML([]byte(text))
		if err != nil {
			return wrong(err)
		}
		d := &decoder{source: where, inText: true, where: map[string]string{}}
		d.value(root, v, key)
		return errors.Join(d.errs...)
	}
	if t.Kind() == reflect.Struct {
		return wrong(errors.New("expected YAML in braces"))
	}
	var words []string
	if trimmed != "" {
		words = strings.Split(trimmed, ",")
	}
	if err := setWords(v, words); err != nil {
		return wrong(err)
	}
	return nil
}

// setWords fills a slice with words, or a map with words of the form key=value.
func setWords(v reflect.Value, words []string) error {
	t := v.Type()
	if t.Kind() == reflect.Slice {
		out := reflect.MakeSlice(t, len(words), len(words))
		for i, word := range words {
			if err := setText(out.Index(i), strings.TrimSpace(word)); err != nil {
				return err
			}
		}
		v.Set(out)
		return nil
	}
	out := reflect.MakeMap(t)
	for _, word := range words {
		name, value, ok := strings.Cut(word, "=")
		if !ok {
			return errors.New("expected key=value pairs with commas between them")
		}
		element := reflect.New(t.Elem()).Elem()
		if err := setText(element, strings.TrimSpace(value)); err != nil {
			return err
		}
		out.SetMapIndex(reflect.ValueOf(strings.TrimSpace(name)).Convert(t.Key()), element)
	}
	v.Set(out)
	return nil
}

// setDefaults gives fields that are zero the value of their default tag.
func setDefaults(v reflect.Value) error {
	if !isTree(v.Type()) {
		return nil
	}
	var errs []error
	for _, f := range fieldsOf(v.Type()) {
		fv := v.FieldByIndex(f.index)
		if isTree(f.typ) {
			errs = append(errs, setDefaults(fv))
			continue
		}
		if text := f.tag.Get("default"); text != "" && fv.IsZero() {
			errs = append(errs, setAnyText(fv, "default", f.name, text))
		}
	}
	return errors.Join(errs...)
}

// bounds checks the tags min, max and oneof.
func (l *loader) bounds(v reflect.Value, key string) {
	each(v, key, func(v reflect.Value, key string) {
		for _, f := range fieldsOf(v.Type()) {
			fv, name := v.FieldByIndex(f.index), join(key, f.name)
			if allowed := f.tag.Get("oneof"); allowed != "" && fv.Kind() == reflect.String {
				if list := strings.Split(allowed, "|"); !slices.Contains(list, fv.String()) {
					l.fail(l.where[name], name, fmt.Sprintf("expected one of %s, found %q", strings.Join(list, ", "), fv.String()))
				}
			}
			for tag, sign := range map[string]int{"min": -1, "max": 1} {
				text := f.tag.Get(tag)
				if text == "" && tag == "min" {
					text = "0" // no key takes a negative number, but by a min of its own
				}
				if text == "" || !isNumber(f.typ) {
					continue
				}
				bound := reflect.New(f.typ).Elem()
				if err := setText(bound, text); err != nil {
					l.fail("", name, "the tag "+tag+" of its field: "+err.Error())
				} else if compare(fv, bound) == sign {
					words := map[string]string{"min": "at least", "max": "at most"}
					l.fail(l.where[name], name, fmt.Sprintf("expected %s %v, found %v", words[tag], bound.Interface(), fv.Interface()))
				}
			}
		}
	})
}

func compare(a, b reflect.Value) int {
	switch {
	case a.CanInt():
		return cmp.Compare(a.Int(), b.Int())
	case a.CanUint():
		return cmp.Compare(a.Uint(), b.Uint())
	default:
		return cmp.Compare(a.Float(), b.Float())
	}
}

// validate asks every struct that can validate itself, inner ones first.
func (l *loader) validate(v reflect.Value, key string) {
	each(v, key, func(v reflect.Value, key string) {
		if !v.CanAddr() {
			return
		}
		validator, ok := v.Addr().Interface().(interface{ Validate() error })
		if !ok {
			return
		}
		for _, err := range flatten(validator.Validate()) {
			full, where := key, l.where[key]
			problem := err.Error()
			if name, rest, found := strings.Cut(problem, ": "); found {
				for _, f := range fieldsOf(v.Type()) {
					if name == f.name || strings.HasPrefix(name, f.name+".") || strings.HasPrefix(name, f.name+"[") {
						full, problem = join(key, name), rest
						where = cmp.Or(l.where[full], l.where[join(key, f.name)], where)
						break
					}
				}
			}
			l.errs = append(l.errs, &Error{Where: where, Key: full, Problem: problem})
		}
	})
}

func flatten(err error) []error {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	// fmt.Errorf with two %w unwraps to a list too, but its own text says more than its parts.
	if text := errors.Join(joined.Unwrap()...); text == nil || text.Error() != err.Error() {
		return []error{err}
	}
	var all []error
	for _, inner := range joined.Unwrap() {
		all = append(all, flatten(inner)...)
	}
	return all
}

// each calls fn for every struct in v, the innermost first.
func each(v reflect.Value, key string, fn func(v reflect.Value, key string)) {
	t := v.Type()
	switch {
	case isText(t):
	case t.Kind() == reflect.Pointer:
		if !v.IsNil() {
			each(v.Elem(), key, fn)
		}
	case t.Kind() == reflect.Slice:
		for i := range v.Len() {
			each(v.Index(i), fmt.Sprintf("%s[%d]", key, i), fn)
		}
	case t.Kind() == reflect.Map:
		for _, name := range v.MapKeys() {
			// Values of a map have no address; a copy has.
			item := reflect.New(t.Elem()).Elem()
			item.Set(v.MapIndex(name))
			each(item, join(key, name.String()), fn)
		}
	case t.Kind() == reflect.Struct:
		for _, f := range fieldsOf(t) {
			each(v.FieldByIndex(f.index), join(key, f.name), fn)
		}
		fn(v, key)
	}
}

func readSecret(path string) (string, error) {
	text, err := readBounded(path)
	if err != nil {
		return "", fmt.Errorf("the file of the secret: %w", err)
	}
	secret := strings.TrimRight(string(text), "\r\n")
	if secret == "" {
		return "", fmt.Errorf("the file of the secret %s is empty: write the secret into it", path)
	}
	return secret, nil
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s: expected at most %s: is it the right file?", path, Size(maxFile))
	}
	return text, err
}
