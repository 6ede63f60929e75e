package web

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"

	"lyceum/platform/jsontext"
)

const (
	keepBuffer    = 1 << 18 // larger buffers are not kept, so that one big body does not pin memory
	bufferAtFirst = 4 << 10
)

var buffers = sync.Pool{New: func() any { return bytes.NewBuffer(make([]byte, 0, bufferAtFirst)) }}

func putBuffer(b *bytes.Buffer) {
	if b.Cap() <= keepBuffer {
		b.Reset()
		buffers.Put(b)
	}
}

// Decode reads the body as one JSON value into v. Nothing in v points into pooled memory.
//
// Errors: M_TOO_LARGE (413) above the route's MaxBody; M_NOT_JSON (400) for what is no JSON, for bytes that are
// not UTF-8, for more than one value and for more than 100 levels; M_BAD_JSON (400) for JSON of the wrong type,
// with the field's name. A missing body is {} when the route says EmptyBody, else M_NOT_JSON.
func (r *Request) Decode(v any) error {
	buffer, err := r.readBody()
	if err != nil {
		return err
	}
	defer putBuffer(buffer)
	if err := r.chargeBody(buffer.Bytes(), true); err != nil {
		return err
	}
	return decodeJSON(buffer.Bytes(), v)
}

// The memory of a decoded body is estimated by these sizes: valueBytes for each string, object and list, and placeBytes for each element.
// Bodies with an estimate below smallBody are not counted.
const (
	valueBytes = 100
	placeBytes = 24
	smallBody  = 128 << 10
)

// chargeBody charges the caller for a copy of the body and, with values, for its decoded form.
func (r *Request) chargeBody(body []byte, values bool) error {
	n := len(body)
	if n*(1+valueBytes) < smallBody { // no content makes it large
		return nil
	}
	if values {
		count := func(c string) int { return bytes.Count(body, []byte(c)) }
		n += valueBytes*(count(`"`)/2+count("{")+count("[")) + placeBytes*count(",")
	}
	if n < smallBody {
		return nil
	}
	return r.Charge(n)
}

// Object reads the body as one JSON object and returns its bytes, checked as Decode does. They belong to the caller.
func (r *Request) Object() (json.RawMessage, error) {
	buffer, err := r.readBody()
	if err != nil {
		return nil, err
	}
	defer putBuffer(buffer)
	body := bytes.TrimSpace(buffer.Bytes())
	if err := checkJSON(body); err != nil {
		return nil, err
	}
	if body[0] != '{' {
		return nil, badJSON("The body must be a JSON object", nil)
	}
	if err := r.chargeBody(body, false); err != nil {
		return nil, err
	}
	return bytes.Clone(body), nil
}

// Raw reads the whole body without looking into it: at most MaxBody bytes, else M_TOO_LARGE. They belong to the caller.
// A handler that wants to stream reads r.Body itself and sets its own limit.
func (r *Request) Raw() ([]byte, error) {
	buffer, err := r.fillBuffer()
	if err != nil {
		return nil, err
	}
	defer putBuffer(buffer)
	if err := r.chargeBody(buffer.Bytes(), false); err != nil {
		return nil, err
	}
	return bytes.Clone(buffer.Bytes()), nil
}

// readBody is fillBuffer with the rule for empty bodies.
func (r *Request) readBody() (*bytes.Buffer, error) {
	buffer, err := r.fillBuffer()
	if err != nil {
		return nil, err
	}
	if buffer.Len() == 0 {
		if !r.Route.EmptyBody {
			putBuffer(buffer)
			return nil, notJSON("A JSON body is needed, and the request has none", nil)
		}
		buffer.WriteString("{}")
	}
	return buffer, nil
}

// fillBuffer reads the body into a pooled buffer, within the limits of size and time.
func (r *Request) fillBuffer() (*bytes.Buffer, error) {
	limit := r.MaxBytes()
	if r.Route.Upload > 0 { // read as a whole all the same
		limit = cmp.Or(max(r.Route.MaxBody, 0), r.server.config.MaxBody.Bytes())
	}
	if r.ContentLength > limit {
		return nil, r.TooLarge(limit)
	}
	if r.Body == nil || r.Body == http.NoBody {
		return buffers.Get().(*bytes.Buffer), nil
	}
	buffer, err := r.readPieces(limit)
	if err != nil {
		r.closeConnectionAfter()
		return nil, err
	}
	if int64(buffer.Len()) > limit {
		putBuffer(buffer)
		return nil, r.TooLarge(limit)
	}
	err = r.writer.takePlaceAgain()
	if err == nil {
		err = r.writer.refuseIfClientLeft()
	}
	if err == nil {
		err = r.recheckAtStart()
	}
	if err != nil {
		putBuffer(buffer)
		return nil, err
	}
	return buffer, nil
}

// pieces hold parts of bodies that are still arriving: a slow client occupies the memory of what it has sent, and no more.
var pieces = sync.Pool{New: func() any { return new([paceBytes]byte) }}

