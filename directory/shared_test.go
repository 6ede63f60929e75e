package directory

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"

	"lyceum/platform/caller"
)

// TestOneReadingServesAllWhoWait: many ask, few read, and nobody gets what was read before the question.
func TestOneReadingServesAllWhoWait(t *testing.T) {
	var s sharedRead[int64]
	var runs, now, open atomic.Int64
	read := func(context.Context) (int64, error) {
		if open.Add(1) > 1 {
			t.Error("two readings at once")
		}
		defer open.Add(-1)
		runs.Add(1)
		value := now.Load()
		for range 1000 { // let others ask meanwhile
			value += 0 * runs.Load()
		}
		return value, nil
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 500 {
				asked := now.Add(1)
				if got, err := s.do(t.Context(), read); err != nil || got < asked {
					t.Errorf("asked at %d, got %d, %v", asked, got, err)
				}
			}
		})
	}
	wg.Wait()
	t.Logf("%d questions, %d readings", 8*500, runs.Load())
}

// TestASharedReadingIsNobodys: else all who wait for it would wait behind what the first of them asks for besides.
func TestASharedReadingIsNobodys(t *testing.T) {
	var s sharedRead[bool]
	ctx := caller.NewWork(t.Context(), caller.ID{User: "@alice:example.org"})
	nobodys, err := s.do(ctx, func(ctx context.Context) (bool, error) { return caller.Of(ctx) == nil, nil })
	if err != nil || !nobodys {
		t.Error("it is read for the first who asks", err)
	}
}
