package owned_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"lyceum/platform/owned"
	"lyceum/platform/stream"
)

// A key that must be seen, as somebody types, is seen again when the row that ends that is refused: what is stored of it has not changed.
func TestAKeyWhoseEndWasRefusedIsSeenAgain(t *testing.T) {
	change := func(spec *owned.Spec[int64]) {
		spec.Pinned = func(s *int64) bool { return *s == 1 }
		spec.Active = func(context.Context, int) ([]string, error) { return nil, nil }
	}
	run(t, change, func(t *testing.T, s *sums) {
		if _, err := s.add(t.Context(), "k", "begins"); err != nil {
			t.Fatal(err)
		}
		each := func(step string) (seen int, err error) {
			err = s.owned.Each(t.Context(), s.stream.Shard("k"), func(key string, c *owned.Change[int64]) error {
				if seen++; *c.State() == 1 {
					c.Append(func(now *int64, _ *stream.Ticket) { *now = 2 }, s.entry(key, 2, step))
				}
				return nil
			})
			return seen, err
		}
		s.bad["ends"] = true
		if seen, err := each("ends"); seen != 1 || err == nil {
			t.Fatalf("seen %d times, %v", seen, err)
		}
		if seen, err := each("ends again"); seen == 0 || err != nil {
			t.Errorf("seen %d times, %v", seen, err)
		}
		if _, err := each(""); err != nil { // it looks once more when the row is stored
			t.Error(err)
		}
		if seen, err := each(""); seen != 0 || err != nil {
			t.Errorf("seen %d times behind its end, %v", seen, err)
		}
	})
}

// A function that panics ends its own call only: web and rpc go on behind it.
func TestAPanicIsOfOneCall(t *testing.T) {
	for what, c := range map[string]func(s *sums, c *owned.Change[int64]) error{
		"in what is needed": func(_ *sums, c *owned.Change[int64]) error {
			return c.Need(func(context.Context) (func(*int64), error) { panic("a defect") })
		},
		"in the change": func(s *sums, c *owned.Change[int64]) error {
			e := s.entry("k", 1, "half")
			e.Seal = func() {}
			c.Append(func(now *int64, _ *stream.Ticket) {
				*now = 7
				panic("a defect")
			}, e)
			return nil
		},
		"in a change without rows": func(_ *sums, c *owned.Change[int64]) error {
			c.Append(func(now *int64, _ *stream.Ticket) {
				*now = 7
				panic("a defect")
			})
			return nil
		},
		"in the seal": func(s *sums, c *owned.Change[int64]) error {
			e := s.entry("k", 1, "half")
			e.Seal = func() { panic("a defect") }
			c.Append(func(now *int64, _ *stream.Ticket) { *now = 1 }, e)
			return nil
		},
	} {
		t.Run(what, func(t *testing.T) {
			run(t, nil, func(t *testing.T, s *sums) {
				ended := make(chan any, 1)
				go func() {
					defer func() { ended <- recover() }()
					_ = s.owned.Do(t.Context(), "k", func(change *owned.Change[int64]) error { return c(s, change) })
				}()
				select {
				case fault := <-ended:
					if fault == nil {
						t.Error("it did not panic")
					}
				case <-time.After(10 * time.Second):
					t.Fatal("the call that panicked does not end")
				}
				ctx, end := context.WithTimeout(t.Context(), 10*time.Second)
				defer end()
				other := "other"
				for s.stream.Shard(other) != s.stream.Shard("k") {
					other += "!"
				}
				for _, key := range []string{"k", other} {
					sum, err := s.add(ctx, key, "goes on")
					if errors.Is(err, stream.ErrAborted) { // as role.Owned does
						sum, err = s.add(ctx, key, "goes on")
					}
					if sum != 1 || err != nil {
						t.Errorf("%s: found %d, %v", key, sum, err)
					}
				}
				var n int
				if err := s.d.QueryRow(ctx, "SELECT COUNT(*) FROM sums WHERE step = 'half'").Scan(&n); err != nil || n != 0 {
					t.Errorf("%d rows of the change are stored, %v", n, err)
				}
			})
		})
	}
}
