package accounts

import (
	"context"
	"slices"
	"sync"
	"time"

	"lyceum/platform/role"
	"lyceum/platform/rpc"
)

const (
	underWayMethod = "accounts.under_way"

	// underWayTimeout bounds how long the end of a token, or of a right, waits for earlier requests. It is longer than the move of
	// a shard, and short for the owner of the account, who may have to wait for a process that hangs.
	underWayTimeout = 5 * time.Second
)

// awaitUnderWay waits, in all processes, for the requests of a user that were authenticated before a change of the user's sessions
// that was just stored. So the end of a token, or of a right, is acknowledged after everything that it was used for.
func (a *Accounts) awaitUnderWay(ctx context.Context, userID string) {
	if a.deps.UnderWay == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, underWayTimeout)
	defer cancel()
	p := a.deps.Process
	var all sync.WaitGroup
	ask := func(machine int, await func() error) {
		all.Go(func() {
			if err := await(); err != nil { // a process that ended has no requests; one of the previous version does not know the method
				a.log.DebugContext(ctx, "requests under way were not waited for", "user", userID, "at", machine, "error", err)
			}
		})
	}
	ask(p.Machine(), func() error { return a.awaitUnderWayHere(ctx, userID) })
	for _, m := range p.Leases.Machines() {
		if p.RPC == nil || m.ID == p.Machine() || slices.Contains(m.Roles, role.NoRole) {
			continue
		}
		ask(m.ID, func() error {
			_, err := rpc.Call[string, struct{}](ctx, p.RPC, m.Address, underWayMethod, userID)
			return err
		})
	}
	all.Wait()
}

// awaitUnderWayHere waits for the requests in this process. After the barrier new requests find their token gone.
func (a *Accounts) awaitUnderWayHere(ctx context.Context, userID string) error {
	if err := a.deps.Process.Streams.Barrier(ctx); err != nil {
		return err
	}
	return a.deps.UnderWay.Wait(ctx, userID)
}
