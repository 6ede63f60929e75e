package router

import (
	"net/http"
	"sync"
	"time"
)

// watch checks the hops that wait for an answer, with one goroutine for all while there are any.
type watch struct {
	mu      sync.Mutex
	waiting map[*hop]struct{}
	running bool
	toCheck []*hop // of the goroutine
}

func (w *watch) add(h *hop) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waiting[h] = struct{}{}
	if !w.running {
		w.running = true
		go w.run()
	}
}

func (w *watch) remove(h *hop) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.waiting, h)
}

func (w *watch) run() {
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	for now := range tick.C {
		w.mu.Lock()
		if len(w.waiting) == 0 {
			w.running, w.toCheck = false, nil
			w.mu.Unlock()
			return
		}
		for h := range w.waiting {
			w.toCheck = append(w.toCheck, h)
		}
		w.mu.Unlock()
		for _, h := range w.toCheck {
			h.check(now)
		}
		clear(w.toCheck)
		w.toCheck = w.toCheck[:0]
	}
}

// check gives the hop up when waiting for its answer is no longer the best choice.
func (h *hop) check(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.state != waiting {
		return
	}
	switch {
	case now.After(h.deadline):
		h.giveUp(errLate)
		return
	case h.draining(now):
		h.giveUp(errDraining)
		return
	case !h.wrongOwner():
		h.wrongOwnerSince = time.Time{}
	case h.wrongOwnerSince.IsZero(): // a process that hands its keys over may be about to answer: one more check
		h.wrongOwnerSince = now
	case h.idempotent() && (h.body == nil || h.body.canRewind()):
		h.giveUp(errKeyMoved)
	case now.Sub(h.wrongOwnerSince) >= wrongOwnerLimit:
		h.giveUp(errWrongOwner)
	}
}

// draining reports whether this process stops and a GET that waits elsewhere has had its grace period.
func (h *hop) draining(now time.Time) bool {
	if method := h.request.Method; method != http.MethodGet && method != http.MethodHead {
		return false
	}
	select {
	case <-h.request.Draining():
	default:
		return false
	}
	if h.drainingSince.IsZero() {
		h.drainingSince = now
	}
	return now.Sub(h.drainingSince) >= drainGrace
}

// giveUp ends the hop; the caller holds its lock.
func (h *hop) giveUp(cause error) {
	h.state = givenUp
	h.cancel(cause)
}
