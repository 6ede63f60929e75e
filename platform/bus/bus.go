package bus

import (
	"context"
	"errors"
)

// ErrUnavailable is returned while the engine can not be reached. The engine did not or may not have taken the message;
// readers read the database.
var ErrUnavailable = errors.New("the bus is unavailable")

// ErrClosed is returned after Close.
var ErrClosed = errors.New("the bus is closed")

// Message is one hint. Data is shared after Publish: it must not be changed.
type Message struct {
	Topic string
	Data  []byte
}

// Bus carries short messages between the processes of a fleet: at most once, in order per publisher.
// It does not promise that a message arrives.
type Bus interface {
	// Publish returns after the engine took all messages; they travel together. While the engine is
	// unreachable it fails at once with ErrUnavailable.
	Publish(ctx context.Context, msgs ...Message) error

	// Subscribe hands every message of the topic to fn, one after the other. Messages published after
	// Subscribe returned arrive while Connected. fn runs where messages are received: it must not block
	// and must not call Publish, Subscribe or Barrier; it may call cancel. No call of fn begins after
	// cancel returned.
	Subscribe(topic string, fn func(Message)) (cancel func())

	// Barrier returns after every message whose Publish returned, in any process, before Barrier was
	// called has been handed to this process's subscribers. Messages lost with a connection do not
	// count: the functions of OnReconnect have run by then.
	Barrier(ctx context.Context) error

	// Connected tells whether messages flow now.
	Connected() bool

	// Server identifies the server that carries the messages now, or did last. Processes at different servers do not receive each other's
	// messages, although each is Connected. "" when that is not known. It changes before the functions of OnReconnect run.
	Server() string

	// OnReconnect runs fn after every connection made from now on, since messages may have been lost.
	// It runs before Connected is true and a Barrier can succeed. fn must not block.
	OnReconnect(fn func()) (cancel func())

	// Close ends the bus. Calls that wait return ErrClosed.
	Close() error
}
