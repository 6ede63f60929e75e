package obs

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// Bounds of what may be allocated between two garbage collections. On a small heap it is much, since collections would otherwise run many
// times a second; on a large heap it is little, since it costs memory. The cost of a collection is the memory that it scans for pointers.
// Texts held for slow readers are not scanned, so they allow no more.
const (
	heapRoom   = 32 << 20
	mostGrowth = 400 // percent of what lives
)

// TuneCollector adapts the garbage collector to the live heap, after each collection, until ctx ends. It does nothing when GOGC is set. A
// GOMEMLIMIT stays in force.
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

// growth is the value of GOGC for a number of live bytes, and of bytes that are scanned for pointers.
func growth(live, scanned uint64) int {
	room := max(heapRoom, min(live/2, scanned))
	return int(min(max(100*room/max(live, 1), 1), mostGrowth))
}
