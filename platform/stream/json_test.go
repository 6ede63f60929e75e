package stream_test

import (
	"math"
	"testing"

	"lyceum/platform/stream"
)

func TestJSONRows(t *testing.T) {
	place := func(v float64) stream.Row { return stream.Row{Shard: 3, Pos: int64(v), Key: "key"} }
	rows, err := stream.JSONRows([]float64{1.5, 2}, place)
	if err != nil || len(rows) != 2 {
		t.Fatalf("%v, %v", rows, err)
	}
	if r := rows[0]; r.Shard != 3 || r.Pos != 1 || r.Key != "key" || string(r.Data) != "1.5" || r.Value != 1.5 {
		t.Errorf("row %+v", r)
	}
	if rows, err := stream.JSONRows([]float64{math.NaN()}, place); err == nil || rows != nil {
		t.Errorf("a value without JSON gave %v", rows)
	}
}
