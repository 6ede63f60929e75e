package accounts

import (
	"context"
	"fmt"
	"sync"

	"lyceum/matrix"
)

// Limits of the account data of a user, of all rooms together, since all of it is kept in memory and sent in one response.
const (
	maxDataBytes = 4 << 20
	maxDataItems = 20_000
)

// quota counts the writes that are under way, so that requests at the same time do not exceed the limits together.
type quota struct {
	mu      sync.Mutex
	pending map[string]usage
}

type usage struct{ bytes, items int }

// reserve checks that a piece fits into the quota, and reserves its place until done is called. A piece that does not grow always
// fits. Errors: M_TOO_LARGE.
func (a *Accounts) reserve(ctx context.Context, userID string, datum *AccountDatum) (done func(), err error) {
	var has, grow usage
	err = a.accountData.view(ctx, userID, func(u *userData) {
		has = usage{u.bytes, len(u.data)}
		if old := u.data[dataKey{datum.RoomID, datum.Type}]; old != nil {
			grow = usage{len(datum.Content) - len(old.Content), 0}
		} else {
			grow = usage{len(datum.Content) + len(datum.Type) + len(datum.RoomID), 1}
		}
	})
	if err != nil || grow.bytes <= 0 && grow.items == 0 {
		return func() {}, err
	}
	q := &a.accountData.quota
	q.mu.Lock()
	defer q.mu.Unlock()
	p := q.pending[userID]
	p.bytes, p.items = p.bytes+grow.bytes, p.items+grow.items
	if has.bytes+p.bytes > maxDataBytes || has.items+p.items > maxDataItems {
		return nil, matrix.TooLarge(
			fmt.Sprintf("Your account data together may have %d bytes in %d pieces: make others smaller first", maxDataBytes, maxDataItems),
		)
	}
	q.pending[userID] = p
	return func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		p := q.pending[userID]
		p.bytes, p.items = p.bytes-grow.bytes, p.items-grow.items
		if q.pending[userID] = p; p == (usage{}) {
			delete(q.pending, userID)
		}
	}, nil
}
