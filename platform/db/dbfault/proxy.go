package dbfault

import (
	"bufio"
	"encoding/binary"
	"net"
	"net/url"
	"slices"
	"sync"
	"time"
)

// Proxy stands between one process and PostgreSQL.
type Proxy struct {
	Gate
	listener net.Listener
	server   string // host:port
	url      string

	mu     sync.Mutex
	links  map[*link]struct{}
	away   bool          // nobody is let in
	frozen chan struct{} // closed when messages flow again; nil when they do
	late   func(Read) bool
	held   chan struct{} // closed when late answers go on; nil when none is held
	wg     sync.WaitGroup
}

// NewProxy listens on a loopback port and passes connections on to the server of a URL, which must have sslmode=disable.
func NewProxy(serverURL string) (*Proxy, error) {
	u, err := url.Parse(serverURL)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{listener: l, server: u.Host, links: map[*link]struct{}{}}
	u.Host = l.Addr().String()
	p.url = u.String()
	p.wg.Go(p.accept)
	return p, nil
}

// URL is the database as seen through the proxy.
func (p *Proxy) URL() string { return p.url }

// Close cuts everything. What is on its way late still arrives.
func (p *Proxy) Close() error {
	err := p.listener.Close()
	p.Away(true)
	p.wg.Wait()
	return err
}

// Cut breaks all connections. The next ones are let in.
func (p *Proxy) Cut() {
	p.mu.Lock()
	links := p.links
	p.links = map[*link]struct{}{}
	p.mu.Unlock()
	for l := range links {
		l.cut()
	}
}

// Away says whether the database can not be reached: connections are cut and new ones end at once.
func (p *Proxy) Away(away bool) {
	p.mu.Lock()
	p.away = away
	p.mu.Unlock()
	if away {
		p.Thaw()
		p.LetAnswers()
		p.Cut()
	}
}

// Freeze stops all messages in both directions, as when the process or its network hangs, until Thaw.
func (p *Proxy) Freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.frozen == nil {
		p.frozen = make(chan struct{})
	}
}

// Thaw ends Freeze.
func (p *Proxy) Thaw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.frozen != nil {
		close(p.frozen)
		p.frozen = nil
	}
}

// Read is a statement with what is bound to it, as it is sent.
type Read struct {
	Query  string
	Values []byte
}

// HoldAnswers makes the answers to the statements that late tells wait until LetAnswers: the server gives them now, so they
// are of the past when the client gets them. Others go on.
func (p *Proxy) HoldAnswers(late func(Read) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.late = late
	if p.held == nil {
		p.held = make(chan struct{})
	}
}

// LetAnswers ends HoldAnswers.
func (p *Proxy) LetAnswers() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.late = nil
	if p.held != nil {
		close(p.held)
		p.held = nil
	}
}

// holds gives what the answer to a series waits for; nil for nothing.
func (p *Proxy) holds(sr *series) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.late != nil && slices.ContainsFunc(sr.reads, p.late) {
		return p.held
	}
	return nil
}

// flow waits while messages are stopped.
func (p *Proxy) flow() {
	for {
		p.mu.Lock()
		frozen := p.frozen
		p.mu.Unlock()
		if frozen == nil {
			return
		}
		<-frozen
	}
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return // Close
		}
		l := &link{
			proxy: p, client: client, session: session{texts: map[string]string{}, guards: p.guards}, gone: make(chan struct{}),
			ready: make(chan struct{}, 1), done: make(chan struct{}, 1000),
		}
		p.mu.Lock()
		away := p.away
		if !away {
			p.links[l] = struct{}{}
		}
		p.mu.Unlock()
		if away {
			_ = client.Close()
			continue
		}
		p.wg.Go(func() {
			l.run()
			p.mu.Lock()
			delete(p.links, l)
			p.mu.Unlock()
		})
	}
}

// link is one connection of a client with its connection to the server.
type link struct {
	proxy   *Proxy
	client  net.Conn
	server  net.Conn
	session session
	once    sync.Once
	gone    chan struct{} // closed when the client's side ended

	mu   sync.Mutex
	sent int64           // series that the server has not answered
	deaf bool            // the client gets no answers any more
	late <-chan struct{} // what the client's answers wait for; nil for nothing
	// What the server has done, for a deaf link only.
	ready chan struct{} // a series
	done  chan struct{} // a statement
}

// cut breaks the client's side. The server's side ends with run.
func (l *link) cut() {
	l.once.Do(func() { close(l.gone) })
	l.mu.Lock()
	l.deaf = true
	l.mu.Unlock()
	_ = l.client.Close()
}

func (l *link) run() {
	defer l.cut()
	in := bufio.NewReader(l.client)
	start, err := readStartup(in)
	for err == nil && binary.BigEndian.Uint32(start[4:]) == sslRequest {
		if _, err = l.client.Write([]byte{'N'}); err == nil {
			start, err = readStartup(in)
		}
	}
	if err != nil {
		return
	}
	if l.server, err = net.Dial("tcp", l.proxy.server); err != nil {
		return
	}
	defer l.server.Close()
	defer func() { l.count(-l.count(0)) }()
	l.count(1)
	if _, err = l.server.Write(start); err != nil || binary.BigEndian.Uint32(start[4:]) == cancelRequest {
		return
	}
	frames := make(chan []byte, 64)
	go func() { // ends with the client's side
		defer close(frames)
		defer l.once.Do(func() { close(l.gone) })
		for {
			f, err := readFrame(in)
			if err != nil {
				return
			}
			select {
			case frames <- f:
			case <-l.gone:
				return
			}
		}
	}()
	l.proxy.wg.Go(l.answer)
	sr := &series{}
	for f := range frames {
		if !l.session.note(sr, f) {
			continue
		}
		if !l.send(sr) {
			return
		}
		sr = &series{}
	}
}

