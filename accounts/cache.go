package accounts

import "sync/atomic"

// secondChanceCache is a bounded map. When it is full it evicts an entry that was not read since the previous search for a victim
// (second chance). The owner locks it: get may run under a read lock, the other methods need the write lock.
//
// It is not otter, which evicts in the background: the index of tokens by user and the bytes of account data would not match the
// cache under the owner's lock, and a read costs three times as much (BenchmarkErased).
type secondChanceCache[K comparable, V any] struct {
	max     int
	entries map[K]*cacheEntry[V]
}

type cacheEntry[V any] struct {
	value V
	read  atomic.Bool
}

func newSecondChanceCache[K comparable, V any](size int) *secondChanceCache[K, V] {
	return &secondChanceCache[K, V]{max: max(1, size), entries: map[K]*cacheEntry[V]{}}
}

func (r *secondChanceCache[K, V]) get(k K) (v V, ok bool) {
	e, ok := r.entries[k]
	if !ok {
		return v, false
	}
	if !e.read.Load() { // writing only changes keeps the cache line shared between processors
		e.read.Store(true)
	}
	return e.value, true
}

// put stores a value and returns the entry that it evicted, if any.
func (r *secondChanceCache[K, V]) put(k K, v V) (oldKey K, old V, pushed bool) {
	if e, ok := r.entries[k]; ok {
		e.value = v
		return oldKey, old, false
	}
	if len(r.entries) >= r.max {
		oldKey, old, pushed = r.evict()
	}
	r.entries[k] = &cacheEntry[V]{value: v}
	return oldKey, old, pushed
}

func (r *secondChanceCache[K, V]) evict() (k K, v V, ok bool) {
	for range 2 { // the first round may only clear the marks
		for k, e := range r.entries {
			if e.read.Swap(false) {
				continue
			}
			delete(r.entries, k)
			return k, e.value, true
		}
	}
	return k, v, false
}

func (r *secondChanceCache[K, V]) delete(k K) { delete(r.entries, k) }
