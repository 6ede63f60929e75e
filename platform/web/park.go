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
	// client that went away.
	Resume func(ctx context.Context, over bool) (any, error)
}

const (
	setAsideAfter = 300 * time.Millisecond
	lookForGone   = 5 * time.Second // how often clients that went away are looked for among those set aside
)

// park waits for news, here or aside, and answers.
func (x *exchange) park(p *Park) error {
	ctx, s := x.request.Context(), x.request.server
	x.token = x.request.Token()
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
		result, err := p.Resume(ctx, over)
		if err != nil {
			return err
		}
		next, again := result.(*Park)
		if !again {
			return x.answerLate(ctx, result)
		}
		p = next
	}
}

// answerLate answers a request that waited, if it would be let in now: its token may have been revoked, or its user locked.
func (x *exchange) answerLate(ctx context.Context, result any) error {
	if x.request.Identity != nil {
		if _, err := x.request.server.auth.Authenticate(ctx, x.token); err != nil {
			return err
		}
	}
	return x.answer(result)
}

// aside is a request that waits without a goroutine.
type aside struct {
	x      *exchange
	conn   net.Conn
	ahead  []byte // what the client sent behind the request
	ctx    context.Context
	cancel context.CancelFunc

	mu      sync.Mutex
	park    *Park
	waiting int // how often it has begun to wait; below 0 while it does not
	stop    func()
	timer   *time.Timer
}

// setAside takes the connection out of the hands of net/http, or says that it can not be done.
func (x *exchange) setAside(p *Park) bool {
	s, r := x.request.server, x.request.Request
	if x.request.internal || !s.asides.serving() || s.tracer != nil || x.status != 0 || x.body != nil || r.Method != http.MethodGet || r.ProtoMajor != 1 || r.ProtoMinor < 1 {
		return false
	}
	a := &aside{x: x}
	header := maps.Clone(x.Header())
	if !a.takeConn(r) {
		return false
	}
	x.aside = true
	x.request.RemoteIP() // while the headers are there
	a.ctx, a.cancel = context.WithCancel(context.Background())
	w := &asideWriter{conn: a.conn, header: header, last: r.Close}
	// The request as far as an answer asks for it. All else, and the context with what net/http knows, can go.
	slim := &http.Request{
		Method: r.Method, URL: &url.URL{Path: r.URL.Path}, Proto: r.Proto, ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Body: http.NoBody,
		Host: r.Host, RemoteAddr: r.RemoteAddr,
	}
	if v := r.Header["Accept-Encoding"]; v != nil {
		slim.Header["Accept-Encoding"] = v
	}
	x.request.Request, x.request.query, x.ResponseWriter = slim.WithContext(a.ctx), nil, w
	s.asides.add(a)
	a.wait(p)
	return true
}

// takeConn takes the connection of a request.
func (a *aside) takeConn(r *http.Request) bool {
	if l := lineOf(r.Context()); l != nil && l.kept != nil {
		if ahead, ok := l.kept.takeBack(); ok {
			a.conn, a.ahead = l.kept.Conn, ahead
			a.x.Header().Set("Connection", "close") // so that net/http closes what it has
			return true
		}
	}
	conn, buffered, err := http.NewResponseController(a.x.ResponseWriter).Hijack()
	if err != nil {
		return false
	}
	a.conn = unwrap(conn)
	if n := buffered.Reader.Buffered(); n > 0 {
		ahead, _ := buffered.Reader.Peek(n) // it is there
		a.ahead = bytes.Clone(ahead)
	}
	return true
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
		go a.resume(over)
	}
}

func (a *aside) resume(over bool) {
	x := a.x
	w := x.ResponseWriter.(*asideWriter)
	w.last = w.last || x.request.server.leaving.Load()
	defer func() {
		if fault := recover(); fault != nil {
			if fault != http.ErrAbortHandler { //nolint:errorlint // the value that fail panics with
				x.request.server.log.Error("a handler panicked", "request", x.request.id, "route", x.endpoint.route.Pattern, "panic", fmt.Sprint(fault), "stack", string(debug.Stack()))
			}
			w.last = true
			if x.status == 0 {
				x.write(answerTo(unknown(nil)))
			}
			a.end()
		}
	}()
	result, err := a.park.Resume(a.ctx, over)
	if next, again := result.(*Park); again && err == nil {
		a.wait(next)
		return
	}
	if err == nil {
		err = x.answerLate(a.ctx, result)
	}
	if err != nil {
		x.fail(err)
	}
	a.end()
}

