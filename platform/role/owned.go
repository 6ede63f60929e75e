package role

import (
	"context"
	"errors"
	"fmt"
	"time"

	"lyceum/platform/caller"
	"lyceum/platform/lease"
	"lyceum/platform/rpc"
	"lyceum/platform/stream"
)

// ownerWait is how long a call waits for a shard that moves.
const maxOwnerWait = 15 * time.Second

// lastWait is how long it waits in a process that stops where no process is left that takes the shard.
const maxDrainingWait = 2 * time.Second

// mayCome tells whether an owner that a call waits for may come: not when this process stops and the others have stopped.
func (p *Process) ownerMayCome(st *stream.Stream) bool {
	return !p.Leases.Self().Draining || len(p.membersOf(st.Role())) > 0
}

// keyed is a request on its way to the owner of a key.
type keyed[Req any] struct {
	Key string `json:"key"`
	Req Req    `json:"req"`
}

// Owned makes fn, which must run on the owner of the key's shard, callable from any process: a plain call
// when that is here, else one call over the wire. While the shard moves it tries again, also when it moves away from a
// process that was asked and hangs, so fn must give the same result when it runs twice: it is idempotent, or its request carries an id.
func Owned[Req, Res any](p *Process, st *stream.Stream, name string, fn func(ctx context.Context, key string, req Req) (Res, error)) func(ctx context.Context, key string, req Req) (Res, error) {
	if p.RPC != nil {
		rpc.Handle(p.RPC, name, func(ctx context.Context, k keyed[Req]) (Res, error) {
			if !st.Owns(st.Shard(k.Key)) {
				var none Res
				return none, stream.ErrNotOwner
			}
			return fn(ctx, k.Key, k.Req)
		})
	}
	return func(ctx context.Context, key string, req Req) (res Res, err error) {
		shard := st.Shard(key)
		began := time.Now()
		var unknown error // an attempt before may have been done
		for wait := time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
			changed := p.Leases.Changed()
			// What waited, or stood still with its process, is asked again before it begins; what may have begun is told how it ended.
			if w := caller.Of(ctx); w != nil && unknown == nil && (err != nil || !p.Leases.AliveSince(w.Began)) {
				if err := w.Ask(); err != nil {
					return res, err
				}
			}
			if st.Owns(shard) {
				res, err = fn(ctx, key, req)
			} else if h, ok := st.Owner(shard); ok && h.Machine != p.Machine() && p.RPC != nil {
				m, _ := p.Leases.Machine(h.Machine)
				attempt, end := p.whileOwnedContext(ctx, st, shard, h)
				res, err = rpc.Call[keyed[Req], Res](attempt, p.RPC, m.Address, name, keyed[Req]{key, req})
				if err != nil && context.Cause(attempt) == errMoved {
					err = errMoved
				}
				end()
			} else {
				err = stream.ErrNotOwner
			}
			if errors.Is(err, errMoved) || errors.Is(err, rpc.ErrBroken) {
				unknown = err
			}
			// Busy says that nothing was done, which is not known any more when an attempt before broke off.
			busy := unknown != nil && errors.Is(err, stream.ErrBusy)
			waited := time.Since(began)
			if err == nil || !isMoving(err) && !busy || ctx.Err() != nil || waited > maxOwnerWait || waited > maxDrainingWait && !p.ownerMayCome(st) {
				if busy {
					err = unknown
				}
				return res, clientError(err)
			}
			select {
			case <-ctx.Done():
				return res, err
			case <-changed:
				wait = time.Millisecond / 2 // news: the new owner opens the shard soon
			case <-time.After(wait):
			}
			// A former owner does nothing more, and one to which a connection broke may.
			if !errors.Is(err, rpc.ErrBroken) && caller.Of(ctx).Gone() {
				return res, fmt.Errorf("%w: %w", errCallerGone, err)
			}
		}
	}
}

// errGone ends a call for somebody who is gone: a newer one of the same caller would else come before it.
var errCallerGone = fmt.Errorf("the caller left before the owner was found: %w", context.Canceled)

// errMoved ends a call to an owner whose shard another process has now.
var errMoved = errors.New("the shard moved while its owner was asked")

// moveGrace is how long an owner that gave its shard away has to answer what it was asked before.
const moveGrace = 100 * time.Millisecond

// whileOwned gives a context for a call to the owner of a shard. It ends when the shard has moved, since a process that
// hangs keeps its connections and would let the caller wait. end must be called.
func (p *Process) whileOwnedContext(ctx context.Context, st *stream.Stream, shard int, owner lease.Holder) (attempt context.Context, end func()) {
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

// isMoving tells that the owner of a shard is changing or its process is gone.
func isMoving(err error) bool {
	return errors.Is(err, errMoved) || errors.Is(err, stream.ErrNotOwner) || errors.Is(err, stream.ErrAborted) ||
		errors.Is(err, rpc.ErrUnreachable) || errors.Is(err, rpc.ErrBroken)
}

// asAnswer gives what passes with the move an answer to the client.
func clientError(err error) error {
	if isMoving(err) {
		return fmt.Errorf("%w: %w", err, stream.ErrNotOwner)
	}
	return err
}
