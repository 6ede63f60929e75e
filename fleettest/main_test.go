package fleettest_test

import (
	"testing"

	"lyceum/fleettest"
)

func TestMain(m *testing.M) { fleettest.Main(m) }
