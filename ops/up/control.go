package up

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"lyceum/fleet"
)

// request is what a command asks of a running lyceum up.
type request struct {
	Target  string `json:"target,omitempty"`  // a name, a role, a machine
	Count   int    `json:"count,omitempty"`   // of scale
	Program string `json:"program,omitempty"` // of restart
}

// Supervise answers lyceum ps, scale, restart, stop and rollout until ctx ends, on a socket that only the owner
// of the data directory can open; stop is called when somebody asks for the end.
func (u *Supervisor) Supervise(stop func()) (end func(), err error) {
	path := fleet.SupervisorSocket(u.Config.Server.Data)
	_ = os.Remove(path) // of one that was killed
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("commands such as lyceum ps need a socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = l.Close()
		return nil, err
	}
	mux := http.NewServeMux()
	handle := func(op string, fn func(ctx context.Context, r request) (any, error)) {
		mux.HandleFunc("POST /"+op, func(w http.ResponseWriter, req *http.Request) {
			var r request
			err := json.NewDecoder(http.MaxBytesReader(w, req.Body, 1<<16)).Decode(&r)
			var out any
			if err == nil {
				// Work that was begun is finished even when the one who asked goes away.
				out, err = fn(context.WithoutCancel(req.Context()), r)
			}
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			_ = json.NewEncoder(w).Encode(out) // who asked is gone if this fails
		})
	}
	change := make(chan struct{}, 1) // one change at a time
	exclusive := func(fn func(ctx context.Context, r request) (any, error)) func(ctx context.Context, r request) (any, error) {
		return func(ctx context.Context, r request) (any, error) {
			select {
			case change <- struct{}{}:
			default:
				return nil, errOtherChange
			}
			defer func() { <-change }()
			return fn(ctx, r)
		}
	}
	handle("ps", func(context.Context, request) (any, error) { return states(u.Children()), nil })
	handle("servers", func(context.Context, request) (any, error) { return u.Servers(), nil })
	handle("find", func(_ context.Context, r request) (any, error) {
		children, err := u.Find(r.Target)
		return states(children), err
	})
	handle("scale", exclusive(func(ctx context.Context, r request) (any, error) { return u.Scale(ctx, r.Target, r.Count) }))
	handle("restart", exclusive(func(ctx context.Context, r request) (any, error) {
		children, err := u.Find(r.Target)
		if err != nil {
			return nil, err
		}
		if err := u.Restart(ctx, children[0], r.Program); err != nil {
			return nil, err
		}
		return children[0].State(), nil
	}))
	handle("idle", exclusive(func(context.Context, request) (any, error) { return true, nil }))
	handle("program", func(_ context.Context, r request) (any, error) {
		u.mu.Lock()
		defer u.mu.Unlock()
		if r.Program != "" {
			u.Program = r.Program
		}
		return u.Program, nil
	})
	handle("stop", func(context.Context, request) (any, error) {
		stop()
		return "stopping", nil
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(l) }() // ends with Close
	return func() {
		_ = server.Close()
		_ = os.Remove(path)
	}, nil
}

func states(children []*Child) []ChildState {
	out := make([]ChildState, len(children))
	for i, c := range children {
		out[i] = c.State()
	}
	return out
}
