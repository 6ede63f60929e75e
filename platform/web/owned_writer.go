package web

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// ownedWriter writes an HTTP/1.1 answer on a connection that net/http does not manage any more.
type ownedWriter struct {
	conn        *ownedConn
	cancel      context.CancelFunc // of the request
	header      http.Header
	head        *[]byte // written together with the first bytes
	remaining   int64   // bytes of the body that are to come
	chunked     bool    // the body has no length: it is sent in chunks (RFC 9112, 7.1)
	wroteHead   bool
	chunksEnded bool // all chunks were sent
	closeAfter  bool // the connection ends with this answer
	err         error
}

// writerHeads are buffers for a head, or a small answer.
var writerHeads = sync.Pool{New: func() any {
	b := make([]byte, 0, 4<<10)
	return &b
}}

// Header is part of http.ResponseWriter.
func (w *ownedWriter) Header() http.Header { return w.header }

// WriteHeader is part of http.ResponseWriter. Informational answers are left out.
func (w *ownedWriter) WriteHeader(status int) {
	if w.wroteHead || status < 200 {
		return
	}
	w.wroteHead = true
	var err error
	if w.remaining, err = strconv.ParseInt(w.header.Get("Content-Length"), 10, 64); err != nil || w.remaining < 0 {
		w.remaining = 0
		if w.chunked = status != http.StatusNoContent && status != http.StatusNotModified; w.chunked {
			w.header["Transfer-Encoding"] = []string{"chunked"}
		}
	}
	if w.header["Connection"] != nil || w.conn.server.leaving.Load() {
		w.closeAfter = true
	}
	if w.closeAfter {
		w.header["Connection"] = []string{"close"}
	}
	w.head = writerHeads.Get().(*[]byte)
	b := append((*w.head)[:0], "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(status), 10)
	b = append(append(b, ' '), http.StatusText(status)...)
	b = time.Now().UTC().AppendFormat(append(b, "\r\nDate: "...), http.TimeFormat)
	for name, values := range w.header {
		for _, value := range values {
			b = append(append(append(b, "\r\n"...), name...), ": "...)
			b = append(b, strings.Trim(oneLine.Replace(value), " \t")...)
		}
	}
	*w.head = append(b, "\r\n\r\n"...)
}

var oneLine = strings.NewReplacer("\r", " ", "\n", " ")

// Write is part of http.ResponseWriter.
func (w *ownedWriter) Write(p []byte) (int, error) {
	if !w.wroteHead {
		w.WriteHeader(http.StatusOK)
	}
	if w.err != nil {
		return 0, w.err
	}
	if w.chunked && len(p) > 0 {
		return w.writeChunk(p)
	}
	return w.write(p)
}

// writeChunk writes p as one chunk.
func (w *ownedWriter) writeChunk(p []byte) (int, error) {
	b := append(strconv.AppendInt(make([]byte, 0, len(p)+16), int64(len(p)), 16), "\r\n"...)
	if _, err := w.write(append(append(b, p...), "\r\n"...)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// finish ends a complete answer.
func (w *ownedWriter) finish() {
	w.Flush() // an answer without a body
	if w.chunked && w.err == nil {
		_, err := w.write([]byte("0\r\n\r\n"))
		w.chunksEnded = err == nil
	}
}

// write writes p behind the head.
func (w *ownedWriter) write(p []byte) (int, error) {
	ahead := 0
	if w.head != nil {
		ahead = len(*w.head)
		if p == nil || ahead+len(p) <= cap(*w.head) {
			*w.head = append(*w.head, p...)
			n, err := w.conn.conn.Write(*w.head)
			return w.noteWritten(n-ahead, err)
		}
		if _, err := w.conn.conn.Write(*w.head); err != nil {
			return w.noteWritten(0, err)
		}
	}
	n, err := w.conn.conn.Write(p)
	return w.noteWritten(n, err)
}

// noteWritten records how many bytes of the body were sent.
func (w *ownedWriter) noteWritten(n int, err error) (int, error) {
	if w.head != nil {
		writerHeads.Put(w.head)
		w.head = nil
	}
	n = max(n, 0)
	if !w.chunked {
		w.remaining -= int64(n)
	}
	w.err = err
	return n, err
}

// Flush serves http.ResponseController.
func (w *ownedWriter) Flush() {
	if w.head != nil {
		_, _ = w.Write(nil) // kept in err
	}
}

// SetWriteDeadline serves http.ResponseController.
func (w *ownedWriter) SetWriteDeadline(t time.Time) error { return w.conn.conn.SetWriteDeadline(t) }

// SetReadDeadline serves http.ResponseController.
func (w *ownedWriter) SetReadDeadline(t time.Time) error { return w.conn.conn.SetReadDeadline(t) }

// reusable reports whether the answer is complete and the connection may carry another one.
func (w *ownedWriter) reusable() bool {
	return w.wroteHead && w.head == nil && w.err == nil && !w.closeAfter && w.remaining == 0 && w.chunksEnded == w.chunked
}
