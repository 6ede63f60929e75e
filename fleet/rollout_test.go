package fleet

import (
	"fmt"
	"strings"
	"testing"

	"lyceum/platform/obs"
)

// TestOwnersAreUpgradedFirst, and are the last that go back.
func TestOwnersAreUpgradedFirst(t *testing.T) {
	groups := []string{"router+client+media", "events", "sync+push", "receipts+typing", "events"}
	for to, want := range map[string]string{
		"0.2.0": "events 1, receipts+typing 3, events 4, sync+push 2, router+client+media 0",
		"0.1.0": "events 1, receipts+typing 3, events 4, sync+push 2, router+client+media 0",
		"0.0.9": "router+client+media 0, sync+push 2, events 1, receipts+typing 3, events 4",
	} {
		var children []ChildState
		for machine, group := range groups {
			children = append(children, ChildState{Group: group, Machine: machine})
		}
		v, err := obs.ParseVersion(to)
		if err != nil {
			t.Fatal(err)
		}
		inOrder(children, "0.1.0", v)
		var got []string
		for _, c := range children {
			got = append(got, fmt.Sprint(c.Group, " ", c.Machine))
		}
		if found := strings.Join(got, ", "); found != want {
			t.Errorf("to %s: expected %s, found %s", to, want, found)
		}
	}
}
