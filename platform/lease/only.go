package lease

import (
	"context"
	"time"

	"lyceum/platform/db"
)

// The only member of the fleet asks nobody before it reads, and publishes nothing (design/020). It stores a claim in its row,
// and relies on it only with a view that began after the claim was stored. A process that joins registers first and then
// reads the claims of the others. So one of the two sees the other.
//
// The claim is in column shares of machines: the incarnation of a process that claims nothing, another number for a claim.

// SetRequired names the leases that the only member must have: while another process may have one of them,
// IsOnlyMember is false.
func (l *Leases) SetRequired(names ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.required, l.noOthers, l.claim = names, false, 0
}

// IsOnlyMember reports whether no other process is registered or can become so unnoticed, and this one had all required leases
// at the time of the view: no other process acknowledges a write or reads one.
func (l *Leases) IsOnlyMember() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.opts.Embedded || l.claim != 0 && l.viewAt.After(l.claimedAt) && l.couldBeOnlyMember()
}

// couldBeOnlyMember holds the conditions of IsOnlyMember except for the stored claim; the caller holds mu.
func (l *Leases) couldBeOnlyMember() bool {
	return l.noOthers && time.Since(l.viewAt) < l.claimViewTTL() && time.Since(l.heartbeatAt) < l.opts.TTL &&
		time.Since(l.clockJumpedAt) > l.opts.TTL
}

// claimViewTTL is how long a view may be used to say that there is no other process.
func (l *Leases) claimViewTTL() time.Duration { return l.opts.TTL / 3 }

// storeClaim stores whether this process claims to be the only member, when its row says something else.
func (l *Leases) storeClaim(ctx context.Context) error {
	l.mu.Lock()
	self, stored, claim := l.self, l.storedClaim, l.claim
	could, known := l.couldBeOnlyMember(), l.knownToAll()
	l.mu.Unlock()
	if l.opts.Embedded || !known || claim != 0 || !could && stored == self.Incarnation {
		return nil
	}
	newClaim := self.Incarnation
	if could {
		newClaim = -time.Now().UnixNano() // differs each time, so that a late statement does not end the claim
	}
	n, err := l.db.Exec(ctx, "UPDATE machines SET shares = $1 WHERE id = $2 AND incarnation = $3 AND shares = $4", newClaim, int64(self.ID),
		self.Incarnation, stored)
	if err != nil || n == 0 {
		return err // the next view shows what is stored
	}
	l.mu.Lock()
	if l.storedClaim = newClaim; could {
		l.claim, l.claimedAt = newClaim, time.Now()
	}
	l.mu.Unlock()
	if could {
		return l.Refresh(ctx)
	}
	return nil
}

// noteJoined records that another process may believe to be the only member, and so may not publish its writes. This
// process makes its own claim anew. The caller holds mu.
func (l *Leases) noteJoined() {
	l.joinedAt, l.anyDegraded = time.Now(), true
	l.knownToAllAt, l.claim = l.joinedAt.Add(l.claimViewTTL()), 0
}

// knownToAll reports whether every process must have seen this one; the caller holds mu.
func (l *Leases) knownToAll() bool {
	return l.opts.Embedded || time.Now().After(l.knownToAllAt) && time.Since(l.heartbeatAt) < l.ViewTTL()
}

// heartbeatUnlessKnown reports whether every process must have seen this one. If not, it sends a heartbeat when the last
// one is old, and reads whether another process claims to be the only member: if none does, all have seen this one, or
// will see it before they make that claim.
func (l *Leases) heartbeatUnlessKnown(ctx context.Context) (bool, error) {
	l.mu.Lock()
	known, old := l.knownToAll(), time.Since(l.heartbeatAt) >= l.ViewTTL()/2
	l.mu.Unlock()
	if known {
		return true, nil
	}
	if old {
		if err := l.heartbeat(ctx); err != nil {
			return false, err
		}
	}
	l.mu.Lock()
	self, joined, mustAsk := l.self, l.joinedAt, l.storedClaim != 0 && time.Now().Before(l.knownToAllAt)
	l.mu.Unlock()
	var somebodyClaims bool
	if mustAsk {
		now, err := l.now(ctx, l.db)
		if err != nil {
			return false, err
		}
		// Machines that seem to have died recently count too: the clock may have jumped.
		err = l.db.QueryRow(ctx, "SELECT EXISTS (SELECT 1 FROM machines WHERE shares <> incarnation AND incarnation <> $1 AND (expires_ms > "+
			"$2 OR expires_ms <> 0 AND "+l.sessionLockHeld()+"))",
			self.Incarnation, now-recentlySeen.Milliseconds()).Scan(&somebodyClaims)
		if err != nil {
			return false, err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if mustAsk && !somebodyClaims && joined.Equal(l.joinedAt) {
		l.knownToAllAt = time.Now()
	}
	return l.knownToAll(), nil
}

// WaitUntilKnown returns when every process must have seen this one, so that it may take leases.
func (l *Leases) WaitUntilKnown(ctx context.Context) error {
	for announced := false; ; {
		known, err := l.heartbeatUnlessKnown(ctx)
		if known || err != nil && !db.IsUnavailable(err) {
			return err
		}
		if !announced {
			l.announce() // the only member reads the view and ends its claim
			announced = true
		}
		l.mu.Lock()
		wait := time.Until(l.knownToAllAt)
		l.mu.Unlock()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(min(wait+time.Millisecond, l.opts.TTL/60)):
		}
	}
}
