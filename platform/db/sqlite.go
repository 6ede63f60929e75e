package db

import (
	"database/sql"
	"encoding/json"
	"errors"
	"net/url"
	"reflect"
	"regexp"
	"strings"

	_ "modernc.org/sqlite" // registers the driver "sqlite"
)

// sqliteEngine keeps one connection that writes and a few that read, in WAL mode. Commits are synced to
// the disk: what was acknowledged survives the loss of power.
type sqliteEngine struct{ write, read *sql.DB }

func openSQLite(path string, o Options) (engine, error) {
	pragmas := url.Values{"_pragma": {
		"busy_timeout(10000)", "journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)",
		"cache_size(-16000)", "temp_store(MEMORY)", "wal_autocheckpoint(4000)", "mmap_size(0)",
	}}
	if path == "" || strings.HasPrefix(path, ":memory:") {
		return nil, errors.New("database address: expected sqlite:FILE: a database in memory has no second connection, give a file in a temporary directory")
	}
	dsn := "file:" + escapePath.Replace(path)
	writeParams := url.Values{"_pragma": pragmas["_pragma"], "_txlock": {"immediate"}}
	w, err := sql.Open("sqlite", dsn+"?"+writeParams.Encode())
	if err != nil {
		return nil, err
	}
	w.SetMaxOpenConns(1)
	w.SetMaxIdleConns(1)
	r, err := sql.Open("sqlite", dsn+"?"+url.Values{"_pragma": pragmas["_pragma"]}.Encode())
	if err != nil {
		return nil, err
	}
	readers := o.Readers
	if readers == 0 {
		readers = 4
	}
	r.SetMaxOpenConns(readers)
	r.SetMaxIdleConns(readers)
	return &sqliteEngine{write: w, read: r}, nil
}

func (e *sqliteEngine) readPool() *sql.DB  { return e.read }
func (e *sqliteEngine) writePool() *sql.DB { return e.write }
func (e *sqliteEngine) name() string       { return "sqlite" }
func (e *sqliteEngine) maxParams() int     { return 4000 }

func (e *sqliteEngine) close() error {
	return errors.Join(e.read.Close(), e.write.Close())
}

// escapePath keeps the characters of a file's name that mean something in an address.
var escapePath = strings.NewReplacer("%", "%25", "?", "%3f", "#", "%23")

var (
	anyList     = regexp.MustCompile(`= ANY\(\$(\d+)\)`)
	placeholder = regexp.MustCompile(`\$(\d+)`)
	rowLock     = regexp.MustCompile(` FOR (SHARE|UPDATE)( SKIP LOCKED)?`)
)

// translate turns lists into a table of JSON values, numbers the placeholders in SQLite's way and drops
// row locks: the one writer holds the whole file.
func (e *sqliteEngine) translate(query string) string {
	query = anyList.ReplaceAllString(query, "IN (SELECT value FROM json_each(?$1))")
	query = placeholder.ReplaceAllString(query, "?$1")
	return rowLock.ReplaceAllString(query, "")
}

func (e *sqliteEngine) args(args []any) []any {
	for i, a := range args {
		switch v := a.(type) {
		case nil, string, int64, int, bool, []byte, float64:
		case json.RawMessage:
			args = replaced(args, i, []byte(v))
		default:
			if rv := reflect.ValueOf(a); rv.Kind() == reflect.Slice && rv.Type().Elem().Kind() != reflect.Uint8 {
				list := []byte("[]")
				if rv.Len() > 0 {
					list, _ = json.Marshal(a) // strings and integers can not fail
				}
				args = replaced(args, i, string(list))
			}
		}
	}
	return args
}

func replaced(args []any, i int, v any) []any {
	out := append([]any(nil), args...)
	out[i] = v
	return out
}