const (
	sslRequest    = 80877103
	cancelRequest = 80877102
)

// answer passes on what the server says.
func (l *link) answer() {
	defer l.cut()
	in := bufio.NewReader(l.server)
	var out []byte
	for {
		f, err := readFrame(in)
		if err != nil {
			close(l.ready)
			close(l.done)
			return
		}
		l.mu.Lock()
		deaf := l.deaf
		l.mu.Unlock()
		if f[0] == msgReady {
			l.count(-1)
		}
		if deaf {
			l.tell(f[0])
			continue
		}
		if out = append(out, f...); f[0] == msgReady || in.Buffered() == 0 {
			l.wait()
			l.proxy.flow()
			if _, err := l.client.Write(out); err != nil {
				l.cut()
			}
			out = out[:0]
		}
	}
}

// wait waits while the answers of the link are held.
func (l *link) wait() {
	l.mu.Lock()
	late := l.late
	l.mu.Unlock()
	if late == nil {
		return
	}
	select {
	case <-late:
	case <-l.gone:
	}
}

// count changes how many answers are awaited, and returns how many there are.
func (l *link) count(by int64) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent += by
	l.proxy.active.Add(by)
	l.proxy.counter.Add(1)
	return l.sent
}

// tell says what the server did on a deaf link.
func (l *link) tell(typ byte) {
	c := l.done
	switch typ {
	case msgReady:
		c = l.ready
	case msgComplete, msgError:
	default:
		return
	}
	for range cap(c) {
		select {
		case c <- struct{}{}:
		default:
		}
		if typ != msgError { // what stands behind an error is left out
			return
		}
	}
}

// send passes a series on, or does with it what the test decides. Not ok when the connection is over.
func (l *link) send(sr *series) (ok bool) {
	if l.session.commits(sr) {
		if h := l.proxy.hold(); h != nil {
			var f Fault
			select {
			case f = <-h.decide:
			case <-l.gone:
				l.proxy.drop(h)
				return false
			}
			return l.end(sr, f)
		}
	}
	late := l.proxy.holds(sr)
	l.mu.Lock()
	l.late = late
	l.mu.Unlock()
	return l.forward(sr.frames, sr.last)
}

func (l *link) forward(frames [][]byte, last byte) bool {
	l.proxy.flow()
	if last == msgSync || last == msgQuery {
		l.count(1)
	}
	_, err := l.server.Write(slices.Concat(frames...))
	return err == nil
}

// end gives a group commit its fate.
func (l *link) end(sr *series, f Fault) bool {
	switch f {
	case Before:
		return false
	case After:
		l.silence()
		l.forward(sr.frames, sr.last)
		l.awaitReady()
		return false
	case Late, LateEnd:
		last := 0
		if f == LateEnd {
			last = l.begin(sr)
		}
		l.cut()
		if f == Late && sr.fence {
			time.Sleep(LateBatch)
		} else {
			time.Sleep(LateAfter)
		}
		l.drain()
		l.forward(sr.frames[last:], sr.last)
		l.awaitReady()
		return false
	case Refuse:
		return l.refuse(sr, "53100", "could not extend file: No space left on device")
	case Again:
		return l.refuse(sr, "40001", "could not serialize access due to concurrent update")
	case Slow:
		select {
		case <-time.After(SlowBy):
		case <-l.gone:
			return false
		}
	}
	return l.forward(sr.frames, sr.last)
}

// begin lets the server work on a batch up to its end, and returns what is left of it.
func (l *link) begin(sr *series) (last int) {
	if last = len(sr.frames) - 1; sr.endAt > 0 {
		last = sr.endAt
	}
	l.silence()
	l.forward(append(slices.Clone(sr.frames[:last]), frameOf(msgFlush, nil)), 0)
	for _, f := range sr.frames[:last] {
		if f[0] == msgExecute {
			l.await(l.done)
		}
	}
	return last
}

// silence makes what the server says from now on unheard.
func (l *link) silence() {
	l.mu.Lock()
	l.deaf = true
	l.mu.Unlock()
	l.drain()
}

func (l *link) drain() {
	select {
	case <-l.ready:
	default:
	}
}

// awaitReady waits until the server has done what it was sent.
func (l *link) awaitReady() { l.await(l.ready) }

func (l *link) await(what chan struct{}) {
	select {
	case <-what:
	case <-time.After(10 * time.Second):
	}
}

// refuse undoes the transaction at the server and answers with an error in its place.
func (l *link) refuse(sr *series, code, message string) bool {
	if !sr.fence { // what came before the end was done already; else all is left out
		l.silence()
		l.forward([][]byte{frameOf(msgQuery, []byte("rollback\x00"))}, msgQuery)
		l.awaitReady()
		l.mu.Lock()
		l.deaf = false
		l.mu.Unlock()
	}
	_, err := l.client.Write(refusal(code, message))
	return err == nil
}
