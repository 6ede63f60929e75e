package db

import "database/sql"

// Rows is a result. The caller closes it or reads it to its end; either gives the connection back.
type Rows struct {
	*sql.Rows
	turn turn
}

// Next goes to the next row. After the last one the result is closed.
func (r *Rows) Next() bool {
	more := r.Rows.Next()
	if !more {
		r.turn.leave()
	}
	return more
}

// Close may be called more than once.
func (r *Rows) Close() error {
	defer r.turn.leave()
	return r.Rows.Close()
}

// asRows is a result that holds no turn.
func asRows(rows *sql.Rows, err error) (*Rows, error) {
	if err != nil {
		return nil, err
	}
	return &Rows{Rows: rows}, nil
}

// Row is one row of a result: *Rows at its place in a result, or what QueryRow gives.
type Row interface {
	Scan(into ...any) error
}

// Each reads a result to its end and calls fn with each row: Each(fn)(q.Query(…)). An error of fn ends it. Like the functions below, it
// returns the error of the query and closes the result.
func Each(fn func(Row) error) func(*Rows, error) error {
	return func(rows *Rows, err error) error {
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			if err := fn(rows); err != nil {
				return err
			}
		}
		return rows.Err()
	}
}

// List reads a result as what scan makes of each row: List(scan)(q.Query(…)). It is nil when there is no row.
func List[T any](scan func(Row) (T, error)) func(*Rows, error) ([]T, error) {
	return func(rows *Rows, err error) ([]T, error) {
		var out []T
		err = Each(func(row Row) error {
			v, err := scan(row)
			out = append(out, v)
			return err
		})(rows, err)
		if err != nil {
			return nil, err
		}
		return out, nil
	}
}

// Texts reads a result of one column: Texts(q.Query(…)). It is nil when there is no row.
func Texts(rows *Rows, err error) ([]string, error) {
	return List(func(row Row) (s string, err error) {
		err = row.Scan(&s)
		return s, err
	})(rows, err)
}

// Map reads a result of two columns, the first of which is the key: Map[string, int](q.Query(…)). Of rows with the
// same key the last one holds.
func Map[K comparable, V any](rows *Rows, err error) (map[K]V, error) {
	out := map[K]V{}
	return out, pairs(rows, err, func(k K, v V) { out[k] = v })
}

// Groups reads a result of two columns as the values of each key, in the order of the rows.
func Groups[K comparable, V any](rows *Rows, err error) (map[K][]V, error) {
	out := map[K][]V{}
	return out, pairs(rows, err, func(k K, v V) { out[k] = append(out[k], v) })
}

func pairs[K, V any](rows *Rows, err error, take func(K, V)) error {
	return Each(func(row Row) error {
		var k K
		var v V
		if err := row.Scan(&k, &v); err != nil {
			return err
		}
		take(k, v)
		return nil
	})(rows, err)
}
