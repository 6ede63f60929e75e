package presence

import (
	"testing"

	"lyceum/rooms/roomstest"
)

const api = roomstest.API

type obj = map[string]any

// node is a process with the package and what it stands on.
type node struct {
	*Presence
	*roomstest.Node
}

func wire(t testing.TB, on *roomstest.Node) *node {
	t.Helper()
	p := New(Deps{Process: on.Process, Rooms: on.Rooms, Now: on.Clock.Now}, Config{Enabled: true})
	on.Serve(t, p.Routes()...)
	return &node{p, on}
}

func run(t *testing.T, body func(t *testing.T, n *node)) {
	t.Helper()
	roomstest.Run(t, wire, body, Migrations())
}

func fleet(t *testing.T, body func(t *testing.T, one, two *node, stopTwo func())) {
	t.Helper()
	roomstest.Fleet(t, wire, body, Migrations())
}
