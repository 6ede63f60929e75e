package router

import (
	"context"
	"net/http"
	"sync"
	"time"
)

const (
	probeEvery   = 500 * time.Millisecond // how often a process that could not be reached is asked whether it is back
	probeTimeout = 2 * time.Second
	outageTTL    = time.Minute // after so long without a request for it, an address is forgotten
)

// health knows the processes that could not be reached. Requests avoid them until they answer a probe. Probes are sent
// only while requests want the process, and never by a client's request, which would have to wait.
type health struct {
	transport http.RoundTripper

	mu       sync.Mutex
	down     map[string]*outage
	suspects map[string]bool // being probed, and not avoided yet
}

type outage struct {
	nextProbe time.Time // not before this time
	wantedAt  time.Time // last time that a request would have gone there
	probing   bool
}

// isDown reports whether requests avoid the process, and makes sure that it is probed again.
func (h *health) isDown(addr string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	o := h.down[addr]
	if o == nil {
		return false
	}
	now := time.Now()
	o.wantedAt = now
	if !o.probing && now.After(o.nextProbe) {
		o.probing = true
		go h.probe(addr)
	}
	return true
}

// markDown records that the process could not be reached.
func (h *health) markDown(addr string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	for old, o := range h.down {
		if !o.probing && now.Sub(o.wantedAt) > outageTTL {
			delete(h.down, old)
		}
	}
	if h.down[addr] == nil {
		h.down[addr] = &outage{nextProbe: now.Add(probeEvery), wantedAt: now}
	}
}

// probeSuspect probes a process that broke a connection or lost a key; if it does not answer, requests avoid it.
func (h *health) probeSuspect(addr string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.down[addr] == nil && !h.suspects[addr] {
		h.suspects[addr] = true
		go h.probe(addr)
	}
}

// probe asks a process once. Any answer will do: the fleet knows whether the process takes requests of clients.
func (h *health) probe(addr string) {
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	alive := false
	if request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+addr+"/health", nil); err == nil {
		if response, err := h.transport.RoundTrip(request); err == nil {
			_ = response.Body.Close()
			alive = true
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.suspects, addr)
	if alive {
		delete(h.down, addr)
		return
	}
	now := time.Now()
	o := h.down[addr]
	if o == nil {
		o = &outage{wantedAt: now}
		h.down[addr] = o
	}
	o.probing, o.nextProbe = false, now.Add(probeEvery)
}
