package syncapi

import (
	"cmp"
	"context"
	"hash/maphash"
	"slices"
	"sync"

	"lyceum/matrix/event"
	"lyceum/rooms/state"
)

// sentMember says that a device has a membership event of a user in a room. Both are hashes, as thousands of devices have hundreds of
// them. The probability that a hash wrongly matches is 2^-64.
type sentMember struct{ member, event uint64 }

// sentMembers are sorted by member, and have each member once. They are never changed, only replaced.
type sentMembers []sentMember

func compareMember(a, b sentMember) int { return cmp.Compare(a.member, b.member) }

func (m sentMembers) contains(sent sentMember) bool {
	at, found := slices.BinarySearchFunc(m, sent, compareMember)
	return found && m[at].event == sent.event
}

// with returns m with the members of newer, which replace the same members of m.
func (m sentMembers) with(newer sentMembers) sentMembers {
	if len(m) == 0 {
		return newer
	}
	return slices.Concat(newer, m).sorted()
}

// sorted sorts a list in place and keeps the first of each member.
func (m sentMembers) sorted() sentMembers {
	slices.SortStableFunc(m, compareMember)
	return slices.Clip(slices.CompactFunc(m, func(a, b sentMember) bool { return a.member == b.member }))
}

// lazyMembers remembers which membership events devices have, so that these are not sent again. The members of an answer count only
// once the device goes on from its token, as the answer may be lost on its way.
//
// It is not an otter cache, as records change in place under mu, and a new device must not lose its record at once to older ones.
type lazyMembers struct {
	seed    maphash.Seed
	mu      sync.Mutex
	devices map[string]*deviceRecord // by user and device
}

// deviceRecord is what one device has.
type deviceRecord struct {
	token     vectorHash // of the newest answer that is known to have arrived
	sent      sentMembers
	nextToken vectorHash // of the newest answer
	pending   sentMembers
}

// maxLazyDevices are remembered, and maxLazyMembers of each; a device of which more is known keeps those of its last answer.
const maxLazyDevices, maxLazyMembers = 20_000, 1000

func newLazyMembers() *lazyMembers {
	return &lazyMembers{seed: maphash.MakeSeed(), devices: map[string]*deviceRecord{}}
}

func (l *lazyMembers) hashOf(roomID, userID, eventID string) sentMember {
	return sentMember{maphash.Comparable(l.seed, [2]string{roomID, userID}), maphash.String(l.seed, eventID)}
}

// sentTo returns the members that a device has when it asks with a token.
func (l *lazyMembers) sentTo(device string, since *vector) sentMembers {
	token := since.hash()
	l.mu.Lock()
	defer l.mu.Unlock()
	d := l.devices[device]
	switch {
	case d == nil:
		return nil
	case d.nextToken == token:
		if len(d.sent)+len(d.pending) > maxLazyMembers {
			d.sent = d.pending
		} else if len(d.pending) > 0 {
			d.sent = d.sent.with(d.pending)
		}
		d.token, d.pending = d.nextToken, nil
	case d.token == token: // the device did not get the last answer
	default:
		delete(l.devices, device)
		return nil
	}
	return d.sent
}

// noteSent notes the members of an answer, in any order; of equal members the last one counts. since is the token with which the device
// asked, nil for an initial request; next is the token of the answer.
func (l *lazyMembers) noteSent(device string, since, next *vector, answer []sentMember) {
	pending := sentMembers(slices.Clone(answer))
	slices.Reverse(pending)
	pending = pending.sorted()
	l.mu.Lock()
	defer l.mu.Unlock()
	d := l.devices[device]
	if d == nil || since == nil {
		if len(pending) == 0 && d == nil {
			return
		}
		for other := range l.devices {
			if len(l.devices) < maxLazyDevices {
				break
			}
			delete(l.devices, other)
		}
		d = &deviceRecord{}
		if since != nil {
			d.token = since.hash()
		}
		l.devices[device] = d
	}
	d.nextToken, d.pending = next.hash(), pending
}

// addLazyMembers adds to the state the memberships of those who sent events of the timeline, of the heroes, and of the user when the
// room is new, unless the device has them (client-server API, "Lazy-loading room members").
func (q *query) addLazyMembers(ctx context.Context, roomID string, sec *section, ids map[state.Key]string, whole bool) error {
	root := sec.rootBefore
	if q.stateAfter {
		root = sec.rootAfter
	}
	tree := q.s.Rooms.Tree(root)
	needed, inTimeline := map[string]bool{}, map[string]string{} // here, as they need no allocation then
	q.neededMembers(sec, whole, needed, inTimeline)
	redundant := q.filter.Room.State.RedundantMembers
	for member := range needed {
		key := state.Key{Type: event.TypeMember, StateKey: member}
		if ids[key] != "" {
			continue
		}
		id := sec.newerState[key]
		if id == "" {
			var err error
			if id, err = tree.Get(ctx, key); err != nil {
				return err
			}
		}
		if id != "" && (whole || redundant || !q.alreadySent.contains(q.s.lazy.hashOf(roomID, member, id))) {
			ids[key] = id
		}
	}
	for k, id := range ids {
		if k.Type == event.TypeMember {
			q.noteSentMember(roomID, k.StateKey, id)
		}
	}
	if !q.stateAfter {
		for member, id := range inTimeline {
			q.noteSentMember(roomID, member, id)
		}
	}
	return nil
}

// neededMembers adds the users whose memberships the client needs, and the event ids of the memberships that the timeline contains, by
// user.
func (q *query) neededMembers(sec *section, whole bool, needed map[string]bool, inTimeline map[string]string) {
	if whole {
		needed[q.user.id] = true
	}
	if sec.summary != nil {
		for _, hero := range sec.summary.heroes {
			needed[hero] = true
		}
	}
	for _, e := range sec.events {
		if e.IsState() && e.Type == event.TypeMember {
			inTimeline[*e.StateKey] = e.ID
		}
		if q.stateAfter || inTimeline[e.Sender] == "" {
			needed[e.Sender] = true
		}
	}
}

// removeMembers removes the memberships from a state.
func removeMembers(ids map[state.Key]string) {
	for k := range ids {
		if k.Type == event.TypeMember {
			delete(ids, k)
		}
	}
}

// addChangedMembers adds the memberships that changed after a state that the client has: a user who left must not stay a member there.
func (q *query) addChangedMembers(ctx context.Context, t *timeline, had state.ID, ids map[state.Key]string) error {
	since, _, err := q.stateChanges(ctx, t, had)
	for k, id := range since {
		if k.Type == event.TypeMember {
			ids[k] = id
		}
	}
	return err
}

func (q *query) noteSentMember(roomID, member, eventID string) {
	q.sentNow = append(q.sentNow, q.s.lazy.hashOf(roomID, member, eventID))
}
