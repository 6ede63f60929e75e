package syncapi

// waiter is a request that waits for a signal of its user. Its fields are guarded by the user's mu.
type waiter struct {
	user           *user
	wake           func()
	previous, next *waiter
	queued         bool // it is in the list user.waiting
	stopped        bool
}

// signal wakes the requests of the user that wait.
func (u *user) signal() {
	u.signals.Add(1)
	if u.requests.Load() == 0 {
		return
	}
	u.mu.Lock()
	first := u.waiting
	u.waiting = nil
	for w := first; w != nil; w = w.next { // the list now belongs to this call: dequeue does not touch it any more
		w.queued = false
	}
	u.mu.Unlock()
	for w := first; w != nil; w = w.next {
		w.wake()
	}
}

// await calls wake at the first signal after the given count of user.signals, unless stop is called before. wake must not block.
func (u *user) await(signals uint64, wake func()) (stop func()) {
	w := &waiter{user: u, wake: wake, queued: true}
	// First the waiter is counted and queued, then the signals are read: a signal at the same time either finds the waiter or is seen.
	u.requests.Add(1)
	u.mu.Lock()
	if w.next = u.waiting; w.next != nil {
		w.next.previous = w
	}
	u.waiting = w
	u.mu.Unlock()
	if u.signals.Load() != signals {
		u.mu.Lock()
		was := w.dequeue()
		u.mu.Unlock()
		if was {
			wake()
		}
	}
	return w.stop
}

// dequeue takes a waiter out of the list. It reports whether it was there. The caller holds the user's mu.
func (w *waiter) dequeue() (was bool) {
	if !w.queued {
		return false
	}
	w.queued = false
	if w.next != nil {
		w.next.previous = w.previous
	}
	if w.previous != nil {
		w.previous.next = w.next
	} else {
		w.user.waiting = w.next
	}
	return true
}

func (w *waiter) stop() {
	w.user.mu.Lock()
	defer w.user.mu.Unlock()
	w.dequeue()
	if !w.stopped {
		w.stopped = true
		w.user.requests.Add(-1)
	}
}
