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
	// client that went away. A request that would not be let in any more is refused instead, also where Resume gives another Park:
	// so whoever wakes a request when its user's rights change ends it.
	Resume func(ctx context.Context, over bool) (any, error)
}

const (
	setAsideAfter = 300 * time.Millisecond
	lookForGone   = 5 * time.Second // how often clients that went away are looked for among those set aside
)

// park waits for news, here or aside, and answers.
func (x *exchange) park(p *Park) error {
	ctx, s := x.request.Context(), x.request.server
	x.token = strings.Clone(x.request.Token())
	x.stopClock()
	x.letGo() // there is no answer yet
	x.endPlace()
	if x.isHeld() && x.setAside(p) {
		return nil
	}
	aside := time.NewTimer(setAsideAfter)
	defer aside.Stop()
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
		case <-aside.C:
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
			return x.answerLate(ctx, result)
		}
		if err := x.askWaiting(ctx); err != nil {
			return err
		}
		x.stopClock()
		x.letGo()
		p = next
	}
}

// askWaiting refuses a request that waited and would not be let in now: its token may have been revoked, or its user locked.
func (x *exchange) askWaiting(ctx context.Context) error {
	if x.request.Identity == nil {
		return nil
	}
	_, err := x.request.server.auth.Authenticate(ctx, x.token)
	return err
}

// answerLate answers a request that waited, if it would be let in now.
func (x *exchange) answerLate(ctx context.Context, result any) error {
	if err := x.askWaiting(ctx); err != nil {
		return err
	}
	if x.request.Identity != nil {
		x.request.let = time.Now()
	}
	return x.answer(result)
}

// aside is a parked request: it waits without a goroutine.
type aside struct {
	x   *exchange
	w   *asideWriter
	ctx context.Context

	mu      sync.Mutex
	park    *Park
	waiting int // how often it has begun to wait; below 0 while it does not
	stop    func()
	timer   *time.Timer
}

// isHeld reports whether the connection was taken from net/http before.
func (x *exchange) isHeld() bool {
	_, held := x.ResponseWriter.(*asideWriter)
	return held
}

// setAside takes the connection from net/http if necessary, and parks the request. It returns false when that is not possible.
func (x *exchange) setAside(p *Park) bool {
	s, r := x.request.server, x.request.Request
	if x.request.internal || !s.asides.serving() || s.tracer != nil || x.status != 0 || x.body != nil || r.Method != http.MethodGet ||
		r.ProtoMajor != 1 ||
		r.ProtoMinor < 1 {
		return false
	}
	a := &aside{x: x, ctx: x.came}
	if x.isHeld() {
		a.w = x.ResponseWriter.(*asideWriter)
	} else {
		header := maps.Clone(x.Header())
		h := x.takeConn()
		if h == nil {
			return false
		}
		a.w = &asideWriter{held: h, header: header, last: r.Close}
		a.ctx, a.w.cancel = context.WithCancel(context.Background())
		x.ResponseWriter = a.w
	}
	x.aside = true
	x.request.RemoteIP() // while the headers are there
	// Only the parts of the request that the answer needs. The rest, and the context of net/http, is freed.
	slim := &http.Request{
		Method: r.Method, URL: &url.URL{Path: r.URL.Path}, Proto: r.Proto, ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Body: http.NoBody,
		Host: strings.Clone(r.Host), RemoteAddr: a.w.held.peer,
	}
	if v := r.Header["Accept-Encoding"]; v != nil {
		slim.Header["Accept-Encoding"] = []string{strings.Clone(strings.Join(v, ","))}
	}
	x.request.Request, x.request.query = slim.WithContext(a.ctx), nil
	x.clock, x.came, x.work = nil, nil, nil
	s.asides.add(a)
	a.wait(p)
	return true
}

