package up_test

import (
	"testing"

	"lyceum/ops/up"
)

func TestFreePortsAreNotThoseOfOutgoingConnections(t *testing.T) {
	for range 50 {
		port, err := up.FreePort()
		if err != nil || port < 1024 || port >= 32768 {
			t.Fatalf("port %d, %v", port, err)
		}
	}
}

// Who has a port may not listen yet when the next one asks.
func TestFreePortsAreDifferent(t *testing.T) {
	given := map[int]bool{}
	for range 1000 {
		port, err := up.FreePort()
		if err != nil || given[port] {
			t.Fatalf("port %d was given out before, or %v", port, err)
		}
		given[port] = true
	}
}
