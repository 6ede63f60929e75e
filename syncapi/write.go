package syncapi

import (
	"encoding/json"
	"sync"

	"lyceum/accounts"
	"lyceum/matrix"
)

// writer appends JSON. The texts of events are copied into it as they are.
type writer struct {
	b     []byte
	sent  int // bytes of the answer that went to the client before those in b
	comma bool
}

var buffers = sync.Pool{New: func() any { return &writer{b: make([]byte, 0, 8<<10)} }}

// kept tells that the buffer is small enough to be kept for the next answer.
func (w *writer) kept() bool { return cap(w.b) < 1<<20 }

// size is how many bytes the answer has.
func (w *writer) size() int { return w.sent + len(w.b) }

// release gives the writer back for the next answer.
func (w *writer) release() {
	if w.kept() {
		buffers.Put(w)
	}
}

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

// raws writes "name":{"events":[…]} of texts that are ready.
func (w *writer) raws(name string, list []json.RawMessage) {
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

// data writes account data as events.
func (w *writer) data(list []accounts.AccountDatum) {
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

// object is one that stays only when something was written into it.
type object struct {
	at, inner int
	comma     bool
}

// begin begins "name":{…}.
func (w *writer) begin(name string) object {
	s := object{at: w.size(), comma: w.comma}
	w.key(name)
	w.open('{')
	s.inner = w.size()
	return s
}

// end ends an object, and takes it back when nothing was written and its beginning was not sent.
func (w *writer) end(s object) {
	if w.size() == s.inner && s.at >= w.sent {
		w.b, w.comma = w.b[:s.at-w.sent], s.comma
		return
	}
	w.close('}')
}
