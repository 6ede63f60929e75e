package web

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Run serves clients on listener until ctx ends: HTTP/1.1 and HTTP/2, without TLS unless the listener
// brings it. At the end it says not ready, waits DrainDelay for load balancers to notice while it still
// serves and asks clients to come back over another connection, tells long polls to answer, closes the listener, takes
// what came over the connections that are there, and gives requests under way ShutdownTimeout to finish.
// It returns nil after an orderly end.
func (s *Server) Run(ctx context.Context, listener net.Listener) error {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: s.config.HeaderTimeout.D(),
		IdleTimeout:       s.config.IdleTimeout.D(),
		MaxHeaderBytes:    64 << 10,
		Protocols:         &protocols,
		ConnContext:       s.connections.open,
		ConnState:         s.connections.change,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	returning := newReturningListener(listener, s.config.IdleTimeout.D(), s.config.HeaderTimeout.D())
	defer close(returning.stopped)
	s.parked.setListener(returning)
	defer s.parked.setListener(nil)
	watching := make(chan struct{})
	defer close(watching)
	go s.watchClients(watching)
	var failed error
	served := make(chan struct{})
	go func() {
		failed = server.Serve(returning)
		close(served)
	}()
	s.tellReady(true)
	select {
	case <-served:
		s.tellReady(false)
		s.Drain()
		return fmt.Errorf("serve %s: %w", listener.Addr(), failed)
	case <-ctx.Done():
	}
	s.tellReady(false)
	s.leaving.Store(true)
	if s.config.DrainDelay > 0 {
		select {
		case <-time.After(s.config.DrainDelay.D()):
		case <-served:
		}
	}
	s.Drain()
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.config.ShutdownTimeout.D())
	defer cancel()
	err := s.connections.waitUntilHandled(stop, true) // while net/http still takes what they give back
	_ = returning.Close()                             // no connection comes any more; what is wrong with its file changes nothing
	<-served
	steps := []func() error{
		func() error { return s.connections.waitUntilHandled(stop, false) },
		func() error { return server.Shutdown(stop) },
		func() error { return s.waitIdle(stop) },                           // Shutdown does not know owned connections
		func() error { return s.connections.waitUntilHandled(stop, true) }, // of answers that began before all this
		func() error { return s.waitIdle(stop) },
	}
	for i := 0; err == nil && i < len(steps); i++ {
		err = steps[i]()
	}
	if errors.Is(err, context.DeadlineExceeded) {
		s.log.WarnContext(ctx, "requests were cut at the end", "under_way", s.inflight.Load(), "after", s.config.ShutdownTimeout.D())
		s.parked.cutAll()
		s.connections.cutOwned()
		return server.Close()
	}
	return err
}

func (s *Server) tellReady(ready bool) {
	if s.ready != nil {
		s.ready(ready)
	}
}

// waitIdle waits until no handler runs.
func (s *Server) waitIdle(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for s.inflight.Load() > 0 {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}
