package syncapi

import (
	"cmp"
	"hash/maphash"
	"slices"
	"sync"
)

// given says that a device has been given a membership event of a user in a room. Both are hashes, as thousands of devices
// have hundreds of them: what differs from what was given is found to differ, but for one in 2^64.
type given struct{ member, event uint64 }

// memberships are by member, each once. They are never changed.
type memberships []given

func compareMembers(a, b given) int { return cmp.Compare(a.member, b.member) }

func (m memberships) has(g given) bool {
	at, found := slices.BinarySearchFunc(m, g, compareMembers)
	return found && m[at].event == g.event
}

// with is m with those in newer, which replace what m has of the same members.
func (m memberships) with(newer memberships) memberships {
	if len(m) == 0 {
		return newer
	}
	return slices.Concat(newer, m).sorted()
}

// sorted makes a list memberships, and keeps the first of each member.
func (m memberships) sorted() memberships {
	slices.SortStableFunc(m, compareMembers)
	return slices.Clip(slices.CompactFunc(m, func(a, b given) bool { return a.member == b.member }))
}

// lazyMembers remembers which membership events devices have, so that they are not sent again. What an
// answer held counts only once the device goes on from its token: an answer may be lost on the way.
type lazyMembers struct {
	seed    maphash.Seed
	mu      sync.Mutex
	devices map[string]*book
}

// book is what one device has.
type book struct {
	at      print // of the newest answer that arrived
	has     memberships
	next    print // of the newest answer
	pending memberships
}

const lazyDevices, lazyEach = 20_000, 1000

func newLazyMembers() *lazyMembers {
	return &lazyMembers{seed: maphash.MakeSeed(), devices: map[string]*book{}}
}

func (l *lazyMembers) given(roomID, userID, eventID string) given {
	return given{maphash.Comparable(l.seed, [2]string{roomID, userID}), maphash.String(l.seed, eventID)}
}

// begin gives the memberships that a device has at the place of its token.
func (l *lazyMembers) begin(device string, since *vector) memberships {
	at := since.print()
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.devices[device]
	switch {
	case b == nil:
		return nil
	case b.next == at:
		if len(b.has)+len(b.pending) > lazyEach {
			b.has = b.pending
		} else if len(b.pending) > 0 {
			b.has = b.has.with(b.pending)
		}
		b.at, b.pending = b.next, nil
	case b.at == at: // the device did not get the last answer
	default:
		delete(l.devices, device)
		return nil
	}
	return b.has
}

// end notes what an answer holds, in any order; the last of each member counts. since is the token that it began from; nil
// when the device began anew.
func (l *lazyMembers) end(device string, since, next *vector, answer []given) {
	pending := memberships(slices.Clone(answer))
	slices.Reverse(pending)
	pending = pending.sorted()
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.devices[device]
	if b == nil || since == nil {
		if len(pending) == 0 && b == nil {
			return
		}
		for other := range l.devices {
			if len(l.devices) < lazyDevices {
				break
			}
			delete(l.devices, other)
		}
		b = &book{}
		if since != nil {
			b.at = since.print()
		}
		l.devices[device] = b
	}
	b.next, b.pending = next.print(), pending
}
