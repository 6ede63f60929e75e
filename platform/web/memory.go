package web

import (
	"errors"
	"net/http"
	"sync"
	"time"
)

// shortDeadline is the time for paceBytes while more than half of MaxInFlight is charged: slower clients are cut then.
const shortDeadline = 2 * time.Second

// Retry-After for a client whose requests hold its whole share of memory, and for one that found all memory held by others.
const (
	retryShare = 5 * time.Second
	retryFull  = 2 * time.Second
)

// errCut ends an answer whose memory is needed for other callers.
var errCut = errors.New("the answer was cut: its memory is needed for others, and its reader holds the most")

// memoryBudget counts, by caller, the bytes of large answers that clients have not read yet and of large bodies that are still arriving. So
// clients that stop reading or sending hold a bounded part of the memory. The rules are in decide.
type memoryBudget struct {
	max         int64
	mu          sync.Mutex
	total       int64
	charged     map[string]int64
	requests    map[*exchange]struct{}
	shortenedAt time.Time

	// Bytes that handlers made while they work; their requests can not be cut for it.
	made   int64
	madeBy map[string]int64
}

func newMemoryBudget(max int64) *memoryBudget {
	return &memoryBudget{max: max, charged: map[string]int64{}, requests: map[*exchange]struct{}{}, madeBy: map[string]int64{}}
}

// verdict says what becomes of a request for memory.
type verdict int

const (
	fits      verdict = iota
	overShare         // the caller holds too much
	full              // all callers together do
	cutOther          // another caller's request is cut
)

// decide says whether a request of the caller who, which holds some bytes, may hold n more, and which caller is cut for it (cutCaller).
// mu is held.
//
// A caller whose other requests hold nothing gets one answer of any size. Each further one must stay within an eighth of all memory, and
// leave a quarter of it to callers that hold nothing. When that quarter is used up too, the caller that holds the most is cut for one that
// will hold less.
func (f *memoryBudget) decide(who string, holds, n int64) (v verdict, cutCaller string) {
	if f.charged[who] > holds {
		switch {
		case f.charged[who]+n > f.max/8:
			return overShare, ""
		case f.used()+n > f.max/4*3:
			return full, ""
		}
		return fits, ""
	}
	if f.used()+n <= f.max {
		return fits, ""
	}
	most := holds + n
	for other, has := range f.charged {
		if other != who && has > most {
			most, cutCaller = has, other
		}
	}
	if cutCaller == "" {
		return full, ""
	}
	return cutOther, cutCaller
}

// used is the number of bytes held.
func (f *memoryBudget) used() int64 { return f.total + f.made }

// decideMade says whether a request of the caller who, whose handler made some bytes from its body and from what it read, may make n more.
// All requests together may make half of the memory. A caller with other such requests gets a sixteenth of it, while an eighth is left for
// other callers. The only request may make any size. mu is held.
func (f *memoryBudget) decideMade(who string, made, n int64) verdict {
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
	x, f := r.writer, r.server.memory
	f.mu.Lock()
	defer f.mu.Unlock()
	if x.madeBytes == 0 {
		x.madeFor = r.caller()
	}
	switch f.decideMade(x.madeFor, x.madeBytes, int64(n)) {
	case overShare:
		return errShare()
	case full:
		return errFull()
	}
	x.madeBytes += int64(n)
	f.addMade(x.madeFor, int64(n))
	return nil
}

// addMade changes the count of what a caller's requests have made. mu is held.
func (f *memoryBudget) addMade(who string, n int64) {
	f.made += n
	if f.madeBy[who] += n; f.madeBy[who] <= 0 {
		delete(f.madeBy, who)
	}
}

