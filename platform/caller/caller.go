package caller

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// ID is a caller, without a string that has to be made.
type ID struct {
	User    string
	Network netip.Prefix // where there is no user
	For     string       // what the work is for, where there is no user: a network may be that of many
}

// Work is the context of work for a caller, and of all that is made from it.
type Work struct {
	context.Context
	Holds atomic.Int32 // what it holds now that others wait for: connections to the database, places for large answers
	Left  func() bool  // whether the caller is gone, where its work goes on all the same; nil: else
	Began time.Time    // when the caller was let in, or before
	Again func() error // why the caller is not let in any more; nil: it is not asked

	mu sync.Mutex
	id ID
}

// NewWork is work inside ctx.
func NewWork(ctx context.Context, id ID) *Work { return &Work{Context: ctx, id: id} }

// Gone tells that the caller is gone, and what has not begun yet need not be done. A nil Work has nobody who could be.
func (w *Work) Gone() bool { return w != nil && w.Left != nil && w.Left() }

// Ask asks whether the caller is still let in, after a time in which that may have changed.
func (w *Work) Ask() error {
	if w == nil || w.Again == nil {
		return nil
	}
	return w.Again()
}

// Stays is a context of the same caller's work that is done whether the caller stays or not.
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

// Nobody is a context of which Of is nil: of work that many wait for, whoever was the first to ask.
func Nobody(ctx context.Context) context.Context {
	return context.WithValue(ctx, workKey{}, (*Work)(nil))
}

// Of is the work that a context belongs to; nil when there is no caller.
func Of(ctx context.Context) *Work {
	w, _ := ctx.Value(workKey{}).(*Work)
	return w
}

// ID is the caller, as far as he is known.
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
