package db

import "sync"

// recent keeps between max and 2·max of the values that were asked for last. It is safe for concurrent use.
type recent[K comparable, V any] struct {
	max          int
	mu           sync.Mutex
	young, aging map[K]V
}

// get gives the value of a key, made anew when it is not kept.
func (r *recent[K, V]) get(key K, compute func() V) V {
	r.mu.Lock()
	defer r.mu.Unlock()
	v, ok := r.young[key]
	if ok {
		return v
	}
	if v, ok = r.aging[key]; !ok {
		v = compute()
	}
	if len(r.young) >= r.max || r.young == nil {
		r.young, r.aging = make(map[K]V, r.max), r.young
	}
	r.young[key] = v
	return v
}

func (r *recent[K, V]) len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.young) + len(r.aging)
}
