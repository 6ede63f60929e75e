package devices

import (
	"sort"
	"sync"

	"lyceum/platform/stream"
)

// recentChanges are the newest rows of the stream "device_lists", in memory.
type recentChanges struct {
	mu     sync.Mutex
	max    int
	shards []changeWindow
}

// changeWindow has the changes of a shard after the position floor.
type changeWindow struct {
	begun bool
	floor int64
	rows  []changedUser // by position
}

type changedUser struct {
	pos int64
	ListChange
}

func newRecentChanges(shards, size int) *recentChanges {
	return &recentChanges{max: size, shards: make([]changeWindow, shards)}
}

// onRows receives rows of the stream.
func (r *recentChanges) onRows(rows []stream.Row) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, row := range rows {
		w := &r.shards[row.Shard]
		if !w.begun {
			w.begun, w.floor = true, row.Pos-1
		}
		w.rows = append(w.rows, changedUser{row.Pos, DecodeDeviceList(row)})
		if len(w.rows) > 2*r.max { // rarely, not at each row
			cut := len(w.rows) - r.max
			w.floor = w.rows[cut-1].pos
			w.rows = append([]changedUser(nil), w.rows[cut:]...)
		}
	}
}

// find adds to seen the users who changed at after < pos <= upto as the viewer may see it. It is not ok when the window begins
// later.
func (r *recentChanges) find(viewer string, shard int, after, upto int64, seen map[string]struct{}) (ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := &r.shards[shard]
	if !w.begun || after < w.floor {
		return false
	}
	for i := sort.Search(len(w.rows), func(i int) bool { return w.rows[i].pos > after }); i < len(w.rows) && w.rows[i].pos <= upto; i++ {
		if w.rows[i].For(viewer) {
			seen[w.rows[i].UserID] = struct{}{}
		}
	}
	return true
}