// readPieces reads the body, as far as one byte beyond the limit.
func (r *Request) readPieces(limit int64) (*bytes.Buffer, error) {
	buffer := buffers.Get().(*bytes.Buffer)
	left := limit + 1
	n, err := io.CopyN(buffer, r.Body, min(paceBytes, left))
	left -= n
	var more []*[paceBytes]byte
	defer func() {
		for _, p := range more {
			pieces.Put(p)
		}
	}()
	used := 0 // of the last of them
	for err == nil && left > 0 {
		if len(more) == 0 || used == paceBytes {
			if err = r.writer.charge(paceBytes); err != nil {
				putBuffer(buffer)
				return nil, err
			}
			more, used = append(more, pieces.Get().(*[paceBytes]byte)), 0
		}
		to := more[len(more)-1][used:]
		var k int
		k, err = r.Body.Read(to[:min(int64(len(to)), left)])
		used += k
		left -= int64(k)
	}
	switch {
	case err != nil && err != io.EOF:
		putBuffer(buffer)
		return nil, r.Unread(err)
	case len(more) == 0:
		return buffer, nil
	}
	whole := bytes.NewBuffer(make([]byte, 0, limit+1-left))
	whole.Write(buffer.Bytes())
	putBuffer(buffer)
	for i, p := range more {
		if i < len(more)-1 {
			whole.Write(p[:])
		} else {
			whole.Write(p[:used])
		}
	}
	return whole, nil
}

// MaxBytes is the largest body that the route accepts.
func (r *Request) MaxBytes() int64 {
	return cmp.Or(max(r.Route.Upload, 0), max(r.Route.MaxBody, 0), r.server.config.MaxBody.Bytes())
}

// TooLarge is the answer to a body of more than limit bytes. The connection ends with it.
func (r *Request) TooLarge(limit int64) *Error {
	r.closeConnectionAfter()
	return tooLarge(fmt.Sprintf("The body is larger than %d bytes", limit))
}

// Unread is the answer to a body that the client cut, sent too slowly or framed wrongly, and 503 to a body that was given up because its
// memory was needed. The connection ends with it.
func (r *Request) Unread(cause error) *Error {
	r.closeConnectionAfter()
	if x := r.writer; x.cut.Swap(false) || errors.Is(cause, os.ErrDeadlineExceeded) && x.wasHurried() {
		return errFull()
	}
	e := notJSON("The body could not be read to its end", cause)
	if r.Route.Upload > 0 {
		e.Code = "M_UNKNOWN"
	}
	return e
}

// closeConnectionAfter ends an HTTP/1 connection after the answer. Without it net/http reads the rest of the body first,
// for as long as the client likes to take.
func (r *Request) closeConnectionAfter() {
	if r.ProtoMajor == 1 {
		r.writer.Header().Set("Connection", "close")
	}
}

// decodeJSON is Decode on bytes.
func decodeJSON(body []byte, v any) error {
	body = bytes.TrimSpace(body)
	if err := checkJSON(body); err != nil {
		return err
	}
	if string(body) == "null" {
		return badJSON("The body is null; an object was expected", nil)
	}
	err := json.Unmarshal(body, v)
	if err == nil {
		return nil
	}
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		if wrong.Field == "" {
			return badJSON("The body has the wrong type: found "+wrong.Value+", expected "+kindName(wrong), err)
		}
		return badJSON("The field "+wrong.Field+" has the wrong type: found "+wrong.Value+", expected "+kindName(wrong), err)
	}
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return notJSON(fmt.Sprintf("The body is not JSON, at byte %d", syntax.Offset), err)
	}
	// An UnmarshalJSON method refused the value; its error may be an Answerer.
	if answer, ok := errors.AsType[Answerer](err); ok {
		return answer
	}
	return badJSON("The body has a wrong value: "+err.Error(), err)
}

// kindName names a Go type in the words of JSON.
func kindName(e *json.UnmarshalTypeError) string {
	switch name := e.Type.Kind().String(); {
	case name == "string" || name == "array":
		return name
	case name == "bool":
		return "boolean"
	case name == "slice":
		return "array"
	case strings.HasPrefix(name, "int") || strings.HasPrefix(name, "uint"):
		return "whole number"
	case strings.HasPrefix(name, "float"):
		return "number"
	}
	return "object"
}

// checkJSON checks that a body is JSON that may be handed on to other clients as it is; encoding/json alone lets more pass.
func checkJSON(body []byte) error {
	if len(body) == 0 {
		return notJSON("The body is empty; JSON was expected", nil)
	}
	wrong, ok := errors.AsType[*jsontext.Error](jsontext.Validate(body, jsontext.Limits{Floats: true}))
	if !ok {
		return nil
	}
	switch wrong.Kind {
	case jsontext.NotUTF8:
		return notJSON("The body is not UTF-8", nil)
	case jsontext.TooDeep:
		return notJSON(fmt.Sprintf("The JSON is nested deeper than %d levels", jsontext.MaxDepth), nil)
	case jsontext.LoneSurrogate:
		return badJSON("The JSON has half of a surrogate pair", nil)
	case jsontext.NumberRange:
		return badJSON("The JSON has a number that is too large", nil)
	}
	return notJSON(fmt.Sprintf("The body is not JSON, at byte %d", wrong.Offset), wrong)
}
