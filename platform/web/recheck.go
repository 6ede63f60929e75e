package web

import (
	"net/http"
	"time"
)

// recheckAfter is how long a request may take before its access is checked again: about as long as it takes to read a body that was
// sent together with the head. So a revoked token or a locked user stops waiting requests too.
const recheckAfter = 5 * time.Millisecond

// authenticateAfterBarrier runs the barrier, authenticates the request and sets its identity.
func (s *Server) authenticateAfterBarrier(r *Request) error {
	if s.barrier != nil {
		if err := s.barrier(r.Context()); err != nil && (r.Token() != "" || r.Context().Err() != nil) {
			// A token may have been revoked, and a right taken away, without this process knowing.
			return stale(err)
		}
	}
	err := s.authenticate(r)
	r.authenticatedAt = time.Now()
	return err
}

// RecheckAccess refuses a request whose access ended meanwhile, and sets its identity anew. Handlers that wait for others, or for a body
// that they read themselves, call it before they go on. The server itself checks again before it gives a handler a body that took long,
// before it answers a reading request that took long, and before it resumes a Park. A place that was lent is taken again.
func (r *Request) RecheckAccess() error {
	if err := r.writer.takePlaceAgain(); err != nil {
		return err
	}
	return r.recheckAccess()
}

func (r *Request) recheckAccess() error {
	if r.Identity == nil {
		return nil
	}
	return r.server.authenticateAfterBarrier(r)
}

// checkStillAllowed is RecheckAccess for concurrent parts of a handler: it leaves the identity as it is.
func (r *Request) checkStillAllowed() error {
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

// recheckIfOld checks the access again when the last check is older than recheckAfter.
func (r *Request) recheckIfOld() error {
	if r.Identity == nil || !r.hasWaited && time.Since(r.authenticatedAt) < recheckAfter {
		return nil
	}
	r.hasWaited = false
	return r.recheckAccess()
}

// recheckAtStart checks the access again when the request has its place: when the last check is old, or when the request may change
// something, because this process may have learned meanwhile that its token ended.
func (r *Request) recheckAtStart() error {
	let := r.authenticatedAt
	if err := r.recheckIfOld(); err != nil || r.authenticatedAt != let || r.writer.actingUser == "" {
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
