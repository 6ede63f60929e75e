package rooms

import (
	"errors"
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
		rm := &room{maxRecent: 2, txns: recentTxns{keep: 3}}
		rm.init(event.Version{}, state.Tree{})
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

// TestARefusedTransactionMayComeAgain: what a full queue refuses changes nothing, also not what is known of its transaction.
func TestARefusedTransactionMayComeAgain(t *testing.T) {
	ctx := t.Context()
	gate, p, r := behindGate(t, 3)
	const alice = "@alice:example.org"
	id := openBehind(t, gate, p, r, alice)
	gate.Shut()
	const senders = 40
	refused, sent := make(chan string, senders), make(chan error, senders)
	for n := range senders {
		go func() {
			text := fmt.Sprint("message ", n)
			_, err := r.Send(ctx, id, message(alice, text))
			var busy *stream.BusyError
			if errors.As(err, &busy) {
				refused <- text
				err = nil
			}
			sent <- err
		}()
	}
	again := []string{<-refused, <-refused}
	for _, text := range again {
		var busy *stream.BusyError
		if _, err := r.Send(ctx, id, message(alice, text)); !errors.As(err, &busy) {
			t.Errorf("a retry while the queue is full: %v", err)
		}
	}
	gate.Open()
	for range senders {
		if err := <-sent; err != nil {
			t.Error(err)
		}
	}
	stored := map[string]bool{}
	for _, text := range append(again, again...) {
		event, err := r.Send(ctx, id, message(alice, text))
		if err != nil {
			t.Fatal(err)
		}
		if e, err := r.Event(ctx, event); err != nil || e.Txn != "" && e.Txn != text {
			t.Errorf("%v, %v", e, err)
		}
		stored[event] = true
	}
	if len(stored) != len(again) {
		t.Errorf("%d retries are %d events", len(again), len(stored))
	}
}
