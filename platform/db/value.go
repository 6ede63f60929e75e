package db

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"
)

// maxStatement is the most that the values of one statement may take, in bytes: PostgreSQL breaks the connection of a
// message of 1 GiB.
const maxStatement = 256 << 20

// TextError says that a text can not be stored: it holds a NUL or is not UTF-8. Nothing was sent.
type TextError struct {
	Where string // the column as table.column, or the parameter as $1
	NUL   bool   // else it is not UTF-8
}

func (e *TextError) Error() string {
	if e.NUL {
		return "the text for " + e.Where + " has the character U+0000, which a database can not store: leave it out"
	}
	return "the text for " + e.Where + " is not valid UTF-8: expected UTF-8"
}

// badText tells what is wrong with a text: PostgreSQL takes neither, SQLite would give back another text.
func badText[T string | []byte](s T) (nul, bad bool) {
	switch v := any(s).(type) {
	case string:
		if strings.IndexByte(v, 0) >= 0 {
			return true, true
		}
		return false, !utf8.ValidString(v)
	case []byte:
		for _, c := range v {
			if c == 0 {
				return true, true
			}
		}
		return false, !utf8.Valid(v)
	}
	return false, false
}

// arguments makes the values of a statement what the engine takes: it checks texts, and puts lists in the engine's
// form. It gives their size too.
func (d *DB) arguments(args []any) ([]any, int, error) {
	out, size := args, 0
	for i, a := range args {
		v, n, err := d.argument(a)
		if err != nil {
			if text, ok := err.(*TextError); ok {
				text.Where = fmt.Sprintf("$%d", i+1)
			}
			return nil, 0, err
		}
		if size += n; size > maxStatement {
			return nil, 0, fmt.Errorf("%w: expected at most %d in one statement, found %d", ErrTooLarge, maxStatement, size)
		}
		switch a.(type) {
		case nil, string, int64, int, bool, []byte, float64: // they stay what they are
			continue
		}
		if &out[0] == &args[0] {
			out = append([]any(nil), args...)
		}
		out[i] = v
	}
	return out, size, nil
}

func (d *DB) argument(a any) (v any, size int, err error) {
	switch v := a.(type) {
	case nil, int64, int, bool, float64:
		return a, 8, nil
	case string:
		return a, len(v), checkText(v)
	case []byte:
		return a, len(v), nil
	case json.RawMessage:
		// It would be taken for the type json; the columns are BYTEA or TEXT.
		return []byte(v), len(v), checkText([]byte(v))
	case []string:
		for _, s := range v {
			size += len(s)
			if err := checkText(s); err != nil {
				return nil, 0, err
			}
		}
		return d.list(v), size, nil
	case []int64:
		return d.list(v), 8 * len(v), nil
	}
	rv := reflect.ValueOf(a)
	switch {
	case rv.Kind() == reflect.String:
		return rv.String(), rv.Len(), checkText(rv.String())
	case rv.Kind() == reflect.Pointer && rv.IsNil():
		return nil, 8, nil
	case rv.Kind() == reflect.Pointer:
		return d.argument(rv.Elem().Interface())
	case rv.Kind() == reflect.Slice && rv.Type().Elem().Kind() == reflect.String:
		list := make([]string, rv.Len())
		for i := range list {
			list[i] = rv.Index(i).String()
		}
		return d.argument(list)
	case rv.Kind() == reflect.Slice && rv.Type().Elem().Kind() != reflect.Uint8:
		return d.list(a), 8 * rv.Len(), nil
	}
	return a, 8, nil
}

// never takes the place of a text that can not be stored when it is compared with stored texts: it equals none of them.
var never = "never stored " + rand.Text()

// stored replaces texts that can not be stored by never. Queries may look for any text that an event or a setting holds.
func stored(args []any) []any {
	out := slices.Clone(args)
	for i, a := range args {
		v := reflect.Indirect(reflect.ValueOf(a))
		switch {
		case v.Kind() == reflect.String && checkText(v.String()) != nil:
			out[i] = never
		case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.String:
			list := make([]string, v.Len())
			for n := range list {
				if list[n] = v.Index(n).String(); checkText(list[n]) != nil {
					list[n] = never
				}
			}
			out[i] = list
		}
	}
	return out
}

func checkText[T string | []byte](s T) error {
	if nul, bad := badText(s); bad {
		return &TextError{NUL: nul}
	}
	return nil
}

// normalize makes the values of a row int64, string, []byte, bool, float64 or nil, as the columns say, and gives their
// size.
func (t *Table) normalize(row []any) (size int, err error) {
	if len(row) != len(t.Columns) {
		return 0, fmt.Errorf("table %s: expected %d values in each row, found %d", t.Name, len(t.Columns), len(row))
	}
	for i, v := range row {
		column := t.Columns[i]
		fits, n := true, 8
		switch column.Kind {
		case Integer:
			row[i], fits = integer(v)
		case Text:
			var s string
			var null bool
			if s, null, fits = text(v); !fits {
				break
			}
			if nul, bad := badText(s); bad {
				return 0, &TextError{Where: t.Name + "." + column.Name, NUL: nul}
			}
			if row[i], n = s, len(s); null {
				row[i] = nil
			}
		case Bytes:
			var b []byte
			if b, fits = bytesOf(v); b == nil {
				row[i] = nil
			} else {
				row[i], n = b, len(b)
			}
		case Bool:
			_, fits = v.(bool)
			fits = fits || v == nil
		case Float:
			_, fits = v.(float64)
			fits = fits || v == nil
		}
		if !fits {
			return 0, fmt.Errorf("table %s, column %s: expected a value of kind %s, found %T", t.Name, column.Name, column.Kind, v)
		}
		size += n
	}
	return size, nil
}

func integer(v any) (any, bool) {
	switch v := v.(type) {
	case nil, int64:
		return v, true
	case int:
		return int64(v), true
	}
	switch rv := reflect.ValueOf(v); {
	case rv.CanInt():
		return rv.Int(), true
	case rv.Kind() == reflect.Pointer && rv.IsNil():
		return nil, true
	case rv.Kind() == reflect.Pointer:
		return integer(rv.Elem().Interface())
	}
	return nil, false
}

func text(v any) (s string, null, ok bool) {
	switch v := v.(type) {
	case nil:
		return "", true, true
	case string:
		return v, false, true
	case *string:
		if v == nil {
			return "", true, true
		}
		return *v, false, true
	case []byte:
		return string(v), v == nil, true
	case json.RawMessage:
		return string(v), v == nil, true
	}
	if rv := reflect.ValueOf(v); rv.Kind() == reflect.String {
		return rv.String(), false, true
	}
	return "", false, false
}

// bytesOf is nil for NULL.
func bytesOf(v any) ([]byte, bool) {
	switch v := v.(type) {
	case nil:
		return nil, true
	case []byte:
		return v, true
	case json.RawMessage:
		return v, true
	}
	if rv := reflect.ValueOf(v); rv.Kind() == reflect.Slice && rv.Type().Elem().Kind() == reflect.Uint8 {
		return rv.Bytes(), true
	}
	return nil, false
}
