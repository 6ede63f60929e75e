package web

import (
	"io"
	"net/http"
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
}

// Takeover lets a function write the answer itself: websockets, http.ServeContent for ranges.
type Takeover struct {
	Serve func(w http.ResponseWriter, r *http.Request)
}
