package web

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// Reply is a JSON answer with a status or headers of its own.
type Reply struct {
	Status int // 0 is 200
	Header http.Header
	Value  any // nil is {}
}

// Raw is an answer whose bytes are ready. Without a Content-Type it is application/json.
type Raw struct {
	Status int // 0 is 200
	Header http.Header
	Body   []byte
}

// Stream is an answer that is written piece by piece and never buffered. Set Content-Length and
// Content-Type in Header where they are known. When Write fails the connection is cut, so that the
// client can not take a part for the whole.
type Stream struct {
	Status int // 0 is 200
	Header http.Header
	Write  func(w io.Writer) error
	Close  func() // called once, whether it was written or not; nil for nothing to do
}

func (s *Stream) close() {
	if s.Close != nil {
		s.Close()
	}
}

// Takeover lets a function write the answer itself: websockets, http.ServeContent for ranges.
type Takeover struct {
	Serve func(w http.ResponseWriter, r *http.Request)
}

// message is an answer whose bytes are ready to go.
type message struct {
	status int
	header http.Header
	body   []byte
	pooled bool // the body stays in memory until it is sent
}

// answer writes what a handler returned.
func (x *exchange) answer(result any) error {
	switch result := result.(type) {
	case nil:
		x.write(message{body: []byte("{}")})
	case json.RawMessage:
		x.write(message{body: result})
	case *Raw:
		x.write(message{status: result.Status, header: result.Header, body: result.Body})
	case *Stream:
		return x.stream(result)
	case *Pieces:
		return x.pieces(result)
	case *Park:
		return x.park(result)
	case *Takeover:
		result.Serve(x, x.request.Request)
	case *Reply:
		return x.encode(result.Status, result.Header, result.Value)
	default:
		return x.encode(0, nil, result)
	}
	return nil
}

// encode writes a value as JSON, without the escapes that only pages in HTML need.
func (x *exchange) encode(status int, header http.Header, value any) error {
	if value == nil {
		value = struct{}{}
	}
	buffer := buffers.Get().(*bytes.Buffer)
	defer putBuffer(buffer)
	encoder := json.NewEncoder(buffer)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	x.write(message{status, header, bytes.TrimSuffix(buffer.Bytes(), []byte("\n")), true})
	return nil
}

// answerTo makes the answer to an error.
func answerTo(err error) message {
	answer := AnswerOf(err)
	body, fault := json.Marshal(answer)
	if fault != nil {
		answer = unknown(err)
		body, _ = answer.MarshalJSON()
	}
	m := message{status: answer.HTTPStatus(), body: body}
	if m.status == http.StatusTooManyRequests || m.status == http.StatusServiceUnavailable {
		var wait struct {
			Milliseconds int64 `json:"retry_after_ms"`
		}
		if json.Unmarshal(body, &wait) == nil && wait.Milliseconds > 0 {
			m.header = http.Header{"Retry-After": {strconv.FormatInt((wait.Milliseconds+999)/1000, 10)}}
		}
	}
	return m
}

// write sends a message, compressed where that pays.
func (x *exchange) write(m message) {
	header := x.Header()
	for name, values := range m.header {
		header[name] = values
	}
	status := m.status
	if status == 0 {
		status = http.StatusOK
	}
	if status == http.StatusNoContent || status == http.StatusNotModified {
		x.WriteHeader(status)
		return
	}
	if header["Content-Type"] == nil && len(m.body) > 0 {
		header["Content-Type"] = typeJSON
	}
	counts := status < http.StatusBadRequest && len(m.body) > paceBytes
	if counts { // before it is packed, which takes longer than to make it
		if err := x.chargeAnswer(int64(cap(m.body))); err != nil {
			header.Del("Content-Type")
			x.write(answerTo(err))
			return
		}
	} else {
		x.releaseMemory()
	}
	body := m.body
	if x.compressible(header, len(body)) {
		header.Add("Vary", "Accept-Encoding")
		if acceptsGzip(x.request.Header) {
			packed := compress(body)
			defer putBuffer(packed)
			if packed.Len() < len(body) {
				header.Set("Content-Encoding", "gzip")
				body = packed.Bytes()
			}
		}
	}
	if counts && header["Content-Encoding"] != nil && m.header["Content-Encoding"] == nil { // what was packed can go
		size := int64(cap(body))
		if m.pooled {
			size += int64(cap(m.body))
		}
		if err := x.chargeAnswer(size); err != nil {
			header.Del("Content-Encoding")
			header.Del("Content-Type")
			x.write(answerTo(err))
			return
		}
	}
	m.body = nil
	header["Content-Length"] = []string{strconv.Itoa(len(body))}
	x.WriteHeader(status)
	if _, err := x.Write(body); err != nil {
		x.request.server.log.DebugContext(x.request.Context(), "an answer could not be sent", "request", x.request.id, "error", err)
	}
}

func (x *exchange) compressible(header http.Header, size int) bool {
	if size <= compressAbove || !x.request.server.config.Compress || header["Content-Encoding"] != nil {
		return false
	}
	kind := header.Get("Content-Type")
	return strings.HasPrefix(kind, "application/json") || strings.HasPrefix(kind, "text/")
}

func (x *exchange) stream(s *Stream) error {
	defer s.close()
	header := x.Header()
	for name, values := range s.Header {
		header[name] = values
	}
	status := s.Status
	if status == 0 {
		status = http.StatusOK
	}
	x.WriteHeader(status)
	if x.request.Method == http.MethodHead || s.Write == nil {
		return nil
	}
	return s.Write(x)
}
