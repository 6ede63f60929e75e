package role

import (
	"context"
	"errors"
	"fmt"
	"time"

	"lyceum/platform/backoff"
	"lyceum/platform/caller"
	"lyceum/platform/lease"
	"lyceum/platform/rpc"
	"lyceum/platform/stream"
)

// maxOwnerWait is how long a call waits for a shard that moves.
const maxOwnerWait = 15 * time.Second

// maxDrainingWait is how long a call waits in a process that stops when no process is left that takes the shard.
const maxDrainingWait = 2 * time.Second

// ownerMayCome reports whether the shard may still get an owner: not when this process stops and the others have
// stopped.
func (p *Process) ownerMayCome(st *stream.Stream) bool {
	return !p.Leases.Self().Draining || len(p.membersOf(st.Role())) > 0
}

// keyed is a request to the owner of a key.
type keyed[Req any] struct {
	Key string `json:"key"`
	Req Req    `json:"req"`
}

// Owned makes fn, which must run on the owner of the key's shard, callable from any process: HandleOwned and CallOwner of one
// function.
func Owned[Req, Res any](
	p *Process, st *stream.Stream, name string, fn func(ctx context.Context, key string, req Req) (Res, error),
) func(ctx context.Context, key string, req Req) (Res, error) {
	HandleOwned(p, st, name, fn)
	return func(ctx context.Context, key string, req Req) (Res, error) {
		return CallOwner(ctx, p, OwnerCall{Stream: st, Name: name, Key: key}, req, fn)
	}
}

// HandleOwned makes fn answer the calls of a name that other processes make with CallOwner, for the shards that this process owns.
func HandleOwned[Req, Res any](
	p *Process, st *stream.Stream, name string, fn func(ctx context.Context, key string, req Req) (Res, error),
) {
	if p.RPC == nil {
		return
	}
	rpc.Handle(p.RPC, name, func(ctx context.Context, k keyed[Req]) (Res, error) {
		if !st.Owns(st.Shard(k.Key)) {
			var none Res
			return none, stream.ErrNotOwner
		}
		return fn(ctx, k.Key, k.Req)
	})
}

// OwnerCall says where a call of CallOwner goes.
type OwnerCall struct {
	Stream *stream.Stream
	Name   string // of the function, as HandleOwned knows it
	Key    string // the owner of its shard is called
}

// CallOwner runs fn on the owner of the key's shard: it is a plain call when this process is the owner, else one call over the
// network to the function that HandleOwned was given. While the shard moves, the call is repeated, also when the shard moves away
// from a process that hangs while it works on the call. So fn must give the same result when it runs twice: it is idempotent, or
// its request carries an id.
func CallOwner[Req, Res any](
	ctx context.Context, p *Process, call OwnerCall, req Req, fn func(ctx context.Context, key string, req Req) (Res, error),
) (Res, error) {
	return ownedFunc[Req, Res]{p, call.Stream, call.Name, fn}.call(ctx, call.Key, req)
}

// ownedFunc is a function that runs on the owner of a shard.
type ownedFunc[Req, Res any] struct {
	p    *Process
	st   *stream.Stream
	name string // of the rpc method
	fn   func(ctx context.Context, key string, req Req) (Res, error)
}

// call runs the function on the owner of a key, and repeats it while the shard moves.
func (o ownedFunc[Req, Res]) call(ctx context.Context, key string, req Req) (res Res, err error) {
	shard := o.st.Shard(key)
	began := time.Now()
	var unconfirmed error // the error of an earlier attempt that may have been done
	pause := backoff.Backoff{First: time.Millisecond, Max: 200 * time.Millisecond}
	for {
		changed := o.p.Leases.Changed()
		if unconfirmed == nil { // after an attempt that may have been done, only its outcome is awaited
			waited := err != nil
			if refused := o.p.recheckCaller(ctx, waited); refused != nil {
				return res, refused
			}
		}
		res, err = o.attempt(ctx, shard, key, req)
		if errors.Is(err, errMoved) || errors.Is(err, rpc.ErrBroken) {
			unconfirmed = err
		}
		// Busy means that this attempt did nothing; an earlier one that broke off may have done the work.
		busy := unconfirmed != nil && errors.Is(err, stream.ErrBusy)
		if err == nil || !isMoving(err) && !busy || ctx.Err() != nil || o.p.waitedTooLong(o.st, time.Since(began)) {
			if busy {
				err = unconfirmed
			}
			return res, clientError(err)
		}
		select {
		case <-ctx.Done():
			return res, err
		case <-changed:
			pause.Reset() // the new owner opens the shard soon
		case <-time.After(pause.Next()):
		}
		// A former owner does nothing more; a process whose connection broke may still work on the call.
		if !errors.Is(err, rpc.ErrBroken) && caller.Of(ctx).Gone() {
			return res, fmt.Errorf("%w: %w", errCallerGone, err)
		}
	}
}