// takeConn takes the connection of a request from net/http; nil when that can not be done.
func (x *exchange) takeConn() *held {
	s, r := x.request.server, x.request.Request
	if l := lineOf(r.Context()); l != nil && l.kept != nil {
		if ahead, ok := l.kept.takeBack(); ok {
			x.Header().Set("Connection", "close") // so that net/http closes what it has
			return hold(s, l.kept.Conn, ahead, r)
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
	return hold(s, unwrap(conn), bytes.Clone(ahead), r)
}

// wait goes on waiting.
func (a *aside) wait(p *Park) {
	a.mu.Lock()
	a.park = p
	a.waiting = max(a.waiting, -a.waiting) + 1
	turn := a.waiting
	a.timer = time.AfterFunc(time.Until(p.Until), func() { a.wake(true) })
	a.mu.Unlock()
	stop := p.Wait(func() { a.wake(false) })
	a.mu.Lock()
	if a.waiting == turn {
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

// take ends the wait; false when there is none.
func (a *aside) take() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.waiting < 0 {
		return false
	}
	a.waiting = -a.waiting
	a.timer.Stop()
	if a.stop != nil {
		a.stop()
		a.stop = nil
	}
	return true
}

// wake goes on with the request, in a goroutine of its own.
func (a *aside) wake(over bool) {
	if a.take() {
		go a.goOn(over)
	}
}

// goOn resumes the request, and serves those that follow on the connection.
func (a *aside) goOn(over bool) {
	if h := a.resume(over); h != nil {
		h.serve()
	}
}

// resume answers the request or parks it again. It returns the connection when that can carry the next request.
func (a *aside) resume(over bool) (next *held) {
	x := a.x
	defer func() {
		if fault := recover(); fault != nil {
			if fault != http.ErrAbortHandler { //nolint:errorlint // the value that fail panics with
				x.request.server.log.Error(
					"a handler panicked", "request", x.request.id, "route", x.endpoint.route.Pattern, "panic", fmt.Sprint(fault), "stack",
					string(debug.Stack()),
				)
			}
			a.w.last = true
			if x.status == 0 {
				x.write(answerTo(unknown(nil)))
			}
			next = a.end()
		}
	}()
	ctx, end := x.limited(a.ctx)
	defer end()
	result, err := a.park.Resume(ctx, over)
	again, waits := result.(*Park)
	if waits && err == nil {
		if err = x.askWaiting(ctx); err == nil {
			x.clock = nil
			x.letGo()
			a.wait(again)
			return nil
		}
	}
	if err == nil {
		err = x.answerLate(ctx, result)
	}
	if err != nil {
		x.fail(err)
	}
	a.w.finish() // not of one that was cut, which would look whole
	return a.end()
}

// end gives the connection for the next request, or closes it.
func (a *aside) end() (next *held) {
	x, h := a.x, a.w.held
	s := x.request.server
	a.w.cancel()
	s.asides.remove(a)
	x.letGo()
	if a.w.reusable() {
		h.open()
		next = h
	} else {
		_ = h.conn.Close() // nothing more is expected of it
	}
	x.done(s, time.Since(x.start))
	return next
}

// gone ends the wait of a client that went away.
func (a *aside) gone() {
	if a.take() {
		a.x.status = statusClientGone
		a.end()
	}
}

// asides are the requests that wait aside.
type asides struct {
	mu   sync.Mutex
	all  map[*aside]struct{}
	into *keptListener // nil while nobody serves
}

// serve names the listener that takes connections back; nil for none.
func (s *asides) serve(l *keptListener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.into = l
}

func (s *asides) serving() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.into != nil
}

// drain answers all that wait.
func (s *asides) drain() {
	for _, a := range s.list() {
		a.wake(true)
	}
}

// cut ends the work of all.
func (s *asides) cut() {
	for _, a := range s.list() {
		a.w.cancel()
		_ = a.w.held.conn.Close() // it is given up
	}
}

func (s *asides) add(a *aside) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[*aside]struct{}{}
	}
	s.all[a] = struct{}{}
}

func (s *asides) remove(a *aside) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, a)
}

func (s *asides) list() []*aside {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*aside, 0, len(s.all))
	for a := range s.all {
		out = append(out, a)
	}
	return out
}

// back gives net/http a connection; false when it takes none any more.
func (s *asides) back(c net.Conn, ahead []byte) bool {
	s.mu.Lock()
	l := s.into
	s.mu.Unlock()
	return l != nil && l.give(c, ahead)
}

// watchGone looks for clients that went away until done.
func (s *Server) watchGone(done <-chan struct{}) {
	tick := time.NewTicker(lookForGone)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
			s.asides.sweep()
			s.lines.sweep()
		}
	}
}

func (s *asides) sweep() {
	for _, a := range s.list() {
		if isGone(a.w.held.conn) {
			a.gone()
		}
	}
}

// Aside is how many requests are set aside.
func (s *Server) Aside() int { return len(s.asides.list()) }
