package fleet

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"lyceum/platform/blob"
	"lyceum/platform/bus"
	"lyceum/platform/conf"
	"lyceum/platform/lease"
	"lyceum/platform/obs"
	"lyceum/platform/role"
	"lyceum/platform/rpc"
)

// Metadata are what a process tells the others of itself when it registers.
type Metadata struct {
	Revision int               `json:"revision"`
	Keys     map[string]string `json:"keys"` // shared keys to fingerprints of their values
	Public   string            `json:"public,omitempty"`
	Ops      string            `json:"ops,omitempty"`
}

// newMetadata takes fingerprints under a key made from the fleet's secret, so that nobody can guess a short
// secret from one. A process with another secret fails before: it can not open what the database holds sealed.
func newMetadata(c *Config, secret []byte) Metadata {
	f := Metadata{Revision: c.Fleet.Revision, Keys: map[string]string{}, Ops: c.Fleet.Ops, Public: c.Server.Listen}
	for key, value := range conf.Shared(c.Sections()) {
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte("lyceum configuration\x00" + key + "\x00" + value))
		f.Keys[key] = hex.EncodeToString(mac.Sum(nil)[:6])
	}
	return f
}

// pinned are the keys that a live fleet can not change at all.
var pinned = []string{"server.name", "redis.prefix", "blob.s3.bucket", "blob.s3.prefix"}

// ErrDatabaseInUse refuses a process beside which there may be no other.
var ErrDatabaseInUse = errors.New("another process uses this database")

// needs is what a process has that others could not do without.
type needs struct{ redis, sharedBlobs bool }

// alone refuses a process that lacks something where there are others.
func (n needs) alone(self lease.Machine, others []lease.Machine) error {
	if !n.redis && len(others) > 0 {
		return fmt.Errorf("redis.addresses: %w; processes that share one need Redis between them", ErrDatabaseInUse)
	}
	if n.sharedBlobs || slices.Contains(self.Roles, role.NoRole) {
		return nil
	}
	for _, o := range others {
		if !o.Draining && !slices.Contains(o.Roles, role.NoRole) {
			return fmt.Errorf("blob.directory: %w, machine %d (%s), and files in a directory of one process are not seen by the others: set blob.s3, or put the directory on a file system that all share and set blob.directory_shared",
				ErrDatabaseInUse, o.ID, o.Host)
		}
	}
	return nil
}

// admit decides whether a process may join the others: the rules for configurations and versions. given tells that its id is.
func admit(mine Metadata, given bool, has needs) func(self lease.Machine, others []lease.Machine) error {
	return func(self lease.Machine, others []lease.Machine) error {
		if err := has.alone(self, others); err != nil {
			return err
		}
		if slices.Contains(self.Roles, role.NoRole) {
			return nil
		}
		for _, o := range others {
			if slices.Contains(o.Roles, role.NoRole) || o.Metadata == "" {
				continue
			}
			var theirs Metadata
			if err := json.Unmarshal([]byte(o.Metadata), &theirs); err != nil {
				return fmt.Errorf("what machine %d registered can not be read: %w", o.ID, err)
			}
			if err := mine.agree(theirs, self, o); err != nil {
				return err
			}
		}
		if given {
			return zeroFirst(self, others)
		}
		return nil
	}
}

// agree names the keys in which two processes differ and may not.
func (f Metadata) agree(theirs Metadata, self, other lease.Machine) error {
	var differ, hard []string
	for key, print := range f.Keys {
		if their, ok := theirs.Keys[key]; ok && their != print {
			differ = append(differ, key)
			if slices.Contains(pinned, key) {
				hard = append(hard, key)
			}
		}
	}
	slices.Sort(differ)
	slices.Sort(hard)
	who := fmt.Sprintf("machine %d (%s)", other.ID, other.Host)
	switch { // a default may have changed between two versions
	case len(hard) > 0:
		return fmt.Errorf("the configuration differs from that of %s in %s: these keys are alike in all processes and change only while the whole fleet is stopped", who, strings.Join(hard, ", "))
	case len(differ) > 0 && self.Version == other.Version && f.Revision <= theirs.Revision:
		return fmt.Errorf("the configuration differs from that of %s in %s: give all processes the same configuration, or, to roll a changed one out, set fleet.config_revision to %d in it", who, strings.Join(differ, ", "), theirs.Revision+1)
	}
	return nil
}

