package web

import (
	"net/http"
	"time"
)

// askAgainAfter is how long a request may take without being asked again whether it is let in: about as long as a body needs
// that comes with its head. What ends a token, or locks a user, holds for what waits as well.
const askAgainAfter = 5 * time.Millisecond

// letIn sets the identity of the request as the route wants it and as it is now.
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

// AskAgain refuses a request that would not be let in any more, and sets its identity anew. Handlers that wait for others, or
// for a body that they read themselves, call it before they go on. The server itself asks again before it gives a request
// that took long its body, and before it answers one that reads; a Park's it asks as well. A place that was lent is taken again.
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

// stillLetIn is askAgain for parts of a handler, which may be several at once: the identity stays.
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

// askLate asks again when that is long ago.
func (r *Request) askLate() error {
	if r.Identity == nil || !r.waited && time.Since(r.let) < askAgainAfter {
		return nil
	}
	r.waited = false
	return r.askAgain()
}

// askAtWork asks again one that has its place now: when that is long ago, or when it may change something, as this process may have
// heard since that its token ended.
func (r *Request) askAtWork() error {
	let := r.let
	if err := r.askLate(); err != nil || r.let != let || r.writer.actor == "" {
		return err
	}
	return r.server.authenticate(r)
}

// reads tells that an answer that is not given leaves nothing done. Of what a request did it is told, also when that ended its
// own token.
func (r *Request) reads() bool { return r.Method == http.MethodGet || r.Method == http.MethodHead }

// MayAct refuses a suspended user with 403 M_USER_SUSPENDED. Handlers call it before they do what others see: the suspended
// read, leave, take back what they said, report, keep their keys and log out (Client-Server API, "Account suspension").
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
