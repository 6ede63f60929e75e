package stream

import "encoding/json"

// ValueOf gives the value of a row whose Data is the JSON of a V: the *V of its Entry in the process that wrote it, and elsewhere a
// decoded one, in which complete sets what the JSON lacks. The value is shared: nobody changes it.
func ValueOf[V any](row Row, complete func(v *V)) (*V, error) {
	if v, ok := row.Value.(*V); ok {
		return v, nil
	}
	v := new(V)
	if err := json.Unmarshal(row.Data, v); err != nil {
		return nil, err
	}
	complete(v)
	return v, nil
}

// JSONRows makes the rows that a Store reads: locate gives shard, position and key of a value, and Data is the value's JSON.
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
