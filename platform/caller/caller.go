package caller

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// ID identifies a caller. It is comparable and costs no allocation.
type ID struct {
	User    string
	Network netip.Prefix // of the client, when there is no user
	For     string       // what the work is for, when there is no user: many people may share a network
}

// Work is the context of work for a caller; contexts derived from it belong to the same Work.
type Work struct {
	context.Context
	HeldResources atomic.Int32 // how many resources it holds that others wait for: connections to the database, places for large answers
	Left          func() bool  // whether the caller is gone although the work goes on; nil: not known
	Began         time.Time    // when the caller's access was last checked, or earlier
	StillAllowed  func() error // returns why the caller's access has ended, nil while it has not; nil function: no check

	mu sync.Mutex
	id ID
}

// NewWork is work inside ctx.
func NewWork(ctx context.Context, id ID) *Work { return &Work{Context: ctx, id: id} }

// Gone reports whether the caller is gone, so that work that has not begun can be left out. It is false for a nil Work.
func (w *Work) Gone() bool { return w != nil && w.Left != nil && w.Left() }

// CheckAccess returns why the caller's access has ended, nil while it has not. Work calls it after a wait in which that may have changed.
func (w *Work) CheckAccess() error {
	if w == nil || w.StillAllowed == nil {
		return nil
	}
	return w.StillAllowed()
}

// Stays returns a context for work that is done for the same caller even when the caller leaves.
func Stays(ctx context.Context) context.Context {
	ctx = context.WithoutCancel(ctx)
	if w := Of(ctx); w != nil {
		return NewWork(ctx, w.ID())
	}
	return ctx
}

// workKey is the name under which a context knows its Work.
type workKey struct{}

// Value is part of context.Context.
func (w *Work) Value(key any) any {
	if key == (workKey{}) {
		return w
	}
	return w.Context.Value(key)
}

// Nobody returns a context without a caller, for work that several callers wait for.
func Nobody(ctx context.Context) context.Context {
	return context.WithValue(ctx, workKey{}, (*Work)(nil))
}

// Of returns the Work of a context; nil when there is no caller.
func Of(ctx context.Context) *Work {
	w, _ := ctx.Value(workKey{}).(*Work)
	return w
}

// ID returns the caller, as far as it is known.
func (w *Work) ID() ID {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.id
}

// SetID says who the caller is, when that is found out later.
func (w *Work) SetID(id ID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.id = id
}
