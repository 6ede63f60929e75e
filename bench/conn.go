package bench

import (
	"bufio"
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
	"time"

	"github.com/tidwall/gjson"
)

// conn is one keep-alive HTTP/1.1 connection of one client. It costs one goroutine, the caller's, so that
// thousands of waiting clients measure the server and not the generator.
type conn struct {
	servers *servers
	token   string
	net     net.Conn
	buf     *bufio.Reader
	host    string
	body    []byte
	kind    string // content type of bodies; "" is JSON
}

// servers are the addresses of the homeserver, taken in turn.
type servers struct {
	urls []*url.URL
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
		n = tls.Client(n, &tls.Config{ServerName: u.Hostname(), MinVersion: tls.VersionTLS12})
	}
	c.net, c.host = n, u.Host
	if c.buf == nil {
		c.buf = bufio.NewReaderSize(n, 4096)
	} else {
		c.buf.Reset(n)
	}
	return nil
}

func (c *conn) close() {
	if c.net != nil {
		_ = c.net.Close() // it is not used again
		c.net = nil
	}
}

// do sends a request and returns the body of a successful answer, valid until the next call.
func (c *conn) do(ctx context.Context, method, path string, body []byte, timeout time.Duration) ([]byte, error) {
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

func (c *conn) roundTrip(ctx context.Context, method, path string, body []byte, timeout time.Duration) ([]byte, error) {
	open := c.net
	stop := context.AfterFunc(ctx, func() { _ = open.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := c.net.SetDeadline(time.Now().Add(timeout)); err != nil {
		return nil, err
	}
	b := c.body[:0]
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
	c.body = b
	if _, err := c.net.Write(b); err != nil {
		return nil, fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	if _, err := c.buf.Peek(1); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	res, err := http.ReadResponse(c.buf, nil)
	if err != nil {
		return nil, err
	}
	out, err := readBody(res)
	if err != nil {
		return nil, err
	}
	if res.Close {
		c.close()
	}
	if res.StatusCode != http.StatusOK {
		return nil, &statusError{res.StatusCode, string(out)}
	}
	return out, nil
}

func readBody(res *http.Response) ([]byte, error) {
	if n := res.ContentLength; n >= 0 && n < 1<<28 {
		out := make([]byte, n)
		_, err := io.ReadFull(res.Body, out)
		return out, err
	}
	return io.ReadAll(res.Body)
}

// call is do with a JSON path taken out of the answer.
func (c *conn) call(ctx context.Context, method, path string, body []byte, field string) (string, error) {
	out, err := c.do(ctx, method, path, body, time.Minute)
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", method, path, err)
	}
	return gjson.GetBytes(out, field).String(), nil
}
