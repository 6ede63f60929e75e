package fleettest_test

import (
	"os"
	"strconv"
	"time"
)

// chosenSeed is the seed given in LYCEUM_CHAOS_SEED, or one of the time.
func chosenSeed() uint64 {
	if seed, err := strconv.ParseUint(os.Getenv("LYCEUM_CHAOS_SEED"), 10, 64); err == nil {
		return seed
	}
	return uint64(time.Now().UnixNano())
}
