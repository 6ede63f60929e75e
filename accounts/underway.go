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

	// underWayTimeout is how long the end of a token, or of a right, waits for requests that were let in before: longer than a shard
	// moves, and short for the owner of the account, who may have to wait for a process that stands still.
	underWayTimeout = 5 * time.Second
)

// awaitUnderWay waits until no request of a user is at work in any process that was let in before the stored change of the user's sessions.
// So what is told of the end of a token, or of a right, is told after all that it was used for.
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
			if err := await(); err != nil { // one that is gone does nothing more, and one of the version before does not know of it
				a.log.DebugContext(ctx, "requests under way were not waited for", "user", userID, "at", machine, "error", err)
			}
		})
	}
	ask(p.Machine(), func() error { return a.awaitHere(ctx, userID) })
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

// awaitHere waits for those in this process. Those that come to work from now on find their token gone.
func (a *Accounts) awaitHere(ctx context.Context, userID string) error {
	if err := a.deps.Process.Streams.Barrier(ctx); err != nil {
		return err
	}
	return a.deps.UnderWay.Wait(ctx, userID)
}
