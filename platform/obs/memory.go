package obs

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// What may be allocated between two collections: much where little lives, since a collection of a small heap costs little
// but would come many times a second; little where much lives, since it is memory that a server pays for.
const (
	heapRoom    = 32 << 20
	leastGrowth = 50 // percent of what lives
	mostGrowth  = 400
)

// TuneCollector adapts the collector to what lives on the heap until ctx ends. Whoever sets GOGC decides alone. A
// GOMEMLIMIT stays in force.
func TuneCollector(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	set := 100
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		metrics.Read(live)
		if n := growth(live[0].Value.Uint64()); n > set*5/4 || n < set*4/5 {
			set = n
			debug.SetGCPercent(n)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// growth is the value of GOGC for so many living bytes.
func growth(live uint64) int {
	return int(min(max(100*heapRoom/max(live, 1), leastGrowth), mostGrowth))
}
