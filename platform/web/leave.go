package web

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// lines are the connections without a parked request. With them the end of a server loses no request: http.Server.Shutdown drops each
// request whose head was not read when it began, also that of a client that connected just before.
type lines struct{ all sync.Map } // of *line, by connection

// line is a connection.
type line struct {
	conn  net.Conn
	kept  *keptConn // nil for a new connection
	held  *held     // nil where net/http has it
	since time.Time
	state atomic.Int32
	quiet atomic.Int64 // since when it is between two requests, in Unix nanoseconds

	cancel atomic.Pointer[context.CancelFunc] // of the request that the holder serves
}

// States of a line.
const (
	lineOpen    int32 = iota // nothing was read
	lineComing               // a request was read, which no handler has yet
	lineWorking              // a handler has it
	lineIdle                 // between two requests
)

// firstRequest is how long a server that ends waits for the first request of a connection. http.Server.Shutdown waits as long.
const firstRequest = 5 * time.Second

// nextRequest is how long the next request of a connection is waited for: a client that got an answer may be sending it, and
// does not send it again when the connection ends meanwhile.
const nextRequest = 500 * time.Millisecond

type lineKey struct{}

// open notes a new connection, and makes it reachable from the context of its requests.
func (s *lines) open(ctx context.Context, c net.Conn) context.Context {
	l := &line{conn: c, kept: keptOf(c), since: time.Now()}
	l.quiet.Store(l.since.UnixNano())
	s.all.Store(c, l)
	return context.WithValue(ctx, lineKey{}, l)
}

// lineOf is the connection of a request; nil where net/http does not hold it for this server.
func lineOf(ctx context.Context) *line {
	l, _ := ctx.Value(lineKey{}).(*line)
	return l
}

// change is called by net/http when the state of a connection changes.
func (s *lines) change(c net.Conn, state http.ConnState) {
	switch state {
	case http.StateClosed, http.StateHijacked:
		s.all.Delete(c)
	case http.StateActive, http.StateIdle:
		if found, ok := s.all.Load(c); ok {
			if l := found.(*line); state == http.StateIdle {
				l.idle()
			} else {
				l.state.Store(lineComing)
			}
		}
	}
}

// idle notes that the connection is between two requests.
func (l *line) idle() {
	l.quiet.Store(time.Now().UnixNano())
	l.state.Store(lineIdle)
}

// reached notes that a handler has the request.
func reached(ctx context.Context) {
	if l := lineOf(ctx); l != nil {
		l.state.Store(lineWorking)
	}
}

// settle returns when all requests that came have a handler; with onlyHeld, only those over held connections count. It closes connections
// without a request. Answers must already carry Connection: close, and, unless onlyHeld, no new connection may come.
func (s *lines) settle(ctx context.Context, onlyHeld bool) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		quiet := true
		s.all.Range(func(_, value any) bool {
			l := value.(*line)
			quiet = (onlyHeld && l.held == nil || l.settled()) && quiet
			return true
		})
		if quiet {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func (l *line) settled() bool {
	switch state := l.state.Load(); {
	case state == lineWorking:
		return true
	case state == lineComing:
		return false
	case (state == lineIdle || l.unused()) && time.Since(time.Unix(0, l.quiet.Load())) < nextRequest:
		return false
	case l.held != nil:
		if !hasBytes(l.conn) {
			_ = l.conn.SetReadDeadline(time.Unix(1, 0)) // its reader closes it, unless something comes now
		}
		return false
	case state == lineIdle || l.unused():
		if hasBytes(unwrap(l.conn)) {
			return false
		}
		_ = l.conn.Close() // its client got Connection: close, or has no request under way
		return true
	}
	return time.Since(l.since) > firstRequest
}

// cut ends the requests over held connections.
func (s *lines) cut() {
	s.all.Range(func(_, value any) bool {
		if l := value.(*line); l.held != nil {
			l.end()
			_ = l.conn.Close() // it is given up
		}
		return true
	})
}

// end ends the request that the holder serves.
func (l *line) end() {
	if cancel := l.cancel.Load(); cancel != nil {
		(*cancel)()
	}
}

// sweep ends the requests over held connections whose client went away. net/http looks itself.
func (s *lines) sweep() {
	s.all.Range(func(_, value any) bool {
		l := value.(*line)
		if l.held != nil && l.state.Load() == lineWorking && isGone(l.conn) {
			l.end()
		}
		return true
	})
}

// unused reports whether net/http got the connection back after a parked request, and nothing has come since.
func (l *line) unused() bool {
	if l.kept == nil {
		return false
	}
	l.kept.mu.Lock()
	defer l.kept.mu.Unlock()
	return l.kept.fresh.Load() && len(l.kept.ahead) == 0
}
