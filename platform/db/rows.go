package db

import "database/sql"

// Row is one row of a result: *sql.Rows at its place in a result, or what QueryRow gives.
type Row interface {
	Scan(into ...any) error
}

// Each reads a result to its end and calls fn with each row: Each(fn)(q.Query(…)). An error of fn ends it. Like its
// sisters below it passes on the error of the query and closes the result.
func Each(fn func(Row) error) func(*sql.Rows, error) error {
	return func(rows *sql.Rows, err error) error {
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
func List[T any](scan func(Row) (T, error)) func(*sql.Rows, error) ([]T, error) {
	return func(rows *sql.Rows, err error) ([]T, error) {
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
func Texts(rows *sql.Rows, err error) ([]string, error) {
	return List(func(row Row) (s string, err error) {
		err = row.Scan(&s)
		return s, err
	})(rows, err)
}

// Map reads a result of two columns, the first of which is the key: Map[string, int](q.Query(…)). Of rows with the
// same key the last one holds.
func Map[K comparable, V any](rows *sql.Rows, err error) (map[K]V, error) {
	out := map[K]V{}
	return out, pairs(rows, err, func(k K, v V) { out[k] = v })
}

// Groups reads a result of two columns as the values of each key, in the order of the rows.
func Groups[K comparable, V any](rows *sql.Rows, err error) (map[K][]V, error) {
	out := map[K][]V{}
	return out, pairs(rows, err, func(k K, v V) { out[k] = append(out[k], v) })
}

func pairs[K, V any](rows *sql.Rows, err error, take func(K, V)) error {
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
