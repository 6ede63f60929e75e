package fleet

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"lyceum/platform/conf"
	"lyceum/platform/lease"
	"lyceum/platform/obs"
	"lyceum/platform/role"
)

// Metadata is what a process tells the others of itself when it registers. It is stored as JSON.
type Metadata struct {
	Revision int               `json:"revision"`
	Keys     map[string]string `json:"keys"` // shared keys to fingerprints of their values
	Public   string            `json:"public,omitempty"`
	Ops      string            `json:"ops,omitempty"`
}

// newMetadata makes the metadata of a process. Fingerprints are HMACs under the secret of the fleet, so that nobody can guess a short
// secret from one. A process with another secret has failed before: it can not open what the database holds sealed.
func newMetadata(c *Config, secret []byte) Metadata {
	m := Metadata{Revision: c.Fleet.Revision, Keys: map[string]string{}, Ops: c.Fleet.Ops, Public: c.Server.Listen}
	for key, value := range conf.Shared(c.Sections()) {
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte("lyceum configuration\x00" + key + "\x00" + value))
		m.Keys[key] = hex.EncodeToString(mac.Sum(nil)[:6])
	}
	return m
}

// pinned are the keys that a live fleet can not change at all.
var pinned = []string{"server.name", "redis.prefix", "blob.s3.bucket", "blob.s3.prefix"}

// ErrDatabaseInUse refuses a process that can not work beside others: it has no Redis, or files that only it sees.
var ErrDatabaseInUse = errors.New("another process uses this database")

// sharedEngines says which engines a process shares with the others.
type sharedEngines struct{ redis, blobs bool }

// check refuses a process that does not share an engine, where there are others.
func (s sharedEngines) check(self lease.Machine, others []lease.Machine) error {
	if !s.redis && len(others) > 0 {
		return fmt.Errorf("redis.addresses: %w; processes that share one need Redis between them", ErrDatabaseInUse)
	}
	if s.blobs || slices.Contains(self.Roles, role.NoRole) {
		return nil
	}
	for _, o := range others {
		if !o.Draining && !slices.Contains(o.Roles, role.NoRole) {
			return fmt.Errorf("blob.directory: %w, machine %d (%s), and files in a directory of one process are not seen by the others: "+
				"set blob.s3, or put the directory on a file system that all share and set blob.directory_shared",
				ErrDatabaseInUse, o.ID, o.Host)
		}
	}
	return nil
}

// acceptMember returns the rules by which a process may join the others: those for engines, configurations and versions. hasID says
// that its machine id is configured.
func acceptMember(mine Metadata, hasID bool, has sharedEngines) func(self lease.Machine, others []lease.Machine) error {
	return func(self lease.Machine, others []lease.Machine) error {
		if err := has.check(self, others); err != nil {
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
			if err := mine.checkAgreement(theirs, self, o); err != nil {
				return err
			}
		}
		if hasID {
			return checkUpgradeOrder(self, others)
		}
		return nil
	}
}

// checkAgreement returns an error with the keys in which two processes differ and may not.
func (m Metadata) checkAgreement(theirs Metadata, self, other lease.Machine) error {
	var differ, hard []string
	for key, print := range m.Keys {
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
		return fmt.Errorf("the configuration differs from that of %s in %s: "+
			"these keys are alike in all processes and change only while the whole fleet is stopped", who, strings.Join(hard, ", "))
	case len(differ) > 0 && self.Version == other.Version && m.Revision <= theirs.Revision:
		return fmt.Errorf("the configuration differs from that of %s in %s: give all processes the same configuration, "+
			"or, to roll a changed one out, set fleet.config_revision to %d in it", who, strings.Join(differ, ", "), theirs.Revision+1)
	}
	return nil
}

// checkUpgradeOrder refuses a process of a newer version than machine 0 has, where machine ids are configured: machine 0 is upgraded
// first. With automatic ids the order comes by itself, since background work moves to the newest version.
func checkUpgradeOrder(self lease.Machine, others []lease.Machine) error {
	mine, err := obs.ParseVersion(self.Version)
	if err != nil || self.ID == 0 {
		return err
	}
	for _, o := range others {
		if theirs, err := obs.ParseVersion(o.Version); err == nil && o.ID == 0 && theirs.Compare(mine) < 0 {
			return fmt.Errorf("%w: machine 0 runs %s and this is %s: upgrade machine 0 first, then the others in any order",
				lease.ErrVersion, o.Version, self.Version)
		}
	}
	return nil
}

// text is the metadata as it is registered.
func (m Metadata) text() string {
	b, err := json.Marshal(m)
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
