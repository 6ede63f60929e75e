package accounts

import (
	"context"
	"encoding/json"
	"sync"

	"lyceum/platform/caller"
	"lyceum/platform/db"
	"lyceum/platform/stream"
)

// accountDataCache remembers the account data of users, whole users at a time, and follows the stream.
type accountDataCache struct {
	db     *db.DB
	stream *stream.Stream

	mu     sync.RWMutex
	users  *secondChanceCache[string, *userData]
	budget int64 // of bytes
	bytes  int64 // of all users

	quota  quota
	writes [16]sync.Mutex // by shard: a change that reads first is one step
}

// userData is the account data of one user. Its fields are guarded by accountData.mu.
type userData struct {
	ready         chan struct{} // closed when loading ended
	loaded        bool
	loadErr       error
	data          map[dataKey]*AccountDatum // while loading: what the stream told meanwhile
	bytes         int                       // of data, as its owner is told
	weightCounted int64                     // in accountData.bytes
	newest        int64
	ignored       map[string]bool // nil until asked for

	ignoredBytes int64 // of ignored
}

func newAccountDataCache(d *db.DB, size int, budget int64) *accountDataCache {
	return &accountDataCache{
		db: d, users: newSecondChanceCache[string, *userData](size), budget: budget, quota: quota{pending: map[string]usage{}},
	}
}

// weight is how many bytes a user takes in memory, about.
func (u *userData) weight() int64 {
	n := 512 + int64(u.bytes) + 256*int64(len(u.data))
	if u.ignored != nil {
		n += u.ignoredBytes
	}
	return n
}

// updateWeight notes what a user takes now, and forgets others when all take too much. The caller holds mu, as for forget.
func (d *accountDataCache) updateWeight(userID string, u *userData) {
	if e, ok := d.users.entries[userID]; !ok || e.value != u {
		return // pushed out while it was loaded
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

func (d *accountDataCache) evict(userID string) {
	if e, ok := d.users.entries[userID]; ok {
		d.bytes -= e.value.weightCounted
		d.users.delete(userID)
	}
}

// onRows keeps the remembered users up to date.
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
				d.evict(row.Key) // loaded anew when it is needed
				continue
			}
		}
		datum.Pos = row.Pos
		e.value.apply(datum)
		d.updateWeight(row.Key, e.value)
	}
}

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

// view calls fn with the data of the user, under the lock.
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
	if u.loadErr == nil { // also when it was pushed out meanwhile: it was true when asked for
		fn(u)
	}
	return u.loadErr
}

// load reads all pieces of a user. What the stream tells meanwhile is newer or the same.
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
