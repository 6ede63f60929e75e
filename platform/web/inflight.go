package web

import (
	"errors"
	"net/http"
	"sync"
	"time"
)

// hurry is the time for paceBytes while more than half of MaxInFlight is held: slower clients are cut then.
const hurry = 2 * time.Second

// Retry-After for a client whose requests hold its whole share of memory, and for one that found all memory held by others.
const (
	retryShare = 5 * time.Second
	retryFull  = 2 * time.Second
)

// errCut ends an answer whose memory is needed for other callers.
var errCut = errors.New("the answer was cut: its memory is needed for others, and its reader holds the most")

// inFlight counts, by caller, the bytes of large answers that clients have not read yet and of large bodies that are still arriving. So
// clients that stop reading or sending hold a bounded part of the memory. The rules are in ask.
type inFlight struct {
	max     int64
	mu      sync.Mutex
	total   int64
	by      map[string]int64
	holders map[*exchange]struct{}
	rushed  time.Time

	// Bytes that handlers made while they work; their requests can not be cut for it.
	made   int64
	madeBy map[string]int64
}

func newInFlight(max int64) *inFlight {
	return &inFlight{max: max, by: map[string]int64{}, holders: map[*exchange]struct{}{}, madeBy: map[string]int64{}}
}

// verdict says what becomes of a request for memory.
type verdict int

const (
	fits      verdict = iota
	overShare         // the caller holds too much
	full              // all callers together do
	another           // another caller gives way
)

// ask decides whether a request of the caller who, which holds some bytes, may hold n more, and which caller (giver) is cut for it. mu is
// held.
//
// A caller whose other requests hold nothing gets one answer of any size. Each further one must stay within an eighth of all memory, and
// leave a quarter of it to callers that hold nothing. When that quarter is used up too, the caller that holds the most is cut for one that
// will hold less.
func (f *inFlight) ask(who string, holds, n int64) (v verdict, giver string) {
	if f.by[who] > holds {
		switch {
		case f.by[who]+n > f.max/8:
			return overShare, ""
		case f.all()+n > f.max/4*3:
			return full, ""
		}
		return fits, ""
	}
	if f.all()+n <= f.max {
		return fits, ""
	}
	most := holds + n
	for other, has := range f.by {
		if other != who && has > most {
			most, giver = has, other
		}
	}
	if giver == "" {
		return full, ""
	}
	return another, giver
}

// all is the number of bytes held.
func (f *inFlight) all() int64 { return f.total + f.made }

// askMade decides whether a request of the caller who, whose handler made some bytes from its body and from what it read, may make n more.
// All requests together may make half of the memory. A caller with other such requests gets a sixteenth of it, while an eighth is left for
// other callers. The only request may make any size. mu is held.
func (f *inFlight) askMade(who string, made, n int64) verdict {
	others := f.madeBy[who] - made
	switch {
	case f.made == made:
		return fits
	case others > 0 && others+made+n > f.max/16:
		return overShare
	case others > 0 && f.made+n > f.max/8*3, f.made+n > f.max/2:
		return full
	}
	return fits
}

// Charge charges the caller for n more bytes that the handler made of the body and of what it read, until the request ends. Handlers
// that make much of a small request say so before they make more; when Charge fails they end with its error.
func (r *Request) Charge(n int) error {
	x, f := r.writer, r.server.held
	f.mu.Lock()
	defer f.mu.Unlock()
	if x.made == 0 {
		x.maker = r.caller()
	}
	switch f.askMade(x.maker, x.made, int64(n)) {
	case overShare:
		return errShare()
	case full:
		return errFull()
	}
	x.made += int64(n)
	f.addMade(x.maker, int64(n))
	return nil
}

// addMade changes the count of what a caller's requests have made. mu is held.
func (f *inFlight) addMade(who string, n int64) {
	f.made += n
	if f.madeBy[who] += n; f.madeBy[who] <= 0 {
		delete(f.madeBy, who)
	}
}

// keep charges the caller n bytes more until the request ends, or says why there is no room.
func (x *exchange) keep(n int64) error {
	f := x.request.server.held
	f.mu.Lock()
	defer f.mu.Unlock()
	if x.cut.Swap(false) { // it was cut, and is not counted any more
		x.held, x.answers = 0, 0
		return errFull()
	}
	if x.held == 0 {
		x.payer = x.request.caller()
	}
	v, giver := f.ask(x.payer, x.held, n)
	if v != fits || f.all() > f.max/2 {
		f.rush(time.Now())
	}
	switch v {
	case overShare:
		return errShare()
	case full:
		return errFull()
	case another:
		for f.all()+n > f.max && f.by[giver] > 0 {
			f.cut(giver)
		}
	}
	x.held += n
	f.add(x, n)
	f.holders[x] = struct{}{}
	return nil
}

