package typing

import (
	"testing"

	"lyceum/rooms/roomstest"
)

const api = roomstest.API

type obj = map[string]any

// node is a process with the package and what it stands on.
type node struct {
	*Typing
	*roomstest.Node
}

func wire(t testing.TB, on *roomstest.Node) *node {
	t.Helper()
	x := New(Deps{Process: on.Process, Rooms: on.Rooms, Now: on.Clock.Now})
	on.Serve(t, x.Routes()...)
	return &node{x, on}
}

func run(t *testing.T, body func(t *testing.T, n *node)) {
	t.Helper()
	roomstest.Run(t, wire, body, Migrations())
}

func fleet(t *testing.T, body func(t *testing.T, one, two *node, stopTwo func())) {
	t.Helper()
	roomstest.Fleet(t, wire, body, Migrations())
}
