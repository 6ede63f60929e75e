package fleet_test

import (
	"testing"

	"lyceum/fleet"
)

func TestFreePortsAreNotThoseOfOutgoingConnections(t *testing.T) {
	for range 50 {
		port, err := fleet.FreePort()
		if err != nil || port < 1024 || port >= 32768 {
			t.Fatalf("port %d, %v", port, err)
		}
	}
}
