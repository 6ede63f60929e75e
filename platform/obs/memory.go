package obs

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// What may be allocated between two collections: much where little lives, since a collection of a small heap costs little
// but would come many times a second; little where much lives, since it is memory that a server pays for. What a collection costs is
// what it has to look through for pointers: texts that are held for slow readers are not, and give no reason for more room.
const (
	heapRoom   = 32 << 20
	mostGrowth = 400 // percent of what lives
)

// TuneCollector adapts the collector to what lives on the heap, after each collection, until ctx ends. Whoever sets GOGC
// decides alone. A GOMEMLIMIT stays in force.
func TuneCollector(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	heap := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/heap:bytes"}}
	set := 100
	collected := make(chan struct{}, 1)
	for {
		runtime.AddCleanup(new([32]byte), func(to chan struct{}) { to <- struct{}{} }, collected) // garbage of the next collection
		metrics.Read(heap)
		if n := growth(heap[0].Value.Uint64(), heap[1].Value.Uint64()); n > set*5/4 || n < set*4/5 {
			set = n
			debug.SetGCPercent(n)
		}
		select {
		case <-ctx.Done():
			return
		case <-collected:
		}
	}
}

// growth is the value of GOGC for so many living bytes, and so many to be looked through.
func growth(live, scanned uint64) int {
	room := max(heapRoom, min(live/2, scanned))
	return int(min(max(100*room/max(live, 1), 1), mostGrowth))
}
