package fleet

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"lyceum/platform/blob"
	"lyceum/platform/bus"
	"lyceum/platform/lease"
	"lyceum/platform/role"
	"lyceum/platform/rpc"
)

// probeRequest asks another process to confirm that both share Redis and the blob store: it looks for the blob that the sender stored
// under the nonce and publishes a message with it.
type probeRequest struct {
	Nonce string `json:"nonce"`
}

type probeAnswer struct {
	Blob bool `json:"blob"` // it was found
}

// ProbePrefix begins the keys of probes in the blob store.
const ProbePrefix = "probe/"

const (
	probeMethod = "fleet/prove"
	probeTopic  = "prove/" // before the nonce
	probeWait   = 5 * time.Second
)

// serveProbes answers the probes of processes that start after this one.
func (p *Process) serveProbes(blobs blob.Store) {
	rpc.Handle(p.process.RPC, probeMethod, func(ctx context.Context, r probeRequest) (probeAnswer, error) {
		if len(r.Nonce) != len(rand.Text()) {
			return probeAnswer{}, errors.New("bad nonce")
		}
		_, err := blobs.Stat(ctx, ProbePrefix+r.Nonce)
		if err != nil && !errors.Is(err, blob.ErrNotFound) {
			return probeAnswer{}, err
		}
		return probeAnswer{Blob: err == nil}, p.bus.Publish(ctx, bus.Message{Topic: probeTopic + r.Nonce})
	})
}

// checkSharedEngines asks another live process whether both reach the same Redis and the same blob store. When none answers, the start
// goes on: a fleet whose processes all crashed must come up again.
func (p *Process) checkSharedEngines(ctx context.Context, blobs blob.Store) error {
	if slices.Contains(p.config.Fleet.Roles, role.NoRole) {
		return nil
	}
	var others []lease.Machine
	for _, m := range p.process.Leases.Machines() {
		if m.ID != p.process.Machine() && !m.Draining && !slices.Contains(m.Roles, role.NoRole) {
			others = append(others, m)
		}
	}
	if len(others) == 0 {
		return nil
	}
	r := probeRequest{Nonce: rand.Text()}
	if _, err := blobs.Put(ctx, ProbePrefix+r.Nonce, strings.NewReader("probe"), 5); err != nil {
		return fmt.Errorf("blob: the store takes no file: %w", err)
	}
	defer func() { _ = blobs.Delete(context.WithoutCancel(ctx), ProbePrefix+r.Nonce) }() // a probe left over harms nobody
	heard := make(chan struct{}, 1)
	cancel := p.bus.Subscribe(probeTopic+r.Nonce, func(bus.Message) {
		select {
		case heard <- struct{}{}:
		default:
		}
	})
	defer cancel()
	for _, m := range others[:min(3, len(others))] {
		step, end := context.WithTimeout(ctx, probeWait)
		answer, err := rpc.Call[probeRequest, probeAnswer](step, p.process.RPC, m.Address, probeMethod, r)
		end()
		if err != nil {
			p.process.Log.Warn("a process did not prove that it shares Redis and the blob store", "machine", m.ID, "error", err)
			continue
		}
		if !answer.Blob {
			return fmt.Errorf("blob: machine %d (%s) does not see a file that this process stored: "+
				"give all processes the same blob.s3, or the same shared file system as blob.directory", m.ID, m.Host)
		}
		select {
		case <-heard:
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(probeWait):
			if p.bus.Connected() {
				return fmt.Errorf("redis.addresses: machine %d (%s) reaches another Redis than this process: "+
					"give all processes the same one", m.ID, m.Host)
			}
		}
		return nil
	}
	return nil
}