// charge charges the caller n bytes more until the request ends. Its error says why there is no room.
func (x *exchange) charge(n int64) error {
	f := x.request.server.memory
	f.mu.Lock()
	defer f.mu.Unlock()
	if x.cut.Swap(false) { // it was cut, and is not counted any more
		x.charged, x.chargedForAnswer = 0, 0
		return errFull()
	}
	if x.charged == 0 {
		x.chargedTo = x.request.caller()
	}
	v, cutCaller := f.decide(x.chargedTo, x.charged, n)
	if v != fits || f.used() > f.max/2 {
		f.shortenDeadlines(time.Now())
	}
	switch v {
	case overShare:
		return errShare()
	case full:
		return errFull()
	case cutOther:
		for f.used()+n > f.max && f.charged[cutCaller] > 0 {
			f.cutSlowest(cutCaller)
		}
	}
	x.charged += n
	f.addCharged(x, n)
	f.requests[x] = struct{}{}
	return nil
}

// chargeAnswer charges the caller for an answer of n bytes, in place of what it was charged for the answer before.
func (x *exchange) chargeAnswer(n int64) error {
	if n > x.chargedForAnswer || x.cut.Load() {
		if err := x.charge(n - x.chargedForAnswer); err != nil {
			return err
		}
	} else if f := x.request.server.memory; n < x.chargedForAnswer {
		f.mu.Lock()
		if _, holds := f.requests[x]; holds {
			f.addCharged(x, n-x.chargedForAnswer)
			x.charged -= x.chargedForAnswer - n
		}
		f.mu.Unlock()
	}
	x.chargedForAnswer = n
	return nil
}

// ChargeAnswer charges the caller for an unfinished answer that has n bytes in memory so far. Handlers that make large answers call it
// while they make them, also in Resume of a Park; when ChargeAnswer fails they return its error. An answer that Pack will compress is
// charged only afterwards.
func (r *Request) ChargeAnswer(n int) error {
	if r.packs(n) {
		return nil
	}
	return r.writer.chargeAnswer(max(int64(n), r.writer.chargedForAnswer))
}

// releaseMemory gives back what the request was charged. Afterwards its deadlines are not shortened any more.
func (x *exchange) releaseMemory() {
	if x.charged == 0 && x.madeBytes == 0 {
		return
	}
	f := x.request.server.memory
	f.mu.Lock()
	defer f.mu.Unlock()
	if x.madeBytes > 0 {
		f.addMade(x.madeFor, -x.madeBytes)
		x.madeBytes = 0
	}
	if _, holds := f.requests[x]; holds {
		f.forget(x)
	}
	x.charged, x.chargedForAnswer = 0, 0
	x.cut.Store(false)
}

// addCharged changes the bytes that a request's caller holds. mu is held.
func (f *memoryBudget) addCharged(x *exchange, n int64) {
	f.total += n
	if f.charged[x.chargedTo] += n; f.charged[x.chargedTo] <= 0 {
		delete(f.charged, x.chargedTo)
	}
}

// forget forgets a request. The caller holds mu.
func (f *memoryBudget) forget(x *exchange) {
	f.addCharged(x, -x.charged)
	delete(f.requests, x)
}

// cutSlowest ends that request of a caller whose client has been silent the longest. Its memory counts as free at once, because its
// goroutine wakes up immediately. mu is held.
func (f *memoryBudget) cutSlowest(who string) {
	var slowest *exchange
	for x := range f.requests {
		if x.chargedTo == who && (slowest == nil || x.silentSince() < slowest.silentSince()) {
			slowest = x
		}
	}
	f.forget(slowest) // never nil: a caller that holds bytes has a request that holds them
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
func (f *memoryBudget) isScarce() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.used() > f.max/2
}

// shortenDeadlines shortens the deadlines of requests that hold memory and make no progress. mu is held.
func (f *memoryBudget) shortenDeadlines(now time.Time) {
	if now.Sub(f.shortenedAt) < shortDeadline/4 {
		return
	}
	f.shortenedAt = now
	for x := range f.requests {
		control := http.NewResponseController(x.ResponseWriter)
		if at := x.writing.Load(); at > 0 {
			_ = control.SetWriteDeadline(time.Unix(0, at).Add(shortDeadline))
		} else if at := x.reading.Load(); at > 0 {
			_ = control.SetReadDeadline(time.Unix(0, at).Add(shortDeadline))
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
