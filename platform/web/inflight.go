package web

import (
	"errors"
	"net/http"
	"sync"
	"time"
)

// hurry is the time for paceBytes while more than half of MaxInFlight is held: then those who read slowly are cut.
const hurry = 2 * time.Second

// When a client may come again whose requests hold its whole share of memory, and one that found all of it held by others.
const (
	retryShare = 5 * time.Second
	retryFull  = 2 * time.Second
)

// errCut ends an answer whose memory others need.
var errCut = errors.New("the answer was cut: its memory is needed for others, and its reader holds the most")

// inFlight counts the bytes of large answers that were not taken yet, and of large bodies that did not come whole
// yet, by caller, so that readers that do not read, and writers that do not write, hold a bounded part of the memory.
// Who gets how much of it is in ask.
type inFlight struct {
	max     int64
	mu      sync.Mutex
	total   int64
	by      map[string]int64
	holders map[*exchange]struct{}
	rushed  time.Time

	// What handlers made of bodies and of what they read: nobody can be cut for it while they work.
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

// ask says whether a request of who that holds some bytes may hold n more, and who gives way for it. The caller holds mu.
//
// One that holds nothing by other requests gets one answer of any size. Each further one must stay within an eighth of all,
// and leave a quarter of all to those who hold nothing. When even that is used up, whoever holds the most gives way to one
// that will hold less.
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

// all is what is held.
func (f *inFlight) all() int64 { return f.total + f.made }

// askMade says whether a request of who that made some bytes of its body and of what it read may make n more: all requests
// together make half of the memory at most. A caller who makes something by other requests gets a sixteenth of it, as long as an eighth
// is left to others. One request alone may make anything. The caller holds mu.
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

// addMade changes what a caller's requests have made. The caller holds mu.
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
	if x.cut.Swap(false) { // it is no holder any more, and answers with this
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

// Hold says that the answer, of which a part is ready, has n bytes in memory. Handlers that make large answers say so while
// they make them, also in Resume of a Park; when Hold fails they end with its error. What Pack will make small is not charged
// before: it does not wait for the client.
func (r *Request) Hold(n int) error {
	if r.packs(n) {
		return nil
	}
	return r.writer.hold(max(int64(n), r.writer.answers))
}

// letGo gives back what the request was charged. Afterwards nobody sets deadlines for it.
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

// add changes what a request's caller holds. The caller holds mu.
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

// cut ends the request of a caller whose client has been silent for the longest. Its memory counts as free: its goroutine wakes
// up at once. The caller holds mu.
func (f *inFlight) cut(who string) {
	var slowest *exchange
	for x := range f.holders {
		if x.payer == who && (slowest == nil || x.silentSince() < slowest.silentSince()) {
			slowest = x
		}
	}
	f.drop(slowest) // there is one: who holds something has a request that does
	slowest.cut.Store(true)
	past := time.Unix(1, 0)
	control := http.NewResponseController(slowest.ResponseWriter)
	_ = control.SetWriteDeadline(past)
	if slowest.reading.Load() > 0 {
		_ = control.SetReadDeadline(past)
	}
}

// silentSince is when the piece began that the client sends or takes, in Unix nanoseconds; the end of time when it is not waited for.
func (x *exchange) silentSince() int64 {
	if at := max(x.writing.Load(), x.reading.Load()); at > 0 {
		return at
	}
	return 1<<63 - 1
}

// isScarce tells that more than half is held.
func (f *inFlight) isScarce() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.all() > f.max/2
}

// rush shortens the time of those who hold memory and stand still. The caller holds mu.
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

// errShare answers those who hold their share.
func errShare() *Error {
	e := limitExceeded(retryShare)
	e.Message = "Your requests under way hold too much memory: let them end before the next"
	return e
}

// errFull answers those who find all memory held.
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
