package rooms

import (
	"encoding/json"
	"io"

	"lyceum/matrix"
)

// encodeJSON is v as JSON; what this package gives it can not fail.
func encodeJSON(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

func quoteJSON(s string) json.RawMessage { return matrix.AppendString(nil, s) }

// arrayBytes is how much of an array is written at once, about: what waits for a client is held twice, as events and as text.
const arrayBytes = 64 << 10

// arrayWriter writes the members of a JSON array or object part by part.
type arrayWriter struct {
	w     io.Writer
	b     []byte // what is not written yet
	comma bool
}

func newArray(w io.Writer, begin string) *arrayWriter { return &arrayWriter{w: w, b: []byte(begin)} }

// next gives what the next member is appended to.
func (a *arrayWriter) next() []byte {
	if a.comma {
		a.b = append(a.b, ',')
	}
	a.comma = true
	return a.b
}

func (a *arrayWriter) flush() error {
	_, err := a.w.Write(a.b)
	a.b = a.b[:0]
	return err
}

// end writes the end, unless there was an error.
func (a *arrayWriter) end(err error, end string) error {
	if err != nil {
		return err
	}
	a.b = append(a.b, end...)
	return a.flush()
}
