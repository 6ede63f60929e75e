package push

import (
	"net/netip"
	"testing"

	"lyceum/receipts"
	"lyceum/rooms/roomstest"
)

const api = roomstest.API

type obj = map[string]any

// node is a process with the package and what it stands on.
type node struct {
	*Push
	*roomstest.Node
}

func wire(t testing.TB, on *roomstest.Node) *node {
	t.Helper()
	rc := receipts.New(receipts.Deps{Process: on.Process, Accounts: on.Accounts, Rooms: on.Rooms})
	p, err := New(Deps{Process: on.Process, Accounts: on.Accounts, Rooms: on.Rooms, Receipts: rc}, Config{
		CountCache: 1000, RuleCache: 100, AllowPrivate: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, AllowHTTP: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	on.Serve(t, p.Routes()...)
	return &node{p, on}
}

func run(t *testing.T, body func(t *testing.T, n *node)) {
	t.Helper()
	roomstest.Run(t, wire, body, receipts.Migrations(), Migrations())
}

func fleet(t *testing.T, body func(t *testing.T, one, two *node, stopTwo func())) {
	t.Helper()
	roomstest.Fleet(t, wire, body, receipts.Migrations(), Migrations())
}
