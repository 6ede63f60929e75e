package web

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"lyceum/platform/caller"
)

// errLate is why the context of a request ended whose answer did not begin, or go on, in time.
var errLate = errors.New("the answer did not begin in time")

// startTimeLimit bounds the work on a request: its context ends after five sixths of a minute, or of the route's Timeout when that is
// shorter, so that the client gets an answer before a load balancer or another process gives up. The time starts again with each piece of
// the body that arrives and each piece of the answer that is sent, and stands still while the client is waited for. The time that a lost
// process spent on the request before is subtracted, but at least a tenth remains.
func (x *exchange) startTimeLimit() (end func()) {
	r := &x.request
	timeout := cmp.Or(r.Route.Timeout, DefaultTimeout)
	most := min(timeout, DefaultTimeout) * 5 / 6
	x.timeLimit = max(min(most, timeout*5/6-time.Since(x.start)), most/10)
	x.clientContext = r.Context()
	ctx, end := x.withTimeLimit(x.clientContext)
	r.Request = r.WithContext(ctx)
	return end
}

// withTimeLimit returns a context that ends when the time is over. It carries the caller, unless that is another process.
func (x *exchange) withTimeLimit(clientContext context.Context) (limited context.Context, end func()) {
	ctx, stopFollowingClient := clientContext, func() bool { return true }
	acts := x.endpoint.route.Auth != Fleet && !x.request.reads()
	if acts {
		ctx = context.WithoutCancel(ctx)
	}
	if x.endpoint.route.Auth != Fleet {
		id := x.request.callerID()
		if id.User == "" {
			id.For = x.endpoint.route.Pattern
		}
		x.work = caller.NewWork(ctx, id)
		if acts {
			x.work.Left, x.work.Began, x.work.StillAllowed = x.clientLeftNow, x.start, x.request.checkStillAllowed
		}
		ctx = x.work
	}
	ctx, cancel := context.WithCancelCause(ctx)
	if acts {
		stopFollowingClient = context.AfterFunc(clientContext, func() {
			// A client that leaves does not cancel work that may change something: the change could happen all the same, at an unknown time
			// (UnderWay).
			if q := x.place.Load(); q == nil || q == &lentPlace || x.actingUser == "" {
				cancel(context.Cause(clientContext))
			}
		})
	}
	clock := time.AfterFunc(x.timeLimit, func() {
		x.expired.Store(true)
		cancel(errLate)
	})
	x.clock = clock
	return ctx, func() {
		stopFollowingClient()
		clock.Stop()
		cancel(nil)
	}
}

// stopClock stops the handler's time, for example while the client is waited for.
func (x *exchange) stopClock() {
	if x.clock != nil {
		x.clock.Stop()
	}
}

// startClock gives the handler its whole time again, plus more.
func (x *exchange) startClock(more time.Duration) {
	if x.clock != nil {
		x.clock.Reset(x.timeLimit + more)
	}
}

// Waits announces that the handler will wait for d, for a reason outside the server such as another client. Afterwards a fifth of its time
// is left. Its place is lent, as by LendPlace; a handler that waits on after RecheckAccess calls Waits again. Handlers that wait for news
// return a Park instead.
func (r *Request) Waits(d time.Duration) {
	if !r.hasWaited {
		r.hasWaited = true
		r.writer.startClock(max(0, d-r.writer.timeLimit*4/5))
	}
	r.writer.lendPlace()
}

// contextOfClient is the context that ends when the client goes away.
func (x *exchange) contextOfClient() context.Context {
	if x.clientContext != nil {
		return x.clientContext
	}
	return x.request.Context()
}

// clientLeft reports whether the client is gone. net/http does not notice that while a body is unread, and not for a parked request that
// goes on; for these the connection is checked when the time is over.
func (x *exchange) clientLeft() bool {
	return x.contextOfClient().Err() != nil || x.abandoned || x.expired.Load() && x.connectionClosed()
}

// clientLeftNow is clientLeft, but checks the connection at once.
func (x *exchange) clientLeftNow() bool {
	return x.contextOfClient().Err() != nil || x.connectionClosed()
}

// connectionClosed reports whether the client closed the connection.
func (x *exchange) connectionClosed() bool {
	if w, owned := x.ResponseWriter.(*ownedWriter); owned {
		return isGone(w.conn.conn)
	}
	l := connectionOf(x.request.Context())
	return l != nil && isGone(unwrap(l.conn))
}

// refuseIfClientLeft refuses a request that may change something and has not begun when its client has left. The client may have sent the
// request again or done something else since, and this request must not take effect after that.
func (x *exchange) refuseIfClientLeft() error {
	if x.request.reads() || !x.clientLeftNow() {
		return nil
	}
	x.abandoned = true
	return errClientLeft
}

// errClientLeft is the error of a request that was not begun because its client left.
var errClientLeft = fmt.Errorf("the client left before its request was at work: %w", context.Canceled)

// Late is the answer to a request that could not be answered in time (504).
func Late(after time.Duration, cause error) *Error {
	return &Error{
		Status: http.StatusGatewayTimeout, Code: "M_UNKNOWN", Cause: cause,
		Message: fmt.Sprintf("The answer did not begin within %s; the request may or may not have been done", after.Round(10*time.Millisecond)),
	}
}

// refusal is the answer to err. When the time is over, an error of unknown cause counts as a lack of time. A reading request can always be
// repeated.
func (x *exchange) refusal(err error) Answerer {
	answer := AnswerOf(err)
	if x.expired.Load() && answer.HTTPStatus() == http.StatusInternalServerError {
		answer = Late(x.timeLimit, err)
	}
	method := x.request.Method
	if e, ok := answer.(*Error); ok && (method == http.MethodGet || method == http.MethodHead) &&
		//nolint:errorlint // AnswerOf has unwrapped it
		(e.Status == http.StatusServiceUnavailable || e.Status == http.StatusGatewayTimeout) &&
		e.RetryAfter == 0 {
		again := *e
		again.RetryAfter = time.Second
		return &again
	}
	return answer
}
