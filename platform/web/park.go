package web

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"
	"sync"
	"time"
)

// Park is the answer of a handler that waits for news, perhaps for long. When there are none soon, the request is
// set aside: it keeps its connection, and gives back its goroutines and buffers, which are most of what a waiting client
// costs. Where the connection carries more than this request, its goroutine waits.
type Park struct {
	// Wait registers wake, which is called once, at once when there are news already. It does not block; nor does stop,
	// after which wake may still be called.
	Wait  func(wake func()) (stop func())
	Until time.Time // when the wait ends without news; also when the server drains
	// Resume gives the answer, or another Park. over says that there is no time left: it answers. It is not called for a
	// client that went away. A request whose user may not call the route any more is refused instead, also where Resume gives another
	// Park: so code that wakes a request when its user's rights change ends it.
	Resume func(ctx context.Context, over bool) (any, error)
}

const (
	setAsideAfter     = 300 * time.Millisecond
	checkClientsEvery = 5 * time.Second // how often clients that went away are looked for among those set aside
)

// park waits for news and answers: it sets the request aside at once on an owned connection, else after setAsideAfter.
func (x *exchange) park(p *Park) error {
	ctx, s := x.request.Context(), x.request.server
	x.token = strings.Clone(x.request.Token())
	x.stopClock()
	x.releaseMemory() // there is no answer yet
	x.leavePlace()
	if x.ownsConnection() && x.setAside(p) {
		return nil
	}
	setAsideTimer := time.NewTimer(setAsideAfter)
	defer setAsideTimer.Stop()
	for {
		wake := make(chan struct{}, 1)
		stop := p.Wait(func() { wake <- struct{}{} })
		until := time.NewTimer(time.Until(p.Until))
		over := false
		select {
		case <-wake:
		case <-until.C:
			over = true
		case <-s.draining:
			over = true
		case <-ctx.Done():
			until.Stop()
			stop()
			return context.Cause(ctx)
		case <-setAsideTimer.C:
			until.Stop()
			stop()
			if x.setAside(p) {
				return nil
			}
			continue
		}
		until.Stop()
		stop()
		x.startClock(0)
		result, err := p.Resume(ctx, over)
		if err != nil {
			return err
		}
		next, again := result.(*Park)
		if !again {
			return x.answerAfterWait(ctx, result)
		}
		if err := x.recheckWaiting(ctx); err != nil {
			return err
		}
		x.stopClock()
		x.releaseMemory()
		p = next
	}
}

// recheckWaiting refuses a request that waited and may not call the route now: its token may have been revoked, or its user locked.
func (x *exchange) recheckWaiting(ctx context.Context) error {
	if x.request.Identity == nil {
		return nil
	}
	_, err := x.request.server.auth.Authenticate(ctx, x.token)
	return err
}

// answerAfterWait answers a request that waited, if its access is still valid.
func (x *exchange) answerAfterWait(ctx context.Context, result any) error {
	if err := x.recheckWaiting(ctx); err != nil {
		return err
	}
	if x.request.Identity != nil {
		x.request.authenticatedAt = time.Now()
	}
	return x.answer(result)
}

// parkedRequest is a request that was set aside: it waits without a goroutine.
type parkedRequest struct {
	x   *exchange
	w   *ownedWriter
	ctx context.Context

	mu      sync.Mutex
	park    *Park
	waiting bool
	waits   int // how often it has begun to wait
	stop    func()
	timer   *time.Timer
}

// ownsConnection reports whether the connection was taken from net/http before.
func (x *exchange) ownsConnection() bool {
	_, owned := x.ResponseWriter.(*ownedWriter)
	return owned
}

// setAside takes the connection from net/http if necessary, and parks the request. It returns false when that is not possible.
func (x *exchange) setAside(p *Park) bool {
	s, r := x.request.server, x.request.Request
	if x.request.internal || !s.parked.hasListener() || s.tracer != nil || x.status != 0 || x.body != nil || r.Method != http.MethodGet ||
		r.ProtoMajor != 1 ||
		r.ProtoMinor < 1 {
		return false
	}
	a := &parkedRequest{x: x, ctx: x.clientContext}
	if x.ownsConnection() {
		a.w = x.ResponseWriter.(*ownedWriter)
	} else {
		header := maps.Clone(x.Header())
		h := x.takeConnection()
		if h == nil {
			return false
		}
		a.w = &ownedWriter{conn: h, header: header, closeAfter: r.Close}
		a.ctx, a.w.cancel = context.WithCancel(context.Background())
		x.ResponseWriter = a.w
	}
	x.wasSetAside = true
	x.request.RemoteIP() // while the headers are there
	// Only the parts of the request that the answer needs. The rest, and the context of net/http, is freed.
	slim := &http.Request{
		Method: r.Method, URL: &url.URL{Path: r.URL.Path}, Proto: r.Proto, ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Body: http.NoBody,
		Host: strings.Clone(r.Host), RemoteAddr: a.w.conn.peerAddress,
	}
	if v := r.Header["Accept-Encoding"]; v != nil {
		slim.Header["Accept-Encoding"] = []string{strings.Clone(strings.Join(v, ","))}
	}
	x.request.Request, x.request.query = slim.WithContext(a.ctx), nil
	x.clock, x.clientContext, x.work = nil, nil, nil
	s.parked.add(a)
	a.wait(p)
	return true
}