// zeroFirst holds fleets with given machine ids to the order of upgrades: machine 0, then the rest. With
// automatic ids the order comes by itself, since background work moves to the newest version.
func zeroFirst(self lease.Machine, others []lease.Machine) error {
	mine, err := obs.ParseVersion(self.Version)
	if err != nil || self.ID == 0 {
		return err
	}
	for _, o := range others {
		if theirs, err := obs.ParseVersion(o.Version); err == nil && o.ID == 0 && theirs.Compare(mine) < 0 {
			return fmt.Errorf("%w: machine 0 runs %s and this is %s: upgrade machine 0 first, then the others in any order", lease.ErrVersion, o.Version, self.Version)
		}
	}
	return nil
}

// proof is a wish of a process that starts: show me that we share Redis and the blob store.
type proof struct {
	Nonce string `json:"nonce"`
}

type proofAnswer struct {
	Blob bool `json:"blob"` // the probe was there
}

const (
	proveMethod = "fleet/prove"
	ProbePrefix = "probe/" // of keys in the blob store
	proofWait   = 5 * time.Second
)

// serveProofs answers the processes that start after this one.
func (p *Process) serveProofs(blobs blob.Store) {
	rpc.Handle(p.process.RPC, proveMethod, func(ctx context.Context, w proof) (proofAnswer, error) {
		if len(w.Nonce) != len(rand.Text()) {
			return proofAnswer{}, errors.New("bad nonce")
		}
		_, err := blobs.Stat(ctx, ProbePrefix+w.Nonce)
		if err != nil && !errors.Is(err, blob.ErrNotFound) {
			return proofAnswer{}, err
		}
		return proofAnswer{Blob: err == nil}, p.bus.Publish(ctx, bus.Message{Topic: "prove/" + w.Nonce})
	})
}

// prove asks another live process whether both reach the same Redis and the same blob store. Where none
// answers, nothing is proved and the start goes on: a fleet whose processes all crashed must come up again.
func (p *Process) prove(ctx context.Context, blobs blob.Store) error {
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
	w := proof{Nonce: rand.Text()}
	if _, err := blobs.Put(ctx, ProbePrefix+w.Nonce, strings.NewReader("probe"), 5); err != nil {
		return fmt.Errorf("blob: the store takes no file: %w", err)
	}
	defer func() { _ = blobs.Delete(context.WithoutCancel(ctx), ProbePrefix+w.Nonce) }() // a probe left over harms nobody
	heard := make(chan struct{}, 1)
	cancel := p.bus.Subscribe("prove/"+w.Nonce, func(bus.Message) {
		select {
		case heard <- struct{}{}:
		default:
		}
	})
	defer cancel()
	for _, m := range others[:min(3, len(others))] {
		step, end := context.WithTimeout(ctx, proofWait)
		answer, err := rpc.Call[proof, proofAnswer](step, p.process.RPC, m.Address, proveMethod, w)
		end()
		if err != nil {
			p.process.Log.Warn("a process did not prove that it shares Redis and the blob store", "machine", m.ID, "error", err)
			continue
		}
		if !answer.Blob {
			return fmt.Errorf("blob: machine %d (%s) does not see a file that this process stored: give all processes the same blob.s3, or the same shared file system as blob.directory", m.ID, m.Host)
		}
		select {
		case <-heard:
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(proofWait):
			if p.bus.Connected() {
				return fmt.Errorf("redis.addresses: machine %d (%s) reaches another Redis than this process: give all processes the same one", m.ID, m.Host)
			}
		}
		return nil
	}
	return nil
}

// text is what is registered.
func (f Metadata) text() string {
	b, err := json.Marshal(f)
	if err != nil {
		return "" // texts and numbers can be written
	}
	return string(b)
}

// PublicAddresses are the public listeners of the processes that live now, by role.
func (p *Process) PublicAddresses(ctx context.Context) (map[string][]string, error) {
	all, err := p.process.Leases.Metadata(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string][]string{}
	for _, m := range p.process.Leases.Machines() {
		var metadata Metadata
		if json.Unmarshal([]byte(all[m.ID]), &metadata) != nil || metadata.Public == "" || m.Draining {
			continue
		}
		for _, name := range m.Roles {
			if !slices.Contains(out[name], metadata.Public) {
				out[name] = append(out[name], metadata.Public)
			}
		}
	}
	return out, nil
}
