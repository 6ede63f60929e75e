package accounts

import (
	"context"
	"encoding/json"
	"sync"

	"lyceum/platform/caller"
	"lyceum/platform/db"
	"lyceum/platform/stream"
)

// accountDataCache remembers the account data of users, always all of a user, and follows the stream "account_data".
type accountDataCache struct {
	db     *db.DB
	stream *stream.Stream

	mu     sync.RWMutex
	users  *secondChanceCache[string, *userData]
	budget int64 // bytes that all users may take together
	bytes  int64 // bytes that all users take

	quota  quota
	writes [16]sync.Mutex // by shard: held from the read to the write of a change, see beginChange
}

// userData is the account data of one user. Its fields are guarded by accountDataCache.mu.
type userData struct {
	ready         chan struct{} // closed when loading ended
	loaded        bool
	loadErr       error
	data          map[dataKey]*AccountDatum // while loading: what came from the stream
	bytes         int                       // of data, as counted for the quota
	weightCounted int64                     // the part of accountDataCache.bytes that this user is counted with
	newest        int64
	ignored       map[string]bool // parsed m.ignored_user_list; nil until it is asked for

	ignoredBytes int64 // weight of ignored
}

func newAccountDataCache(d *db.DB, size int, budget int64) *accountDataCache {
	return &accountDataCache{
		db: d, users: newSecondChanceCache[string, *userData](size), budget: budget, quota: quota{pending: map[string]usage{}},
	}
}

// weight estimates how many bytes the user takes in memory.
func (u *userData) weight() int64 {
	n := 512 + int64(u.bytes) + 256*int64(len(u.data))
	if u.ignored != nil {
		n += u.ignoredBytes
	}
	return n
}

// updateWeight counts what a user takes now, and evicts users while all together take more than the budget. The caller holds mu.
func (d *accountDataCache) updateWeight(userID string, u *userData) {
	if e, ok := d.users.entries[userID]; !ok || e.value != u {
		return // evicted while it was loaded
	}
	now := u.weight()
	d.bytes += now - u.weightCounted
	u.weightCounted = now
	for d.bytes > d.budget {
		_, old, ok := d.users.evict()
		if !ok {
			return
		}
		d.bytes -= old.weightCounted
	}
}

// evict forgets a user. The caller holds mu.
func (d *accountDataCache) evict(userID string) {
	if e, ok := d.users.entries[userID]; ok {
		d.bytes -= e.value.weightCounted
		d.users.delete(userID)
	}
}

// onRows receives rows of the stream and updates the remembered users.
func (d *accountDataCache) onRows(rows []stream.Row) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, row := range rows {
		e, ok := d.users.entries[row.Key]
		if !ok {
			continue
		}
		datum, ok := row.Value.(*AccountDatum)
		if ok {
			copied := *datum
			datum = &copied
		} else {
			datum = &AccountDatum{}
			if err := json.Unmarshal(row.Data, datum); err != nil {
				d.evict(row.Key) // it is loaded again when it is needed
				continue
			}
		}
		datum.Pos = row.Pos
		e.value.apply(datum)
		d.updateWeight(row.Key, e.value)
	}
}

// apply sets a piece, unless a newer one is known.
func (u *userData) apply(datum *AccountDatum) {
	key := dataKey{datum.RoomID, datum.Type}
	old, ok := u.data[key]
	switch {
	case !ok:
		u.bytes += len(datum.Content) + len(datum.Type) + len(datum.RoomID)
	case old.Pos > datum.Pos:
		return
	default:
		u.bytes += len(datum.Content) - len(old.Content)
	}
	u.data[key] = datum
	u.newest = max(u.newest, datum.Pos)
	if datum.RoomID == "" && datum.Type == typeIgnoredUsers {
		u.ignored = nil
	}
}

// view calls fn with the data of the user, under the lock, after loading it if needed.
func (d *accountDataCache) view(ctx context.Context, userID string, fn func(u *userData)) error {
	d.mu.RLock()
	u, ok := d.users.get(userID)
	if ok && u.loaded {
		fn(u)
		d.mu.RUnlock()
		return nil
	}
	d.mu.RUnlock()
	if !ok {
		d.mu.Lock()
		if u, ok = d.users.get(userID); !ok {
			u = &userData{ready: make(chan struct{}), data: map[dataKey]*AccountDatum{}}
			if _, old, pushed := d.users.put(userID, u); pushed {
				d.bytes -= old.weightCounted
			}
			go d.load(caller.NewWork(context.WithoutCancel(ctx), caller.ID{User: userID}), userID, u)
		}
		d.mu.Unlock()
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-u.ready:
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	if u.loadErr == nil { // also when it was evicted meanwhile: it was current when it was asked for
		fn(u)
	}
	return u.loadErr
}

// load reads all pieces of a user. Rows of the stream that arrive meanwhile are as new or newer, and win.
func (d *accountDataCache) load(ctx context.Context, userID string, u *userData) {
	all, err := loadData(ctx, d.db, userID)
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, datum := range all {
		u.apply(datum)
	}
	u.loaded, u.loadErr = err == nil, err
	if err != nil {
		d.evict(userID)
	}
	d.updateWeight(userID, u)
	close(u.ready)
}
