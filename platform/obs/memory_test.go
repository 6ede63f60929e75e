package obs

import "testing"

func TestGrowth(t *testing.T) {
	for _, c := range []struct {
		live uint64
		want int
	}{{0, mostGrowth}, {8 << 20, mostGrowth}, {16 << 20, 200}, {32 << 20, 100}, {64 << 20, leastGrowth}, {1 << 30, leastGrowth}, {1 << 40, leastGrowth}} {
		if got := growth(c.live); got != c.want {
			t.Errorf("%d bytes live: expected %d, found %d", c.live, c.want, got)
		}
	}
}
