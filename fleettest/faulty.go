package fleettest

import (
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"time"
)

// Fault is what becomes of a request on its way to an HTTP server.
type Fault int

// The faults.
const (
	Pass       Fault = iota
	Refuse           // answered with status 500, never passed on
	Cut              // the connection breaks before the request is passed on
	CutAfter         // the request is done, and the connection breaks in the middle of the answer
	Slow             // passed on after two seconds
	faultKinds       // how many there are
)

// FaultyHTTP passes requests on to a server, and fails some.
type FaultyHTTP struct {
	server   *http.Server
	listener net.Listener
	every    atomic.Int64 // one of so many requests fails; 0: none
	requests atomic.Int64
	failed   atomic.Int64
}

// NewFaultyHTTP listens at an address, host:port, and passes requests on to the server at a URL.
func NewFaultyHTTP(address, target string) (*FaultyHTTP, error) {
	u, err := url.Parse(target)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	f := &FaultyHTTP{listener: l}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(u)
		r.Out.Host = r.In.Host // it is part of what was signed
	}, ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }}
	f.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch f.next() {
		case Refuse:
			f.failed.Add(1)
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(http.StatusInternalServerError)
			return
		case Cut:
			f.failed.Add(1)
			panic(http.ErrAbortHandler)
		case CutAfter:
			f.failed.Add(1)
			proxy.ServeHTTP(&cutWriter{ResponseWriter: w}, r)
			panic(http.ErrAbortHandler)
		case Slow:
			f.failed.Add(1)
			time.Sleep(2 * time.Second)
		}
		proxy.ServeHTTP(w, r)
	})}
	go func() { _ = f.server.Serve(l) }() // ends with Close
	return f, nil
}

// next chooses the fate of a request: the faults take turns.
func (f *FaultyHTTP) next() Fault {
	n, every := f.requests.Add(1), f.every.Load()
	if every == 0 || n%every != 0 {
		return Pass
	}
	return Fault(1 + n/every%int64(faultKinds-1))
}

// FailEvery makes one of n requests fail, in turn in each way; 0 ends it.
func (f *FaultyHTTP) FailEvery(n int) { f.every.Store(int64(n)) }

// Failed is how many requests met a fault, and how many came in all.
func (f *FaultyHTTP) Failed() (failed, all int64) { return f.failed.Load(), f.requests.Load() }

// URL is where the requests go.
func (f *FaultyHTTP) URL() string { return "http://" + f.listener.Addr().String() }

// Close ends it.
func (f *FaultyHTTP) Close() error { return f.server.Close() }

// cutWriter lets half of the first piece of an answer through.
type cutWriter struct {
	http.ResponseWriter
	cut bool
}

func (c *cutWriter) Write(p []byte) (int, error) {
	if !c.cut {
		c.cut = true
		_, _ = c.ResponseWriter.Write(p[:len(p)/2])
	}
	return len(p), nil
}
