package receipts

import (
	"testing"

	"lyceum/rooms/roomstest"
)

const api = roomstest.API

type obj = map[string]any

// node is a process with the package and what it stands on.
type node struct {
	*Receipts
	*roomstest.Node
}

func wire(t testing.TB, on *roomstest.Node) *node {
	t.Helper()
	r := New(Deps{Process: on.Process, Accounts: on.Accounts, Rooms: on.Rooms, Now: on.Clock.Now})
	on.Serve(t, r.Routes()...)
	return &node{r, on}
}

func run(t *testing.T, body func(t *testing.T, n *node)) {
	t.Helper()
	roomstest.Run(t, wire, body, Migrations())
}

func fleet(t *testing.T, body func(t *testing.T, one, two *node, stopTwo func())) {
	t.Helper()
	roomstest.Fleet(t, wire, body, Migrations())
}
