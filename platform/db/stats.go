package db

import "database/sql"

// Stats are the figures of the pool of connections; of both pools with SQLite, whose writes have one of their own.
func (d *DB) Stats() sql.DBStats {
	s := d.read.Stats()
	if w := d.write; w != d.read {
		o := w.Stats()
		s.InUse += o.InUse
		s.OpenConnections += o.OpenConnections
		s.MaxOpenConnections += o.MaxOpenConnections
		s.WaitCount += o.WaitCount
		s.WaitDuration += o.WaitDuration
	}
	g := d.readers
	g.mu.Lock()
	defer g.mu.Unlock()
	s.WaitCount += g.waits
	s.WaitDuration += g.waited
	return s
}
