package web

import (
	"crypto/rand"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Request is what a Handler gets: the HTTP request and what the server found out about it.
// It is valid until the handler returns.
type Request struct {
	*http.Request
	Identity *Identity // nil when the route takes no token, or none was given to an Optional one
	Route    *Route

	server          *Server
	writer          *exchange
	query           url.Values
	client          netip.Addr
	id              string
	once            string
	internal        bool
	authenticatedAt time.Time // when its access was last checked
	hasWaited       bool      // Waits was called since then
}

// ID is the request id, as in the answer's X-Request-Id and in the log.
func (r *Request) ID() string { return r.id }

// OnceHeader carries Request.Once from one process of the fleet to another.
const OnceHeader = "Lyceum-Once"

// Once is a random id of the request. It stays the same when the process that served the request is lost and another one repeats it, so
// that the answer to a request without a transaction id can be found again.
func (r *Request) Once() string {
	if given := r.Header.Get(OnceHeader); r.once == "" && r.internal && given != "" {
		r.once = given
	}
	if r.once == "" {
		r.once = rand.Text()
	}
	return r.once
}

// UserID returns the caller's user id, "" when there is none.
func (r *Request) UserID() string {
	if r.Identity == nil {
		return ""
	}
	return r.Identity.UserID
}

// DeviceID returns the caller's device id, "" when there is none.
func (r *Request) DeviceID() string {
	if r.Identity == nil {
		return ""
	}
	return r.Identity.DeviceID
}

// TransactionScope identifies the device for transaction ids: a device and a later one with the same id have different scopes.
func (r *Request) TransactionScope() string {
	if r.Identity == nil || r.Identity.Transactions == "" {
		return r.DeviceID()
	}
	return r.Identity.DeviceID + "\n" + r.Identity.Transactions
}

// Path returns a wildcard of the pattern, unescaped. It is valid UTF-8 without NUL.
func (r *Request) Path(name string) string { return r.PathValue(name) }

// Query returns the parameters of the query, parsed once. They are valid UTF-8 without NUL.
func (r *Request) Query() url.Values {
	if r.query == nil {
		r.query = r.URL.Query()
	}
	return r.query
}

// QueryParam returns the first value of a parameter, "" when it is missing.
func (r *Request) QueryParam(name string) string {
	if r.URL.RawQuery == "" {
		return ""
	}
	return r.Query().Get(name)
}

// Int reads a whole number from the query: def when it is missing, at most max (0: no bound).
// A negative number or no number is 400 M_INVALID_PARAM.
func (r *Request) Int(name string, def, max int) (int, error) {
	text := r.QueryParam(name)
	if text == "" {
		return def, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 0, invalidParam("The parameter " + name + " must be a whole number, 0 or more")
	}
	if max > 0 && n > max {
		n = max
	}
	return n, nil
}

// Bool reads true or false from the query: def when it is missing. Other words are 400 M_INVALID_PARAM.
func (r *Request) Bool(name string, def bool) (bool, error) {
	switch r.QueryParam(name) {
	case "":
		return def, nil
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, invalidParam("The parameter " + name + " must be true or false")
}

// Draining is closed when the server begins to stop: a handler that waits for news answers at once.
func (r *Request) Draining() <-chan struct{} { return r.server.draining }

// Internal says that the request came in on the listener for the processes of the fleet.
func (r *Request) Internal() bool { return r.internal }

// RemoteIP is the address of the client. Addresses that a proxy claims are believed only when the
// proxy is trusted by the configuration, or is a process of the fleet. It is the zero Addr when the
// listener is a unix socket and no proxy says more.
func (r *Request) RemoteIP() netip.Addr {
	if !r.client.IsValid() {
		r.client = r.server.clientIP(r.Request, r.internal)
	}
	return r.client
}

// Scheme is "https" or "http": how the client sees the server, when a trusted proxy ends its TLS.
func (r *Request) Scheme() string {
	if claimed := r.Header.Get("X-Forwarded-Proto"); claimed != "" && (r.internal || r.server.trusts(peerIP(r.Request))) {
		if claimed == "https" || claimed == "http" {
			return claimed
		}
	}
	if r.TLS != nil && !r.internal {
		return "https"
	}
	return "http"
}

// Token is the access token of the request, "" when it has none. It must not be logged or kept.
func (r *Request) Token() string {
	if r.writer != nil && r.writer.token != "" { // it waited, and its headers are gone
		return r.writer.token
	}
	const scheme = "Bearer "
	if header := r.Header.Get("Authorization"); header != "" {
		if len(header) > len(scheme) && strings.EqualFold(header[:len(scheme)], scheme) {
			return strings.TrimSpace(header[len(scheme):])
		}
		return ""
	}
	if strings.Contains(r.URL.RawQuery, "access_token=") {
		return r.Query().Get("access_token")
	}
	return ""
}

// Writer is the response writer, for handlers that return a [*Takeover] or set a header beforehand.
// Headers set here are part of the answer.
func (r *Request) Writer() http.ResponseWriter { return r.writer }
