package web

import (
	"io"
	"net/http"
	"time"
)

// paceBytes is the progress that a client has to make within SendTimeout or BodyTimeout. It is also what each
// answer and each body may hold in memory without being counted.
const paceBytes = 64 << 10

// pace sets the deadline for the next piece of the answer. A deadline belongs to the connection, and the time before the answer is not the
// client's, so each piece sets it again.
func (x *exchange) pace() {
	now, server := time.Now(), x.request.server
	d := server.config.SendTimeout.D()
	if x.charged > 0 && d > shortDeadline && server.memory.isScarce() {
		d = shortDeadline
	}
	x.writing.Store(now.UnixNano())
	_ = http.NewResponseController(x.ResponseWriter).SetWriteDeadline(now.Add(d)) // the listener between processes has windows instead
}

// Write sends the answer in pieces, each of which the client must take in time.
func (x *exchange) Write(p []byte) (n int, err error) {
	if x.status == 0 {
		x.status = http.StatusOK
		x.leavePlace()
	}
	for {
		x.pace()
		if x.cut.Load() { // checked after the deadline is set: the function that cuts sets both
			return n, errCut
		}
		piece := p[n:min(len(p), n+paceBytes)]
		x.stopClock()
		k, err := x.ResponseWriter.Write(piece)
		x.startClock(0)
		n += k
		x.bytes += int64(k)
		if err != nil || n == len(p) {
			return n, err
		}
	}
}

// ReadFrom keeps the kernel's file to socket copy reachable for media, piece by piece. The piece is taken off a
// LimitedReader, not put around it: the kernel's copy knows only one.
func (x *exchange) ReadFrom(r io.Reader) (n int64, err error) {
	if x.status == 0 {
		x.status = http.StatusOK
		x.leavePlace()
	}
	whole, limited := r.(*io.LimitedReader)
	if !limited {
		whole = &io.LimitedReader{R: r, N: 1<<63 - 1}
	}
	for whole.N > 0 {
		x.pace()
		piece := &io.LimitedReader{R: whole.R, N: min(whole.N, paceBytes)}
		x.startClock(0) // it goes on: the piece may have to be read from afar
		k, err := io.Copy(x.ResponseWriter, piece)
		n += k
		whole.N -= k
		x.bytes += k
		if err != nil || piece.N > 0 {
			return n, err
		}
	}
	return n, nil
}

// Flush sends what is buffered.
func (x *exchange) Flush() {
	x.pace()
	x.stopClock()
	_ = http.NewResponseController(x.ResponseWriter).Flush()
	x.startClock(0)
}

// pacedBody is the body of a request; the client must send each piece in time. A client that sends one byte a minute would occupy a handler
// for ever.
type pacedBody struct {
	io.ReadCloser
	exchange      *exchange
	sinceDeadline int64 // bytes that came since the deadline was set; -1: set it with the next
	ended         bool
	unpaced       bool // whoever reads sets deadlines
}

// Read is part of io.Reader.
func (b *pacedBody) Read(p []byte) (int, error) {
	b.exchange.lendPlace() // the client may take long; who has read the body takes it again
	b.exchange.stopClock()
	defer b.exchange.startClock(0)
	if b.unpaced {
		n, err := b.ReadCloser.Read(p)
		b.ended = b.ended || err == io.EOF
		return n, err
	}
	control := http.NewResponseController(b.exchange.ResponseWriter)
	if b.sinceDeadline < 0 || b.sinceDeadline >= paceBytes {
		b.sinceDeadline = 0
		now := time.Now()
		b.exchange.reading.Store(now.UnixNano())
		_ = control.SetReadDeadline(now.Add(b.exchange.request.server.config.BodyTimeout.D()))
	}
	n, err := b.ReadCloser.Read(p)
	b.sinceDeadline += int64(n)
	switch {
	case err == io.EOF:
		// net/http keeps reading to notice a client that goes away.
		b.ended = true
		b.exchange.reading.Store(0)
		_ = control.SetReadDeadline(time.Time{})
	case err != nil:
		b.exchange.stalled = true // the deadline stays, so that nobody waits for the rest
	}
	return n, err
}

// wasHurried reports whether the deadline of the current piece of the body, which has passed, had been shortened.
func (x *exchange) wasHurried() bool {
	return time.Since(time.Unix(0, x.reading.Load())) < x.request.server.config.BodyTimeout.D()
}

// leave bounds how long net/http waits for the rest of a body that the handler did not read: net/http reads it before it sends the answer.
// On a connection that ends with the answer net/http does not read it; leave does, because otherwise the connection would be reset and the
// client would lose the answer.
func (b *pacedBody) limitRest() {
	r := &b.exchange.request
	if b.ended || b.exchange.stalled || r.ProtoMajor != 1 {
		return
	}
	b.sinceDeadline = -1 // a handler that reads on gets its time back
	_ = http.NewResponseController(b.exchange.ResponseWriter).SetReadDeadline(time.Now().Add(refusedBodyTime))
	if r.Close && r.ContentLength <= refusedBodyBytes && r.Header.Get("Expect") == "" {
		_, _ = io.CopyN(io.Discard, b.ReadCloser, refusedBodyBytes)
	}
}