// takeConnection takes the connection of a request from net/http; nil when that can not be done.
func (x *exchange) takeConnection() *ownedConn {
	s, r := x.request.server, x.request.Request
	if l := connectionOf(r.Context()); l != nil && l.returned != nil {
		if ahead, ok := l.returned.takeBack(); ok {
			x.Header().Set("Connection", "close") // so that net/http closes what it has
			return newOwnedConn(s, l.returned.Conn, ahead, r)
		}
	}
	conn, buffered, err := http.NewResponseController(x.ResponseWriter).Hijack()
	if err != nil {
		return nil
	}
	var ahead []byte
	if n := buffered.Reader.Buffered(); n > 0 {
		ahead, _ = buffered.Reader.Peek(n) // it is there
	}
	return newOwnedConn(s, unwrap(conn), bytes.Clone(ahead), r)
}

// wait waits for the news of p.
func (a *parkedRequest) wait(p *Park) {
	a.mu.Lock()
	a.park = p
	a.waiting = true
	a.waits++
	turn := a.waits
	a.timer = time.AfterFunc(time.Until(p.Until), func() { a.wake(true) })
	a.mu.Unlock()
	stop := p.Wait(func() { a.wake(false) })
	a.mu.Lock()
	if a.waiting && a.waits == turn {
		a.stop = stop
		stop = nil
	}
	a.mu.Unlock()
	if stop != nil { // it goes on already
		stop()
	}
	if a.x.request.server.drained.Load() { // Drain may have looked before this one was there
		a.wake(true)
	}
}

// endWait ends the wait; false when there is none.
func (a *parkedRequest) endWait() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.waiting {
		return false
	}
	a.waiting = false
	a.timer.Stop()
	if a.stop != nil {
		a.stop()
		a.stop = nil
	}
	return true
}

// wake goes on with the request, in a goroutine of its own.
func (a *parkedRequest) wake(over bool) {
	if a.endWait() {
		go a.resumeAndServe(over)
	}
}

// resumeAndServe resumes the request, and serves those that follow on the connection.
func (a *parkedRequest) resumeAndServe(over bool) {
	if h := a.resume(over); h != nil {
		h.serve()
	}
}

// resume answers the request or parks it again. It returns the connection when that can carry the next request.
func (a *parkedRequest) resume(over bool) (next *ownedConn) {
	x := a.x
	defer func() {
		if fault := recover(); fault != nil {
			if fault != http.ErrAbortHandler { //nolint:errorlint // the value that fail panics with
				x.request.server.log.Error(
					"a handler panicked", "request", x.request.id, "route", x.endpoint.route.Pattern, "panic", fmt.Sprint(fault), "stack",
					string(debug.Stack()),
				)
			}
			a.w.closeAfter = true
			if x.status == 0 {
				x.write(answerTo(unknown(nil)))
			}
			next = a.finish()
		}
	}()
	ctx, end := x.withTimeLimit(a.ctx)
	defer end()
	result, err := a.park.Resume(ctx, over)
	again, waits := result.(*Park)
	if waits && err == nil {
		if err = x.recheckWaiting(ctx); err == nil {
			x.clock = nil
			x.releaseMemory()
			a.wait(again)
			return nil
		}
	}
	if err == nil {
		err = x.answerAfterWait(ctx, result)
	}
	if err != nil {
		x.fail(err)
	}
	a.w.finish() // not of one that was cut, which would look whole
	return a.finish()
}

// finish gives the connection for the next request, or closes it.
func (a *parkedRequest) finish() (next *ownedConn) {
	x, h := a.x, a.w.conn
	s := x.request.server
	a.w.cancel()
	s.parked.remove(a)
	x.releaseMemory()
	if a.w.reusable() {
		h.open()
		next = h
	} else {
		_ = h.conn.Close() // nothing more is expected of it
	}
	x.done(s, time.Since(x.start))
	return next
}

// clientLeft ends the wait of a client that went away.
func (a *parkedRequest) clientLeft() {
	if a.endWait() {
		a.x.status = statusClientGone
		a.finish()
	}
}

// parkedRequests are the requests that are set aside.
type parkedRequests struct {
	mu       sync.Mutex
	all      map[*parkedRequest]struct{}
	listener *returningListener // nil while nobody serves
}

// setListener names the listener that takes connections back; nil for none.
func (s *parkedRequests) setListener(l *returningListener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listener = l
}

func (s *parkedRequests) hasListener() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.listener != nil
}

// wakeAll resumes all of them with over, so that they answer.
func (s *parkedRequests) wakeAll() {
	for _, a := range s.list() {
		a.wake(true)
	}
}

// cutAll cancels all of them and closes their connections.
func (s *parkedRequests) cutAll() {
	for _, a := range s.list() {
		a.w.cancel()
		_ = a.w.conn.conn.Close() // it is given up
	}
}

func (s *parkedRequests) add(a *parkedRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[*parkedRequest]struct{}{}
	}
	s.all[a] = struct{}{}
}

func (s *parkedRequests) remove(a *parkedRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, a)
}

func (s *parkedRequests) list() []*parkedRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*parkedRequest, 0, len(s.all))
	for a := range s.all {
		out = append(out, a)
	}
	return out
}

// giveBack gives net/http a connection; false when it takes none any more.
func (s *parkedRequests) giveBack(c net.Conn, buffered []byte) bool {
	s.mu.Lock()
	l := s.listener
	s.mu.Unlock()
	return l != nil && l.giveBack(c, buffered)
}

// watchClients looks for clients that went away until done.
func (s *Server) watchClients(done <-chan struct{}) {
	tick := time.NewTicker(checkClientsEvery)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
			s.parked.endAbandoned()
			s.connections.cancelAbandoned()
		}
	}
}

func (s *parkedRequests) endAbandoned() {
	for _, a := range s.list() {
		if isGone(a.w.conn.conn) {
			a.clientLeft()
		}
	}
}
