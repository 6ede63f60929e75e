package web

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// connections are the connections without a parked request. With them the end of a server loses no request: http.Server.Shutdown drops each
// request whose head was not read when it began, also that of a client that connected just before.
type connections struct{ all sync.Map } // of *connection, by net.Conn

// connection is a connection without a parked request.
type connection struct {
	conn      net.Conn
	returned  *returnedConn // nil for a new connection
	owned     *ownedConn    // nil where net/http serves it
	since     time.Time
	state     atomic.Int32
	idleSince atomic.Int64 // since when it is between two requests, in Unix nanoseconds

	cancel atomic.Pointer[context.CancelFunc] // of the request that the ownedConn serves
}

// States of a connection.
const (
	connectionOpen     int32 = iota // nothing was read
	connectionRead                  // a request was read, which no handler has yet
	connectionHandling              // a handler has it
	connectionIdle                  // between two requests
)

// firstRequest is how long a server that ends waits for the first request of a connection. http.Server.Shutdown waits as long.
const firstRequest = 5 * time.Second

// nextRequest is how long the next request of a connection is waited for: a client that got an answer may be sending it, and
// does not send it again when the connection ends meanwhile.
const nextRequest = 500 * time.Millisecond

type connectionKey struct{}

// open notes a new connection, and makes it reachable from the context of its requests.
func (s *connections) open(ctx context.Context, c net.Conn) context.Context {
	l := &connection{conn: c, returned: returnedConnOf(c), since: time.Now()}
	l.idleSince.Store(l.since.UnixNano())
	s.all.Store(c, l)
	return context.WithValue(ctx, connectionKey{}, l)
}

// connectionOf is the connection of a request; nil where net/http does not serve it for this server.
func connectionOf(ctx context.Context) *connection {
	l, _ := ctx.Value(connectionKey{}).(*connection)
	return l
}

// change is called by net/http when the state of a connection changes.
func (s *connections) change(c net.Conn, state http.ConnState) {
	switch state {
	case http.StateClosed, http.StateHijacked:
		s.all.Delete(c)
	case http.StateActive, http.StateIdle:
		if found, ok := s.all.Load(c); ok {
			if l := found.(*connection); state == http.StateIdle {
				l.setIdle()
			} else {
				l.state.Store(connectionRead)
			}
		}
	}
}

// setIdle notes that the connection is between two requests.
func (l *connection) setIdle() {
	l.idleSince.Store(time.Now().UnixNano())
	l.state.Store(connectionIdle)
}

// markHandling notes that a handler has the request.
func markHandling(ctx context.Context) {
	if l := connectionOf(ctx); l != nil {
		l.state.Store(connectionHandling)
	}
}

// waitUntilHandled returns when all requests that came have a handler; with onlyOwned, only those over owned connections count. It closes
// connections without a request. Answers must already carry Connection: close, and, unless onlyOwned, no new connection may come.
func (s *connections) waitUntilHandled(ctx context.Context, onlyOwned bool) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		allHandled := true
		s.all.Range(func(_, value any) bool {
			l := value.(*connection)
			allHandled = (onlyOwned && l.owned == nil || l.isHandled()) && allHandled
			return true
		})
		if allHandled {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func (l *connection) isHandled() bool {
	switch state := l.state.Load(); {
	case state == connectionHandling:
		return true
	case state == connectionRead:
		return false
	case (state == connectionIdle || l.unused()) && time.Since(time.Unix(0, l.idleSince.Load())) < nextRequest:
		return false
	case l.owned != nil:
		if !hasBytes(l.conn) {
			_ = l.conn.SetReadDeadline(time.Unix(1, 0)) // its reader closes it, unless something comes now
		}
		return false
	case state == connectionIdle || l.unused():
		if hasBytes(unwrap(l.conn)) {
			return false
		}
		_ = l.conn.Close() // its client got Connection: close, or has no request under way
		return true
	}
	return time.Since(l.since) > firstRequest
}

// cutOwned ends the requests over owned connections.
func (s *connections) cutOwned() {
	s.all.Range(func(_, value any) bool {
		if l := value.(*connection); l.owned != nil {
			l.cancelRequest()
			_ = l.conn.Close() // it is given up
		}
		return true
	})
}

// cancelRequest ends the request that the ownedConn serves.
func (l *connection) cancelRequest() {
	if cancel := l.cancel.Load(); cancel != nil {
		(*cancel)()
	}
}

// cancelAbandoned ends the requests over owned connections whose client went away. net/http looks itself.
func (s *connections) cancelAbandoned() {
	s.all.Range(func(_, value any) bool {
		l := value.(*connection)
		if l.owned != nil && l.state.Load() == connectionHandling && isGone(l.conn) {
			l.cancelRequest()
		}
		return true
	})
}

// unused reports whether net/http got the connection back after a parked request, and nothing has come since.
func (l *connection) unused() bool {
	if l.returned == nil {
		return false
	}
	l.returned.mu.Lock()
	defer l.returned.mu.Unlock()
	return l.returned.nothingRead.Load() && len(l.returned.buffered) == 0
}
