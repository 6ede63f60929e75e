package role

import (
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/cespare/xxhash/v2"

	"lyceum/platform/lease"
)

// members are the live machines by role, for one view of the leases.
type members struct {
	machines []lease.Machine // the view that they were made from
	mu       sync.RWMutex
	roles    map[string][]member
}

// member is a machine that takes requests of a role.
type member struct {
	addr string
	id   int
	seed uint64 // of its weights for keys
}

// membersOf returns the live processes that take requests of a role. It is computed anew for each view of the leases.
func (p *Process) membersOf(name string) []member {
	machines := p.Leases.Machines()
	now := p.members.Load()
	// A view is never written to, and this one can not be freed while it is compared with: the same array is the same view.
	if now == nil || len(now.machines) != len(machines) || unsafe.SliceData(now.machines) != unsafe.SliceData(machines) {
		now = &members{machines: machines, roles: map[string][]member{}}
		p.members.Store(now)
	}
	now.mu.RLock()
	list, known := now.roles[name]
	now.mu.RUnlock()
	if known {
		return list
	}
	for _, m := range machines {
		if m.Takes(name) {
			list = append(list, member{m.Address, m.ID, mixBits(uint64(m.ID) + 1)})
		}
	}
	now.mu.Lock()
	now.roles[name] = list
	now.mu.Unlock()
	return list
}

// mixBits spreads the bits of a number (the finaliser of SplitMix64, Steele and others, OOPSLA 2014).
func mixBits(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

var nextInTurn atomic.Uint64

// Route chooses the process for a request: the owner of the key's shard for a role that writes a stream, else one that
// the key hashes to; without a key, this process if it has the role, else each in turn. When no process has the role,
// its pool serves it. ok is false when nobody has either.
func (p *Process) Route(name, key string) (addr string, local, ok bool) {
	self := p.Leases.Self()
	r, known := p.FindRole(name)
	list := p.membersOf(name)
	if known && r.Pool != "" && len(list) == 0 {
		name = r.Pool
		r, known = p.FindRole(name)
		list = p.membersOf(name)
	}
	if known && r.Stream != "" && key != "" {
		for _, st := range p.Streams.All() {
			if st.Name() != r.Stream {
				continue
			}
			if h, held := st.Owner(st.Shard(key)); held {
				m, _ := p.Leases.Machine(h.Machine)
				return m.Address, h.Machine == self.ID, true
			}
		}
	}
	if key == "" && self.Takes(name) {
		return self.Address, true, true
	}
	if len(list) == 0 {
		return "", self.Has(name), self.Has(name)
	}
	if key == "" { // spread over all
		addr = list[nextInTurn.Add(1)%uint64(len(list))].addr
		return addr, addr == self.Address, true
	}
	// Rendezvous hashing: a machine that comes or goes moves only the keys that it gets or had.
	hash, best, weight := xxhash.Sum64String(key), 0, uint64(0)
	for i := range list {
		if w := mixBits(hash ^ list[i].seed); w > weight {
			best, weight = i, w
		}
	}
	return list[best].addr, list[best].id == self.ID, true
}
