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

// limit gives the work on a request an end: its context ends after five sixths of a minute, or of the route's Timeout where
// that is shorter, so that the client is told before a load balancer or another process gives up. The time begins anew with
// each piece of the body that came and of the answer that was taken; it does not pass while the client is waited for. What
// another process took that was lost counts, down to a tenth of the time.
func (x *exchange) limit() (end func()) {
	r := &x.request
	timeout := cmp.Or(r.Route.Timeout, DefaultTimeout)
	most := min(timeout, DefaultTimeout) * 5 / 6
	x.within = max(min(most, timeout*5/6-time.Since(x.start)), most/10)
	x.came = r.Context()
	ctx, end := x.limited(x.came)
	r.Request = r.WithContext(ctx)
	return end
}

// limited is a context that ends when the time is over, and says on whose behalf it is, unless that is another process.
func (x *exchange) limited(came context.Context) (limited context.Context, end func()) {
	ctx, left := came, func() bool { return true }
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
			x.work.Left, x.work.Began, x.work.Again = x.isGone, x.start, x.request.stillLetIn
		}
		ctx = x.work
	}
	ctx, cancel := context.WithCancelCause(ctx)
	if acts {
		left = context.AfterFunc(came, func() {
			// A client who goes away ends nothing that is at work and may change something: it would be done all the same, and
			// nobody would know when (UnderWay).
			if q := x.place.Load(); q == nil || q == &lent || x.actor == "" {
				cancel(context.Cause(came))
			}
		})
	}
	clock := time.AfterFunc(x.within, func() {
		x.expired.Store(true)
		cancel(errLate)
	})
	x.clock = clock
	return ctx, func() {
		left()
		clock.Stop()
		cancel(nil)
	}
}

// stopClock begins a time that is not the handler's.
func (x *exchange) stopClock() {
	if x.clock != nil {
		x.clock.Stop()
	}
}

// startClock gives the handler its whole time, and more.
func (x *exchange) startClock(more time.Duration) {
	if x.clock != nil {
		x.clock.Reset(x.within + more)
	}
}

// Waits says that the handler is about to wait for so long, for something that is no fault of the server's, such as another
// client: it has a fifth of its time for what comes after. Its place is lent, as by LendPlace; one that waits on after AskAgain
// says so again. Handlers that wait for news return a Park instead.
func (r *Request) Waits(d time.Duration) {
	if !r.waited {
		r.waited = true
		r.writer.startClock(max(0, d-r.writer.within*4/5))
	}
	r.writer.lendPlace()
}

// client is the context that ends when the client goes away.
func (x *exchange) client() context.Context {
	if x.came != nil {
		return x.came
	}
	return x.request.Context()
}

// left tells that nobody waits for the answer. net/http does not look while a body is unread, nor anybody at a request that was set
// aside and goes on: the connection tells, when the time is over.
func (x *exchange) left() bool {
	return x.client().Err() != nil || x.gone || x.expired.Load() && x.hungUp()
}

// isGone is left without waiting for the end of the time.
func (x *exchange) isGone() bool { return x.client().Err() != nil || x.hungUp() }

// hungUp looks at the connection.
func (x *exchange) hungUp() bool {
	if w, held := x.ResponseWriter.(*asideWriter); held {
		return isGone(w.held.conn)
	}
	l := lineOf(x.request.Context())
	return l != nil && isGone(unwrap(l.conn))
}

// wanted refuses what may change something and has not begun when its client has left: the client may have done something else since,
// such as what it asked for once more, and what this request says would be done after it.
func (x *exchange) wanted() error {
	if x.request.reads() || !x.isGone() {
		return nil
	}
	x.gone = true
	return errGone
}

// errGone is why nothing was done for a client.
var errGone = fmt.Errorf("the client left before its request was at work: %w", context.Canceled)

// Late is the answer to a request that had none after so long.
func Late(after time.Duration, cause error) *Error {
	return &Error{
		Status: http.StatusGatewayTimeout, Code: "M_UNKNOWN", Cause: cause,
		Message: fmt.Sprintf("The answer did not begin within %s; the request may or may not have been done", after.Round(10*time.Millisecond)),
	}
}

// refusal is the answer to err. What is only known to have failed failed for want of time when that is over. A request that
// reads can always be repeated.
func (x *exchange) refusal(err error) Answerer {
	answer := AnswerOf(err)
	if x.expired.Load() && answer.HTTPStatus() == http.StatusInternalServerError {
		answer = Late(x.within, err)
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
