package bench

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tidwall/gjson"
)

// conn is one keep-alive HTTP/1.1 connection of one client. It costs one goroutine, the caller's, and while it
// waits for an answer no buffer, so that thousands of waiting clients measure the server and not the generator.
type conn struct {
	servers *servers
	token   string
	net     net.Conn
	host    string
	kind    string // content type of bodies; "" is JSON

	pooled *[]byte // where buf belongs; nil when the connection holds none
	buf    []byte  // the request, then the answer

	done   <-chan struct{} // of the context that ends the connection
	follow func() bool     // stops that

	raw  syscall.RawConn // nil with TLS
	step func(fd uintptr) bool
	asks bool  // the request is not written
	sent int   // bytes of it that were
	n    int   // bytes of the answer's first read
	err  error // of a system call in step
}

// servers are the addresses of the homeserver, taken in turn.
type servers struct {
	urls []*url.URL
	tls  *tls.Config // nil: that of the system
	next atomic.Uint64
}

func parseServers(list string) (*servers, error) {
	s := &servers{}
	for _, text := range strings.Split(list, ",") {
		u, err := url.Parse(strings.TrimRight(strings.TrimSpace(text), "/"))
		if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
			return nil, fmt.Errorf("url: expected http://host:port or https://host, found %q", text)
		}
		s.urls = append(s.urls, u)
	}
	return s, nil
}

// statusError is an answer that is no success.
type statusError struct {
	Status int
	Body   string
}

func (e *statusError) Error() string {
	return fmt.Sprintf("status %d: %s", e.Status, e.Body[:min(len(e.Body), 300)])
}

// retryable tells that the same request may succeed later.
func retryable(err error) bool {
	var s *statusError
	if errors.As(err, &s) {
		return s.Status >= 500 || s.Status == http.StatusTooManyRequests
	}
	return err != nil && !errors.Is(err, context.Canceled)
}

func (c *conn) dial(ctx context.Context) error {
	u := c.servers.urls[int(c.servers.next.Add(1))%len(c.servers.urls)]
	host := u.Host
	if u.Port() == "" {
		host += map[string]string{"http": ":80", "https": ":443"}[u.Scheme]
	}
	d := net.Dialer{Timeout: 5 * time.Second}
	n, err := d.DialContext(ctx, "tcp", host)
	if err != nil {
		return err
	}
	if u.Scheme == "https" {
		config := c.servers.tls.Clone()
		if config == nil {
			config = &tls.Config{}
		}
		config.ServerName, config.MinVersion = u.Hostname(), tls.VersionTLS12
		n = tls.Client(n, config)
	}
	if tcp, ok := n.(*net.TCPConn); ok {
		if c.raw, err = tcp.SyscallConn(); err != nil {
			return err // it has been closed
		}
		if c.step == nil {
			c.step = c.exchange
		}
	}
	c.net, c.host = n, u.Host
	c.endWith(ctx)
	return nil
}

// endWith lets the end of a context end what is under way. It is called once for a connection and a context,
// not for each request: thousands would meet at the lock of the context.
func (c *conn) endWith(ctx context.Context) {
	open := c.net
	c.done, c.follow = ctx.Done(), context.AfterFunc(ctx, func() { _ = open.SetDeadline(time.Unix(1, 0)) })
}

func (c *conn) close() {
	if c.net != nil {
		c.follow()
		_ = c.net.Close() // it is not used again
		c.net, c.raw = nil, nil
	}
}

// do sends a request and returns the body of a successful answer, valid until the next call.
func (c *conn) do(ctx context.Context, method, path string, body []byte, timeout time.Duration) ([]byte, error) {
	return c.ask(ctx, method, []byte(path), body, timeout)
}

// ask is do for a path that the caller builds again and again.
func (c *conn) ask(ctx context.Context, method string, path, body []byte, timeout time.Duration) ([]byte, error) {
	if c.net != nil && c.done != ctx.Done() {
		if c.follow() {
			c.endWith(ctx)
		} else { // the other context has ended, and with it the connection
			c.close()
		}
	}
	for used := c.net != nil; ; used = false {
		if c.net == nil {
			if err := c.dial(ctx); err != nil {
				return nil, err
			}
		}
		out, err := c.roundTrip(ctx, method, path, body, timeout)
		var s *statusError
		if err != nil && !errors.As(err, &s) {
			c.close()
		}
		// A server may close a connection that was idle. What only reads is asked for again then.
		if !used || method != http.MethodGet || !errors.Is(err, errNoAnswer) || ctx.Err() != nil {
			return out, err
		}
	}
}

// errNoAnswer says that a connection ended before an answer began.
var errNoAnswer = errors.New("the connection ended without an answer")

func (c *conn) roundTrip(ctx context.Context, method string, path, body []byte, timeout time.Duration) ([]byte, error) {
	if err := c.net.SetDeadline(time.Now().Add(timeout)); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil { // it may have set its deadline before this one
		return nil, err
	}
	c.take()
	b := c.buf[:0]
	b = append(b, method...)
	b = append(b, ' ')
	b = append(b, path...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, c.host...)
	if c.token != "" {
		b = append(b, "\r\nAuthorization: Bearer "...)
		b = append(b, c.token...)
	}
	if body != nil {
		b = append(b, "\r\nContent-Type: "...)
		b = append(b, cmp.Or(c.kind, "application/json")...)
		b = append(b, "\r\nContent-Length: "...)
		b = strconv.AppendInt(b, int64(len(body)), 10)
	}
	b = append(b, "\r\n\r\n"...)
	b = append(b, body...)
	c.buf = b
	if err := c.begin(); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	status, out, err := c.answer()
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, &statusError{status, string(out)}
	}
	return out, nil
}

// begin writes the request in c.buf and waits until an answer begins there.
func (c *conn) begin() error {
	c.asks, c.sent, c.n, c.err = true, 0, 0, nil
	if c.raw != nil {
		if err := c.raw.Read(c.step); err != nil {
			return err
		}
		if c.err != nil {
			return c.err
		}
		if c.n > 0 {
			return nil
		}
	}
	if _, err := c.net.Write(c.buf[c.sent:]); err != nil {
		return err
	}
	c.buf = c.buf[:0]
	return c.more()
}

// exchange writes the request and, called again when the connection can be read, reads the answer's beginning:
// two system calls, where a read that has to wait is tried before it too. Between them the buffer is free.
// The runtime notes from before the write on that there is something to read.
func (c *conn) exchange(fd uintptr) bool {
	if c.asks {
		c.asks = false
		n, err := syscall.Write(int(fd), c.buf)
		c.sent = max(n, 0)
		if c.sent == len(c.buf) {
			c.release()
			return false
		}
		if err != syscall.EAGAIN && err != syscall.EINTR {
			c.err = err // nil when a part was written: begin writes the rest
		}
		return true
	}
	c.take()
	n, err := syscall.Read(int(fd), c.buf[:cap(c.buf)])
	for err == syscall.EINTR {
		n, err = syscall.Read(int(fd), c.buf[:cap(c.buf)])
	}
	switch {
	case err == syscall.EAGAIN:
		c.release()
		return false
	case err != nil:
		c.err = err
	case n == 0:
		c.err = io.EOF
	default:
		c.n, c.buf = n, c.buf[:n]
	}
	return true
}

// call is do with a JSON path taken out of the answer.
func (c *conn) call(ctx context.Context, method, path string, body []byte, field string) (string, error) {
	out, err := c.do(ctx, method, path, body, time.Minute)
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", method, path, err)
	}
	return gjson.GetBytes(out, field).String(), nil
}
