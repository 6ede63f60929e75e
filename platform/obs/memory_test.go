package obs

import "testing"

func TestGrowth(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		live, scanned uint64
		want          int
	}{
		{0, 0, mostGrowth},
		{8 * mib, 8 * mib, mostGrowth},
		{16 * mib, 16 * mib, 200},
		{32 * mib, 32 * mib, 100},
		{64 * mib, 64 * mib, 50},
		{1 << 30, 1 << 30, 50},
		{1 << 40, 1 << 40, 50},
		{320 * mib, 20 * mib, 10}, // texts for slow readers
		{1 << 30, 256 * mib, 25},
		{1 << 40, 0, 1},
	} {
		if got := growth(c.live, c.scanned); got != c.want {
			t.Errorf("%d bytes live, %d with pointers: expected %d, found %d", c.live, c.scanned, c.want, got)
		}
	}
}
