package stream

import "context"

// Basis is the state of a key, as its owner knows it, upon which entries are built. It ends with the ownership under
// which it was made, and when one of its entries is not written: then the other entries built upon it are not written
// either.
type Basis struct {
	st      *Stream
	shard   int
	epoch   int64
	dead    bool // under Streams.mu, as is pending
	pending int  // tickets whose outcome is not known yet
}

// Basis makes a basis for a key. What is read from the database after the call is current while the basis is alive.
// The error is ErrNotOwner.
func (st *Stream) Basis(key string) (*Basis, error) {
	shard := st.Shard(key)
	epoch, ok := st.Ownership(shard)
	if !ok {
		return nil, ErrNotOwner
	}
	return &Basis{st: st, shard: shard, epoch: epoch}, nil
}

// Alive tells whether the shard has been owned since the basis was made, and every entry built upon it was written or
// still may be.
func (b *Basis) Alive() bool {
	b.st.streams.mu.Lock()
	defer b.st.streams.mu.Unlock()
	return b.aliveLocked()
}

func (b *Basis) aliveLocked() bool { return !b.dead && b.st.shards[b.shard].heldSince(b.epoch) }

// Idle tells that no entry built upon the basis waits to be decided.
func (b *Basis) Idle() bool {
	b.st.streams.mu.Lock()
	defer b.st.streams.mu.Unlock()
	return b.pending == 0
}

// Enqueue queues entries that are built upon the basis: see Streams.Enqueue.
func (b *Basis) Enqueue(entries ...*Entry) (*Ticket, error) {
	return b.st.streams.Enqueue(b, entries...)
}

// Confirm returns when it is certain that the basis was alive after the call began, so that no other process had
// written for its key: then an answer from memory, without a write, is correct. It costs one statement, shared by
// concurrent callers, and nothing in a process that is alone.
func (b *Basis) Confirm(ctx context.Context) error {
	s := b.st.streams
	if !s.opts.Leases.Embedded() {
		held, err := s.leaseReads.Wait(ctx)
		if err != nil {
			return err
		}
		self, h := s.opts.Leases.Self(), held[b.st.leases[b.shard]]
		if h.Machine != self.ID || h.Incarnation != self.Incarnation {
			s.opts.Leases.Wake()
			return ErrNotOwner
		}
	}
	if !b.Alive() {
		return ErrNotOwner
	}
	return nil
}
