package web

import (
	"context"
	"strings"
	"time"
)

// DefaultTimeout is how long load balancers and routers wait for the head of an answer.
const DefaultTimeout = time.Minute

// Route is one endpoint, as data. Routes are made at wiring time and not changed afterwards.
type Route struct {
	Pattern   string        // "PUT /_matrix/client/v3/rooms/{roomID}/leave", in the syntax of net/http.ServeMux; the method is required
	Auth      Auth          // who may call it; required
	Role      string        // the role that serves it best, for example "client" or "media"; "" is any process
	Key       Key           // what balances it over the processes of the role
	Limit     string        // name of a rate limit of the configuration; "" for none
	MaxBody   int64         // bytes that Decode, Object and Raw accept; 0 is the default of the configuration (1 MiB)
	EmptyBody bool          // a missing body is read as {}
	Upload    int64         // bytes of a body that is read as a stream, such as a file; 0: the body is JSON
	Timeout   time.Duration // longest time the answer may begin to come; 0 is DefaultTimeout
	Handler   Handler       // required

	// Page makes the page that a browser, which asks for HTML, gets in place of the JSON of an error, with its message; nil: none. The
	// headers of the error, such as Retry-After, are added to its own.
	Page func(r *Request, status int, message string) (*Raw, error)

	// Idempotent says that doing a POST twice leaves and answers the same as doing it once, so that it is done again when
	// the process that worked on it is lost. GET, HEAD, PUT and DELETE are so by their meaning.
	Idempotent bool
}

// Method returns the method of the pattern.
func (r *Route) Method() string {
	method, _, _ := strings.Cut(r.Pattern, " ")
	return method
}

// Path returns the path of the pattern, wildcards included.
func (r *Route) Path() string {
	_, path, _ := strings.Cut(r.Pattern, " ")
	return strings.TrimSpace(path)
}

// Handler does the work of a route. The result is written with status 200 as JSON (nil is {}), unless it
// is a [*Reply], [*Raw], [*Stream], [*Pieces], [*Park] or [*Takeover]; a json.RawMessage is written as it is. An error that is
// an [Answerer] chooses its own answer; any other becomes 500 M_UNKNOWN and is logged.
type Handler func(r *Request) (any, error)

// JSON makes a Handler that decodes the body into a new Body before it calls fn. See [Request.Decode].
func JSON[Body any](fn func(r *Request, body *Body) (any, error)) Handler {
	return func(r *Request) (any, error) {
		body := new(Body)
		if err := r.Decode(body); err != nil {
			return nil, err
		}
		return fn(r, body)
	}
}

// Auth says who may call a route. The zero value is refused at wiring time, so that an open route is
// always one that says so.
type Auth uint8

// The kinds of Auth.
const (
	_        Auth = iota
	None          // no token is looked at
	Optional      // Identity is set when a valid token is given; a bad token is still refused
	Guest         // a user, guests too
	User          // a user who is not a guest
	Admin         // an administrator of the server
	Fleet         // another process of this fleet; on the internal listener only
)

// String returns the name as it stands in manual/routes.md.
func (a Auth) String() string {
	names := [...]string{"", "none", "optional", "guest", "user", "admin", "fleet"}
	if int(a) < len(names) {
		return names[a]
	}
	return ""
}

// Key says what balances a route over the processes of its role.
type Key string

// The keys that need no name.
const (
	KeyNone Key = ""     // any process
	KeyUser Key = "user" // the caller; the same token goes to the same process
)

// KeyPath balances by a wildcard of the pattern: KeyPath("roomID").
func KeyPath(name string) Key { return Key("{" + name + "}") }

// PathName returns the wildcard of a KeyPath, and false for the other keys.
func (k Key) PathName() (name string, ok bool) {
	if len(k) > 2 && k[0] == '{' && k[len(k)-1] == '}' {
		return string(k[1 : len(k)-1]), true
	}
	return "", false
}

// Identity is who a token belongs to.
type Identity struct {
	UserID    string
	DeviceID  string // "" when the token has no device
	TokenID   int64
	Admin     bool
	Guest     bool
	Suspended bool // may read, not act; see MayAct
	// Transactions tells those of the device from those of an earlier one with the same id; "" where there was none.
	Transactions string
	Unlimited    bool // no rate limit applies, for example an application service that asked for it
}

// Authenticator finds whom a token belongs to. A token that is unknown, expired or locked is an error
// that is an [Answerer] (M_UNKNOWN_TOKEN and its sisters). The identity is shared: nobody changes it.
type Authenticator interface {
	Authenticate(ctx context.Context, token string) (*Identity, error)
}
