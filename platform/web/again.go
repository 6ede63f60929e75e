package web

import (
	"net/http"
	"time"
)

// askAgainAfter is how long a request may take before its access is checked again: about the time that a body needs that comes with its
// head. So a revoked token or a locked user stops waiting requests too.
const askAgainAfter = 5 * time.Millisecond

// letIn authenticates the request and sets its identity, after a barrier.
func (s *Server) letIn(r *Request) error {
	if s.barrier != nil {
		if err := s.barrier(r.Context()); err != nil && (r.Token() != "" || r.Context().Err() != nil) {
			// A token may have been revoked, and a right taken away, without this process knowing.
			return stale(err)
		}
	}
	err := s.authenticate(r)
	r.let = time.Now()
	return err
}

// AskAgain refuses a request that would not be let in any more, and sets its identity anew. Handlers that wait for others, or for a body
// that they read themselves, call it before they go on. The server itself checks again before it gives a handler a body that took long,
// before it answers a reading request that took long, and before it resumes a Park. A place that was lent is taken again.
func (r *Request) AskAgain() error {
	if err := r.writer.takePlaceAgain(); err != nil {
		return err
	}
	return r.askAgain()
}

func (r *Request) askAgain() error {
	if r.Identity == nil {
		return nil
	}
	return r.server.letIn(r)
}

// stillLetIn is AskAgain for concurrent parts of a handler: it leaves the identity as it is.
func (r *Request) stillLetIn() error {
	s, token := r.server, r.Token()
	if s.auth == nil || token == "" || r.Identity == nil {
		return nil
	}
	if s.barrier != nil {
		if err := s.barrier(r.Context()); err != nil {
			return stale(err)
		}
	}
	now, err := s.identify(r, token)
	if err == nil && now.Suspended && !r.Identity.Suspended {
		err = errSuspended()
	}
	return err
}

// askLate checks the access again when the last check is older than askAgainAfter.
func (r *Request) askLate() error {
	if r.Identity == nil || !r.waited && time.Since(r.let) < askAgainAfter {
		return nil
	}
	r.waited = false
	return r.askAgain()
}

// askAtWork checks the access again when the request has its place: when the last check is old, or when the request may change something,
// because this process may have learned meanwhile that its token ended.
func (r *Request) askAtWork() error {
	let := r.let
	if err := r.askLate(); err != nil || r.let != let || r.writer.actor == "" {
		return err
	}
	return r.server.authenticate(r)
}

// reads reports whether the request changes nothing, so that its answer can be withheld. A request that changed something is answered, even
// when it ended its own token.
func (r *Request) reads() bool { return r.Method == http.MethodGet || r.Method == http.MethodHead }

// MayAct refuses a suspended user with 403 M_USER_SUSPENDED. Handlers call it before actions that others see. Suspended users may read,
// leave, redact their own events, report, manage their keys and log out (Client-Server API, "Account suspension").
func (r *Request) MayAct() error {
	if r.Identity != nil && r.Identity.Suspended {
		return errSuspended()
	}
	return nil
}

func errSuspended() error {
	return &Error{
		Status:  http.StatusForbidden,
		Code:    "M_USER_SUSPENDED",
		Message: "Your account is suspended: you can read and leave rooms only",
	}
}
