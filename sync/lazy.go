package sync

import (
	"maps"
	"sync"
)

// memberKey names a membership that a device has been given.
type memberKey struct{ room, user string }

// lazyMembers remembers which membership events devices have, so that they are not sent again. What an
// answer held counts only once the device goes on from its token: an answer may be lost on the way.
type lazyMembers struct {
	mu      sync.Mutex
	devices map[string]*book
}

// book is what one device has. The maps in it are never changed.
type book struct {
	at      vector // of the newest answer that arrived
	has     map[memberKey]string
	next    vector // of the newest answer
	pending map[memberKey]string
}

const lazyDevices, lazyEach = 20_000, 1000

// begin gives the event ids that a device has at the place of its token.
func (l *lazyMembers) begin(device string, since *vector) map[memberKey]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.devices[device]
	switch {
	case b == nil:
		return nil
	case b.next == *since:
		if len(b.has)+len(b.pending) > lazyEach {
			b.has = b.pending
		} else if len(b.pending) > 0 {
			merged := maps.Clone(b.has)
			if merged == nil {
				merged = map[memberKey]string{}
			}
			maps.Copy(merged, b.pending)
			b.has = merged
		}
		b.at, b.pending = b.next, nil
	case b.at == *since: // the device did not get the last answer
	default:
		delete(l.devices, device)
		return nil
	}
	return b.has
}

// end notes what an answer holds. since is the token that it began from; nil when the device began anew.
func (l *lazyMembers) end(device string, since, next *vector, given map[memberKey]string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.devices[device]
	if b == nil || since == nil {
		if len(given) == 0 && b == nil {
			return
		}
		for other := range l.devices {
			if len(l.devices) < lazyDevices {
				break
			}
			delete(l.devices, other)
		}
		if l.devices == nil {
			l.devices = map[string]*book{}
		}
		b = &book{}
		if since != nil {
			b.at = *since
		}
		l.devices[device] = b
	}
	b.next, b.pending = *next, given
}
