package syncapi

import (
	"encoding/json"
	"sync"

	"lyceum/accounts"
	"lyceum/matrix"
)

// writer appends JSON to a buffer. The texts of events are copied into it as they are.
type writer struct {
	b     []byte
	sent  int  // bytes of the answer that were sent to the client before those in b
	comma bool // the next value needs a comma before it
}

var buffers = sync.Pool{New: func() any { return &writer{b: make([]byte, 0, 8<<10)} }}

// isPooled reports whether the buffer is small enough to be used again for another answer.
func (w *writer) isPooled() bool { return cap(w.b) < 1<<20 }

// size returns how many bytes the answer has so far.
func (w *writer) size() int { return w.sent + len(w.b) }

// release gives the writer back to the pool.
func (w *writer) release() {
	if w.isPooled() {
		buffers.Put(w)
	}
}

// sep writes a comma unless the value is the first of its object or list.
func (w *writer) sep() {
	if w.comma {
		w.b = append(w.b, ',')
	}
	w.comma = true
}

// key writes the key of a member of an object.
func (w *writer) key(k string) {
	w.sep()
	w.b = matrix.AppendString(w.b, k)
	w.b = append(w.b, ':')
}

// open writes { or [.
func (w *writer) open(c byte) {
	w.b = append(w.b, c)
	w.comma = false
}

// close writes } or ].
func (w *writer) close(c byte) {
	w.b = append(w.b, c)
	w.comma = true
}

func (w *writer) string(s string) { w.b = matrix.AppendString(w.b, s) }

// events writes "name":{"events":[…]} with events that are JSON already.
func (w *writer) events(name string, list []json.RawMessage) {
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

// accountData writes "account_data" with account data as events.
func (w *writer) accountData(list []accounts.AccountDatum) {
	w.key("account_data")
	w.b = append(w.b, `{"events":[`...)
	for i, d := range list {
		if i > 0 {
			w.b = append(w.b, ',')
		}
		w.b = matrix.AppendString(append(w.b, `{"type":`...), d.Type)
		w.b = append(w.b, `,"content":`...)
		w.b = append(append(w.b, d.Content...), '}')
	}
	w.b = append(w.b, "]}"...)
}

// object is the beginning of a JSON object that is removed again when nothing is written into it.
type object struct {
	at, inner int  // where its key and its content begin, by size
	comma     bool // writer.comma before the key
}

// beginObject begins "name":{…}.
func (w *writer) beginObject(name string) object {
	o := object{at: w.size(), comma: w.comma}
	w.key(name)
	w.open('{')
	o.inner = w.size()
	return o
}

// endObject ends an object. It removes the object when nothing was written into it, unless its beginning was sent.
func (w *writer) endObject(o object) {
	if w.size() == o.inner && o.at >= w.sent {
		w.b, w.comma = w.b[:o.at-w.sent], o.comma
		return
	}
	w.close('}')
}