// attempt runs the function once: here, or in the process that owns the shard now.
func (o ownedFunc[Req, Res]) attempt(ctx context.Context, shard int, key string, req Req) (res Res, err error) {
	if o.st.Owns(shard) {
		return o.fn(ctx, key, req)
	}
	h, ok := o.st.Owner(shard)
	if !ok || h.Machine == o.p.Machine() || o.p.RPC == nil {
		return res, stream.ErrNotOwner
	}
	m, _ := o.p.Leases.Machine(h.Machine)
	attempt, end := o.p.whileOwnedContext(ctx, o.st, shard, h)
	defer end()
	res, err = rpc.Call[keyed[Req], Res](attempt, o.p.RPC, m.Address, o.name, keyed[Req]{key, req})
	if err != nil && context.Cause(attempt) == errMoved {
		err = errMoved
	}
	return res, err
}

// recheckCaller checks again that the caller may call and is there, when the call has waited, or when the others may have counted this
// process as dead since the caller's request began.
func (p *Process) recheckCaller(ctx context.Context, waited bool) error {
	w := caller.Of(ctx)
	if w == nil || !waited && p.Leases.AliveSince(w.Began) {
		return nil
	}
	return w.CheckAccess()
}

// waitedTooLong reports whether a call has waited long enough for an owner of a shard.
func (p *Process) waitedTooLong(st *stream.Stream, waited time.Duration) bool {
	return waited > maxOwnerWait || waited > maxDrainingWait && !p.ownerMayCome(st)
}

// errCallerGone ends a call whose caller has left: otherwise it could run after a newer call of the same caller.
var errCallerGone = fmt.Errorf("the caller left before the owner was found: %w", context.Canceled)

// errMoved ends a call to an owner whose shard another process has now.
var errMoved = errors.New("the shard moved while its owner was asked")

// moveGrace is how long an owner that released its shard has to answer earlier calls.
const moveGrace = 100 * time.Millisecond

// whileOwnedContext returns a context for a call to the owner of a shard. It ends when the shard has moved, since a
// process that hangs keeps its connections and the call would wait for it. end must be called.
func (p *Process) whileOwnedContext(ctx context.Context, st *stream.Stream, shard int, owner lease.Holder) (
	attempt context.Context, end func(),
) {
	attempt, cancel := context.WithCancelCause(ctx)
	go func() {
		for {
			changed := p.Leases.Changed()
			if h, ok := st.Owner(shard); !ok || h.Machine != owner.Machine || h.Epoch != owner.Epoch {
				break
			}
			select {
			case <-attempt.Done():
				return
			case <-changed:
			}
		}
		grace := time.NewTimer(moveGrace)
		defer grace.Stop()
		select {
		case <-attempt.Done():
		case <-grace.C:
			cancel(errMoved)
		}
	}()
	return attempt, func() { cancel(nil) }
}

// isMoving reports whether err says that the owner of a shard is changing or that its process is gone.
func isMoving(err error) bool {
	return errors.Is(err, errMoved) || errors.Is(err, stream.ErrNotOwner) || errors.Is(err, stream.ErrAborted) ||
		errors.Is(err, rpc.ErrUnreachable) || errors.Is(err, rpc.ErrBroken)
}

// clientError adds stream.ErrNotOwner, which becomes the client's answer, to an error that ends when the shard has an owner again.
func clientError(err error) error {
	if isMoving(err) {
		return fmt.Errorf("%w: %w", err, stream.ErrNotOwner)
	}
	return err
}
