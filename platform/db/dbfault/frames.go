package dbfault

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
)

// Types of messages of PostgreSQL's protocol, version 3 ("Frontend/Backend Protocol", chapter "Message Formats").
const (
	msgParse     = 'P'
	msgBind      = 'B'
	msgQuery     = 'Q'
	msgSync      = 'S'
	msgFlush     = 'H'
	msgTerminate = 'X'
	msgPassword  = 'p'
	msgCopyData  = 'd'
	msgCopyDone  = 'c'
	msgCopyFail  = 'f'
	msgReady     = 'Z'
	msgExecute   = 'E'
	msgComplete  = 'C'
	msgError     = 'E'
)

const maxFrame = 1 << 28

// readFrame reads a message with its header: type, length, body.
func readFrame(r *bufio.Reader) ([]byte, error) {
	head, err := r.Peek(5)
	if err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint32(head[1:])) + 1
	if n < 5 || n > maxFrame {
		return nil, errors.New("expected a message of PostgreSQL's protocol, found a length that none has")
	}
	b := make([]byte, n)
	_, err = io.ReadFull(r, b)
	return b, err
}

// readStartup reads a message before the protocol begins, which has no type.
func readStartup(r *bufio.Reader) ([]byte, error) {
	head, err := r.Peek(4)
	if err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint32(head))
	if n < 8 || n > 1<<16 {
		return nil, errors.New("expected the start of PostgreSQL's protocol, found a length that it never has")
	}
	b := make([]byte, n)
	_, err = io.ReadFull(r, b)
	return b, err
}

// text reads a string that ends with NUL, and what follows it.
func text(b []byte) (string, []byte) {
	i := bytes.IndexByte(b, 0)
	if i < 0 {
		return "", nil
	}
	return string(b[:i]), b[i+1:]
}

// series is what a client sends up to a Sync, Flush or Query: before, it can not wait for an answer.
type series struct {
	frames                  [][]byte
	begin, fence, end, undo bool // statements that are in it
	endAt                   int  // the message with which a pipelined COMMIT begins; 0 for none
	reads                   []Read
	last                    byte
}

// session follows what a connection does: its prepared statements and whether a transaction is open.
type session struct {
	texts  map[string]string
	guards func(query string) bool
	tx     bool // BEGIN was sent
	group  bool // a statement of this transaction moved leases
}

// note takes in a message, and tells whether the series ends with it.
func (s *session) note(sr *series, frame []byte) bool {
	sr.frames = append(sr.frames, frame)
	sr.last = frame[0]
	switch body := frame[5:]; frame[0] {
	case msgParse:
		name, rest := text(body)
		query, _ := text(rest)
		s.texts[name] = query
	case msgBind:
		_, rest := text(body)
		name, values := text(rest)
		sr.statement(s.texts[name], s.guards)
		sr.reads = append(sr.reads, Read{s.texts[name], values})
		if sr.end && sr.endAt == 0 {
			sr.endAt = len(sr.frames) - 1
		}
	case msgQuery:
		query, _ := text(body)
		sr.statement(query, s.guards)
		sr.reads = append(sr.reads, Read{Query: query})
		return true
	case msgSync, msgFlush, msgTerminate, msgPassword, msgCopyData, msgCopyDone, msgCopyFail:
		return true
	}
	return false
}

func (sr *series) statement(query string, guards func(query string) bool) {
	verb, _, _ := strings.Cut(strings.TrimSpace(query), " ")
	switch strings.ToLower(strings.TrimRight(verb, ";")) {
	case "begin", "start":
		sr.begin = true
	case "commit", "end":
		sr.end = true
	case "rollback", "abort":
		sr.undo = true
	default:
		sr.fence = sr.fence || guards(query)
	}
}

// commits takes in a whole series and tells whether it ends a group commit.
func (s *session) commits(sr *series) bool {
	if sr.begin {
		s.tx, s.group = true, false
	}
	s.group = s.group || sr.fence
	ends := sr.end || !s.tx && (sr.last == msgSync || sr.last == msgQuery)
	is := s.group && ends && !sr.undo
	if ends || sr.undo {
		s.tx, s.group = false, false
	}
	return is
}

// refusal is the server's answer to a commit that fails, with the state of a connection without a transaction.
func refusal(code, message string) []byte {
	var body []byte
	for _, field := range []string{"SERROR", "VERROR", "C" + code, "M" + message} {
		body = append(append(body, field...), 0)
	}
	out := frameOf(msgError, append(body, 0))
	return append(out, frameOf(msgReady, []byte{'I'})...)
}

func frameOf(typ byte, body []byte) []byte {
	out := binary.BigEndian.AppendUint32([]byte{typ}, uint32(len(body)+4))
	return append(out, body...)
}
