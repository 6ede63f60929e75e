package state

import (
	"context"

	"github.com/maypok86/otter/v2"
)

// Store reads nodes and keeps those in memory that are used: a node never changes.
type Store struct {
	loader Loader
	cache  *otter.Cache[ID, *node]
}

// NewStore makes a Store that keeps at most about so many bytes of nodes.
func NewStore(loader Loader, bytes uint64) *Store {
	return &Store{loader, otter.Must(&otter.Options[ID, *node]{MaximumWeight: bytes, Weigher: func(_ ID, n *node) uint32 { return n.size() }})}
}

// size is about what a node takes in memory, in bytes.
func (n *node) size() uint32 {
	size := 96 + 32*len(n.children)
	for _, e := range n.entries {
		size += 48 + len(e.Type) + len(e.StateKey) + len(e.EventID)
	}
	return uint32(size)
}

// load gives all nodes of some ids, or an error that names one that is missing.
func (s *Store) load(ctx context.Context, ids []ID) (map[ID]*node, error) {
	out := make(map[ID]*node, len(ids))
	var missing []ID
	for _, id := range ids {
		if n, ok := s.cache.GetIfPresent(id); ok {
			out[id] = n
		} else {
			missing = append(missing, id)
		}
	}
	if len(missing) == 0 {
		return out, nil
	}
	texts, err := s.loader.LoadNodes(ctx, missing)
	if err != nil {
		return nil, err
	}
	for _, id := range missing {
		n, err := decode(id, texts[id])
		if err != nil {
			return nil, err
		}
		s.cache.Set(id, n)
		out[id] = n
	}
	return out, nil
}