// hold charges the caller for an answer of n bytes, instead of what it was charged for it before.
func (x *exchange) hold(n int64) error {
	if n > x.answers || x.cut.Load() {
		if err := x.keep(n - x.answers); err != nil {
			return err
		}
	} else if f := x.request.server.held; n < x.answers {
		f.mu.Lock()
		if _, holds := f.holders[x]; holds {
			f.add(x, n-x.answers)
			x.held -= x.answers - n
		}
		f.mu.Unlock()
	}
	x.answers = n
	return nil
}

// Hold charges the caller for an unfinished answer that has n bytes in memory so far. Handlers that make large answers call it while they
// make them, also in Resume of a Park; when Hold fails they return its error. An answer that Pack will compress is charged only afterwards.
func (r *Request) Hold(n int) error {
	if r.packs(n) {
		return nil
	}
	return r.writer.hold(max(int64(n), r.writer.answers))
}

// letGo gives back what the request was charged. Afterwards its deadlines are not shortened any more.
func (x *exchange) letGo() {
	if x.held == 0 && x.made == 0 {
		return
	}
	f := x.request.server.held
	f.mu.Lock()
	defer f.mu.Unlock()
	if x.made > 0 {
		f.addMade(x.maker, -x.made)
		x.made = 0
	}
	if _, holds := f.holders[x]; holds {
		f.drop(x)
	}
	x.held, x.answers = 0, 0
	x.cut.Store(false)
}

// add changes the bytes that a request's caller holds. mu is held.
func (f *inFlight) add(x *exchange, n int64) {
	f.total += n
	if f.by[x.payer] += n; f.by[x.payer] <= 0 {
		delete(f.by, x.payer)
	}
}

// drop forgets a request. The caller holds mu.
func (f *inFlight) drop(x *exchange) {
	f.add(x, -x.held)
	delete(f.holders, x)
}

// cut ends that request of a caller whose client has been silent the longest. Its memory counts as free at once, because its goroutine
// wakes up immediately. mu is held.
func (f *inFlight) cut(who string) {
	var slowest *exchange
	for x := range f.holders {
		if x.payer == who && (slowest == nil || x.silentSince() < slowest.silentSince()) {
			slowest = x
		}
	}
	f.drop(slowest) // never nil: a caller that holds bytes has a request that holds them
	slowest.cut.Store(true)
	past := time.Unix(1, 0)
	control := http.NewResponseController(slowest.ResponseWriter)
	_ = control.SetWriteDeadline(past)
	if slowest.reading.Load() > 0 {
		_ = control.SetReadDeadline(past)
	}
}

// silentSince is when the current piece of the body or answer began, in Unix nanoseconds; the largest number when the client is not waited
// for.
func (x *exchange) silentSince() int64 {
	if at := max(x.writing.Load(), x.reading.Load()); at > 0 {
		return at
	}
	return 1<<63 - 1
}

// isScarce reports whether more than half of the memory is held.
func (f *inFlight) isScarce() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.all() > f.max/2
}

// rush shortens the deadlines of requests that hold memory and make no progress. mu is held.
func (f *inFlight) rush(now time.Time) {
	if now.Sub(f.rushed) < hurry/4 {
		return
	}
	f.rushed = now
	for x := range f.holders {
		control := http.NewResponseController(x.ResponseWriter)
		if at := x.writing.Load(); at > 0 {
			_ = control.SetWriteDeadline(time.Unix(0, at).Add(hurry))
		} else if at := x.reading.Load(); at > 0 {
			_ = control.SetReadDeadline(time.Unix(0, at).Add(hurry))
		}
	}
}

// errShare is the answer to a caller that holds its whole share.
func errShare() *Error {
	e := limitExceeded(retryShare)
	e.Message = "Your requests under way hold too much memory: let them end before the next"
	return e
}

// errFull is the answer when all memory is held.
func errFull() *Error {
	return &Error{
		Status: http.StatusServiceUnavailable, Code: "M_UNKNOWN", RetryAfter: retryFull,
		Message: "The server has as many large answers and bodies under way as it has memory for: try again soon",
	}
}

// caller names who is charged: the user, or the client's address where there is none.
func (r *Request) caller() string {
	if id := r.UserID(); id != "" {
		return id
	}
	return AddressKey(r.RemoteIP())
}
