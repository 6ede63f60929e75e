package db

// Gate tells how many connections are free and how many callers wait for one.
func (d *DB) Gate() (free, waiting int) {
	d.readers.mu.Lock()
	defer d.readers.mu.Unlock()
	return d.readers.free, len(d.readers.queue)
}
