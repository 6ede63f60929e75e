package bench

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
)

const (
	maxHead    = 64 << 10 // bytes of the head of an answer
	maxBody    = 1 << 28  // bytes of its body
	keptAnswer = 16 << 10 // longer answers get memory of their own, which is not kept
)

// buffers hold a request while it is written and an answer while it is read, not while a client waits.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 2048); return &b }}

func (c *conn) take() {
	if c.pooled == nil {
		c.pooled = buffers.Get().(*[]byte)
		c.buf = (*c.pooled)[:0]
	}
}

// release gives back the memory of the last answer, whose body is not valid any more.
func (c *conn) release() {
	if c.pooled != nil && cap(c.buf) <= keptAnswer {
		*c.pooled = c.buf[:0]
		buffers.Put(c.pooled)
	}
	c.pooled, c.buf = nil, nil
}

// more appends what the connection gives next, at least one byte.
func (c *conn) more() error {
	c.take()
	if len(c.buf) == cap(c.buf) {
		c.buf = slices.Grow(c.buf, 2048)
	}
	n, err := c.net.Read(c.buf[len(c.buf):cap(c.buf)])
	c.buf = c.buf[:len(c.buf)+n]
	if n > 0 {
		return nil
	}
	return err
}

// answer reads the rest of an answer that has begun in c.buf.
func (c *conn) answer() (status int, body []byte, err error) {
	var h head
	for {
		if h, err = parseHead(c.buf); err != nil {
			return 0, nil, err
		}
		switch {
		case h.size == 0: // not all of it is here
			if err := c.more(); err != nil {
				return 0, nil, unexpected(err)
			}
			continue
		case h.status/100 == 1 && h.status != http.StatusSwitchingProtocols: // the answer follows
			c.buf = append(c.buf[:0], c.buf[h.size:]...)
			continue
		}
		break
	}
	switch {
	case h.encoded:
		body, err = c.encoded(&h)
	case h.length >= 0:
		body, err = c.measured(h)
	default:
		for h.close = true; err == nil && len(c.buf) <= h.size+maxBody; {
			err = c.more()
		}
		if errors.Is(err, io.EOF) {
			err = nil
		} else if err == nil {
			err = fmt.Errorf("answer: the body is longer than %d bytes", maxBody)
		}
		body = c.buf[h.size:]
	}
	if err != nil {
		return 0, nil, unexpected(err)
	}
	if h.close {
		c.close()
	}
	return h.status, body, nil
}

// measured reads a body whose length the head tells.
func (c *conn) measured(h head) ([]byte, error) {
	end := h.size + h.length
	if len(c.buf) > end { // what nobody asked for must not become the next answer
		c.close()
		return c.buf[h.size:end], nil
	}
	here := len(c.buf)
	if end > max(cap(c.buf), keptAnswer) {
		body := make([]byte, h.length)
		n := copy(body, c.buf[h.size:])
		_, err := io.ReadFull(c.net, body[n:])
		return body, err
	}
	c.buf = slices.Grow(c.buf, end-here)[:end]
	if here == end {
		return c.buf[h.size:], nil
	}
	_, err := io.ReadFull(c.net, c.buf[here:])
	return c.buf[h.size:], err
}

// encoded reads a chunked body, with package http: servers that are measured rarely send one.
func (c *conn) encoded(h *head) ([]byte, error) {
	begun := bytes.NewReader(c.buf)
	r := bufio.NewReader(io.MultiReader(begun, c.net))
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxBody+1))
	if err == nil && len(body) > maxBody {
		err = fmt.Errorf("answer: the body is longer than %d bytes", maxBody)
	}
	h.close = res.Close || r.Buffered() > 0 || begun.Len() > 0
	return body, err
}

// unexpected names the end of a connection inside an answer.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// head is what counts of the lines before a body.
type head struct {
	size    int // bytes with the empty line; 0 when not all of them are there
	status  int
	length  int  // of the body; -1 when the head does not tell
	encoded bool // there is a Transfer-Encoding
	close   bool // the connection is not used again
}

// parseHead reads a status line and header fields (RFC 9112, sections 2 to 6). It makes no map of them: with
// thousands of answers per second that was most of the generator's memory.
func parseHead(b []byte) (head, error) {
	h, rest := head{length: -1}, b
	for first := true; ; first = false {
		end := bytes.IndexByte(rest, '\n')
		if end < 0 || len(b)-len(rest)+end >= maxHead {
			if len(b) >= maxHead {
				return head{}, fmt.Errorf("answer: expected a head of at most %d bytes, found no end of it", maxHead)
			}
			return head{}, nil
		}
		line := bytes.TrimSuffix(rest[:end], []byte{'\r'})
		rest = rest[end+1:]
		var err error
		switch {
		case first:
			err = h.statusLine(line)
		case len(line) == 0:
			h.size = len(b) - len(rest)
			if h.status/100 == 1 || h.status == http.StatusNoContent || h.status == http.StatusNotModified {
				h.length, h.encoded = 0, false
			}
			return h, nil
		default:
			err = h.field(line)
		}
		if err != nil {
			return head{}, err
		}
	}
}

func (h *head) statusLine(line []byte) error {
	const version, all = len("HTTP/1.1 "), len("HTTP/1.1 200")
	if len(line) >= all && (len(line) == all || line[all] == ' ') {
		is11 := string(line[:version]) == "HTTP/1.1 "
		if status, ok := number(line[version:all]); ok && status >= 100 && (is11 || string(line[:version]) == "HTTP/1.0 ") {
			h.status, h.close = status, !is11
			return nil
		}
	}
	return fmt.Errorf("answer: expected HTTP/1.1 and a status, found %.100q", line)
}

func (h *head) field(line []byte) error {
	name, value, ok := bytes.Cut(line, []byte{':'})
	if !ok || len(name) == 0 || line[0] == ' ' || line[0] == '\t' {
		return fmt.Errorf("answer: expected a header field, found %.100q", line)
	}
	value = bytes.Trim(value, " \t")
	switch {
	case is(name, "content-length"):
		n, ok := number(value)
		if !ok || n > maxBody || (h.length >= 0 && h.length != n) {
			return fmt.Errorf("answer: expected one Content-Length of at most %d, found %.100q", maxBody, value)
		}
		h.length = n
	case is(name, "transfer-encoding"):
		h.encoded = true
	case is(name, "connection"):
		for more := true; more; {
			var token []byte
			token, value, more = bytes.Cut(value, []byte{','})
			h.close = h.close || is(bytes.Trim(token, " \t"), "close")
		}
	}
	return nil
}

// is compares with a text of lower-case ASCII letters and hyphens, without regard to case.
func is(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// number reads up to ten decimal digits.
func number(b []byte) (n int, ok bool) {
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + int(c-'0')
	}
	return n, len(b) > 0 && len(b) <= 10
}