// end gives the connection back to net/http for the next request, or closes it.
func (a *aside) end() {
	x, s := a.x, a.x.request.server
	a.cancel()
	s.asides.remove(a)
	x.letGo()
	if x.ResponseWriter.(*asideWriter).reusable() && a.conn.SetDeadline(time.Time{}) == nil {
		s.asides.back(a.conn, a.ahead)
	} else {
		_ = a.conn.Close() // nothing more is expected of it
	}
	x.done(s, time.Since(x.start))
}

// gone ends the wait of a client that went away.
func (a *aside) gone() {
	if a.take() {
		a.x.status = statusClientGone
		a.end()
	}
}

// asideWriter writes an answer as HTTP/1.1 onto the connection.
type asideWriter struct {
	conn   net.Conn
	header http.Header
	head   []byte // written together with the first bytes
	wrote  bool
	last   bool // the connection ends with this answer
	err    error
}

// Header is part of http.ResponseWriter.
func (w *asideWriter) Header() http.Header { return w.header }

// WriteHeader is part of http.ResponseWriter.
func (w *asideWriter) WriteHeader(status int) {
	if w.wrote {
		return
	}
	w.wrote = true
	if w.header["Content-Length"] == nil { // its end is the connection's
		w.last = true
	}
	if w.last {
		w.header["Connection"] = []string{"close"}
	} else if w.header["Connection"] != nil {
		w.last = true
	}
	w.header["Date"] = []string{time.Now().UTC().Format(http.TimeFormat)}
	var b bytes.Buffer
	fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\n", status, http.StatusText(status))
	_ = w.header.Write(&b) // a buffer takes all
	b.WriteString("\r\n")
	w.head = b.Bytes()
}

// Write is part of http.ResponseWriter.
func (w *asideWriter) Write(p []byte) (int, error) {
	if !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	if w.err != nil {
		return 0, w.err
	}
	if w.head == nil {
		n, err := w.conn.Write(p)
		w.err = err
		return n, err
	}
	head := len(w.head)
	parts := net.Buffers{w.head, p}
	w.head = nil
	n, err := parts.WriteTo(w.conn)
	w.err = err
	return max(int(n)-head, 0), err
}

// Flush serves http.ResponseController.
func (w *asideWriter) Flush() {
	if w.head != nil {
		_, _ = w.Write(nil) // kept in err
	}
}

// SetWriteDeadline serves http.ResponseController.
func (w *asideWriter) SetWriteDeadline(t time.Time) error { return w.conn.SetWriteDeadline(t) }

// SetReadDeadline serves http.ResponseController.
func (w *asideWriter) SetReadDeadline(t time.Time) error { return w.conn.SetReadDeadline(t) }

// reusable tells that a whole answer was written and the connection may carry another.
func (w *asideWriter) reusable() bool { return w.wrote && w.head == nil && w.err == nil && !w.last }

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
		a.cancel()
		_ = a.conn.Close() // it is given up
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

func (s *asides) back(c net.Conn, ahead []byte) {
	s.mu.Lock()
	l := s.into
	s.mu.Unlock()
	if l == nil || !l.give(c, ahead) {
		_ = c.Close() // the server ends
	}
}

// watch looks for clients that went away until done.
func (s *asides) watch(done <-chan struct{}) {
	tick := time.NewTicker(lookForGone)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
			s.sweep()
		}
	}
}

func (s *asides) sweep() {
	for _, a := range s.list() {
		if isGone(a.conn) {
			a.gone()
		}
	}
}

// Aside is how many requests are set aside.
func (s *Server) Aside() int { return len(s.asides.list()) }
