package rooms

import (
	"context"
	"sync/atomic"

	"github.com/maypok86/otter/v2"

	"lyceum/matrix"
	"lyceum/platform/stream"
	"lyceum/platform/web"
)

// suspension remembers who is suspended, so that sending needs no database for it. The stream of sessions
// tells of changes.
type suspension struct {
	cache   *otter.Cache[string, bool]
	changes atomic.Int64
}

func newSuspension() *suspension {
	return &suspension{cache: otter.Must(&otter.Options[string, bool]{MaximumSize: 20_000})}
}

func (s *suspension) tail(rows []stream.Row) {
	for _, row := range rows {
		s.changes.Add(1)
		s.cache.Invalidate(row.Key)
	}
}

// mayAct refuses suspended users with M_USER_SUSPENDED (Client-Server API, "Account suspension").
func (r *Rooms) mayAct(q *web.Request) error {
	suspended, err := r.suspended(q.Context(), q.UserID())
	if err == nil && suspended {
		err = matrix.UserSuspended("Your account is suspended: you can read and leave rooms only")
	}
	return err
}

func (r *Rooms) suspended(ctx context.Context, userID string) (bool, error) {
	s := r.suspension
	if yes, ok := s.cache.GetIfPresent(userID); ok {
		return yes, nil
	}
	before := s.changes.Load()
	yes, err := r.Accounts.Suspended(ctx, userID)
	if err == nil && s.changes.Load() == before {
		s.cache.Set(userID, yes)
		if s.changes.Load() != before { // it changed while it was stored
			s.cache.Invalidate(userID)
		}
	}
	return yes, err
}
