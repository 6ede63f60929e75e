package stream

import "encoding/json"

// JSONRows makes the rows that a Store reads of values: place gives shard, position and key, the data is the
// value's JSON.
func JSONRows[V any](values []V, locate func(V) Row) ([]Row, error) {
	rows := make([]Row, len(values))
	for i, v := range values {
		data, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		rows[i] = locate(v)
		rows[i].Data, rows[i].Value = data, v
	}
	return rows, nil
}
