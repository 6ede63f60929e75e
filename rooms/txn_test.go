package rooms

import (
	"fmt"
	"testing"

	"lyceum/matrix/event"
	"lyceum/platform/stream"
	"lyceum/rooms/state"
)

// TestTransactionsAreKnownUntilTheyAreStored: while its event is queued, nothing but memory can answer a retry, however many
// newer ones there are.
func TestTransactionsAreKnownUntilTheyAreStored(t *testing.T) {
	for _, queued := range []bool{false, true} {
		rm := &room{keep: 2, txns: recentTxns{keep: 3}}
		rm.begin(event.Version{}, state.Tree{})
		var ticket *stream.Ticket // nil: it is stored
		if queued {
			ticket = &stream.Ticket{}
		}
		for n := range 10 {
			rm.apply(&Event{Event: &event.Event{ID: fmt.Sprint("$", n)}, Txn: fmt.Sprint("t", n)}, rm.tree, ticket)
		}
		if got := rm.txns.get(txnKey("", "", "t0")); queued != (got == "$0") {
			t.Errorf("queued %t: the first of 10 transactions, of which 3 are kept, is %q", queued, got)
		}
		if got := rm.txns.get(txnKey("", "", "t9")); got != "$9" {
			t.Errorf("queued %t: the last of 10 transactions is %q", queued, got)
		}
	}
}
