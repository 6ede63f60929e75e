package sync

import (
	"encoding/json"
	"sync"

	"lyceum/matrix"
)

// writer appends JSON. The texts of events are copied into it as they are.
type writer struct {
	b     []byte
	comma bool
}

var buffers = sync.Pool{New: func() any { return &writer{b: make([]byte, 0, 8<<10)} }}

func (w *writer) sep() {
	if w.comma {
		w.b = append(w.b, ',')
	}
	w.comma = true
}

// key begins a member of an object.
func (w *writer) key(k string) {
	w.sep()
	w.b = matrix.AppendString(w.b, k)
	w.b = append(w.b, ':')
}

func (w *writer) open(c byte) {
	w.b = append(w.b, c)
	w.comma = false
}

func (w *writer) close(c byte) {
	w.b = append(w.b, c)
	w.comma = true
}

func (w *writer) string(s string) { w.b = matrix.AppendString(w.b, s) }

// raws writes "name":{"events":[…]} of texts that are ready, unless there are none.
func (w *writer) raws(name string, list []json.RawMessage) {
	if len(list) == 0 {
		return
	}
	w.key(name)
	w.b = append(w.b, `{"events":[`...)
	for i, raw := range list {
		if i > 0 {
			w.b = append(w.b, ',')
		}
		w.b = append(w.b, raw...)
	}
	w.b = append(w.b, "]}"...)
}

// section writes "name":{…} when fill wrote anything, and takes it back when not.
func (w *writer) section(name string, fill func() error) error {
	at, comma := len(w.b), w.comma
	w.key(name)
	w.open('{')
	inner := len(w.b)
	if err := fill(); err != nil {
		return err
	}
	if len(w.b) == inner {
		w.b, w.comma = w.b[:at], comma
		return nil
	}
	w.close('}')
	return nil
}
