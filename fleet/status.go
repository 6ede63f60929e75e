package fleet

import (
	"context"
	"encoding/json"
	"sync"

	"lyceum/platform/lease"
	"lyceum/platform/status"
)

// collector samples this process for the status of the fleet.
func (p *Process) collector() *status.Collector {
	c := &status.Collector{
		Process: p.process, Gatherer: p.obs.Registry, Ready: p.obs.Health.Ready, Ops: p.config.Fleet.Ops, Scratch: p.config.Server.Data,
		Engines: p.engines,
		Untrusted: func() []string { // the server is made later
			if p.web == nil {
				return nil
			}
			return p.web.UntrustedProxies()
		},
	}
	if p.public != nil {
		c.Public = p.public.Addr().String()
	}
	if p.private != nil {
		c.Internal = p.private.Addr().String()
	}
	return c
}

// engines asks the engines how they are, all at once.
func (p *Process) engines(ctx context.Context) (e status.Engines) {
	var wg sync.WaitGroup
	wg.Go(func() { e.Database = status.ProbeDatabase(ctx, p.db, p.config.DatabaseURL()) })
	wg.Go(func() { e.Redis = status.ProbeRedis(ctx, p.bus, p.config.Redis) })
	wg.Go(func() { e.Blob = status.ProbeBlob(ctx, p.blobs, p.config.Blob) })
	wg.Wait()
	return e
}

// Status asks all processes and engines how they are.
func (p *Process) Status(ctx context.Context) *status.Fleet {
	f := p.status.Gather(ctx, p.config.Server.Name)
	if text, err := lease.Value(ctx, p.db, rolloutRow); err == nil && text != "" {
		r := &status.Rollout{}
		if json.Unmarshal([]byte(text), r) == nil {
			f.Rollout = r
		}
	}
	return f
}

// rolloutRow is the row of table fleet that tells of the upgrade under way.
const rolloutRow = "rollout"

// StoreRollout keeps how far an upgrade is, for Status.
func (p *Process) StoreRollout(ctx context.Context, r status.Rollout) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return lease.SetValue(ctx, p.db, rolloutRow, string(text))
}
