package web

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// lines are the connections that net/http holds, so that the end of a server loses no request: http.Server.Shutdown drops
// each request whose head was not read when it began, also of a client that connected a moment before.
type lines struct{ all sync.Map } // of *line, by connection

// line is a connection.
type line struct {
	conn  net.Conn
	kept  *keptConn // nil for a new connection
	since time.Time
	state atomic.Int32
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

type lineKey struct{}

// open notes a new connection, and makes it reachable from the context of its requests.
func (s *lines) open(ctx context.Context, c net.Conn) context.Context {
	l := &line{conn: c, kept: keptOf(c), since: time.Now()}
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
			now := lineComing
			if state == http.StateIdle {
				now = lineIdle
			}
			found.(*line).state.Store(now)
		}
	}
}

// reached notes that a handler has the request.
func reached(ctx context.Context) {
	if l := lineOf(ctx); l != nil {
		l.state.Store(lineWorking)
	}
}

// settle returns when handlers have all requests that came. It closes connections on which none is. No new connection may
// come meanwhile, and answers must say that their connection ends.
func (s *lines) settle(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		quiet := true
		s.all.Range(func(_, value any) bool {
			quiet = value.(*line).settled() && quiet
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
	case state == lineIdle || l.unused():
		if hasBytes(unwrap(l.conn)) {
			return false
		}
		_ = l.conn.Close() // its client was told, or has nothing under way
		return true
	}
	return time.Since(l.since) > firstRequest
}

// unused tells that the connection served requests before net/http got it back, and nothing came since.
func (l *line) unused() bool {
	if l.kept == nil {
		return false
	}
	l.kept.mu.Lock()
	defer l.kept.mu.Unlock()
	return l.kept.fresh.Load() && len(l.kept.ahead) == 0
}
