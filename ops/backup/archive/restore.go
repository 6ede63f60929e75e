package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"

	"lyceum/platform/blob"
	"lyceum/platform/db"
	"lyceum/platform/obs"
)

// Target is what a backup is restored into.
type Target struct {
	DB         *db.DB
	Blobs      blob.Store // nil: no blobs are restored
	Sets       []db.Migrations
	ServerName string // "": that of the backup
	Version    string
	SkipBlobs  string // beginning of the keys of blobs that do not count
	Replace    bool   // throw away what is there
	// Accept refuses a backup that is whole. Nothing was changed yet. May be nil.
	Accept func(ctx context.Context, c *Checked) error
	// Before runs first in the transaction that writes all tables; replacing tells that there are old ones,
	// which are still there. May be nil.
	Before func(ctx context.Context, tx *db.Tx, replacing bool) error
	// Change edits a row, or drops it. May be nil.
	Change func(r Row) (keep bool)
	// After runs last in the transaction. May be nil.
	After    func(ctx context.Context, tx *db.Tx) error
	Log      *slog.Logger
	Progress *Progress
}

// Restored tells what a restore did.
type Restored struct {
	Rows, Dropped int64 // rows written, and not written on purpose
	Blobs, Bytes  int64 // stored
	There         int64 // blobs that were there already
	Cleaned       int64 // texts without the characters that PostgreSQL does not take
}

// Restore fills an empty database and an empty blob store from a backup. Whatever fails before the last
// step leaves the database as it was; blobs that were stored by then stay, and are found again by the next try.
func Restore(ctx context.Context, name string, t Target, v VerifyOptions) (*Checked, *Restored, error) {
	v.Progress = t.Progress
	if err := t.room(ctx); err != nil { // before the long part
		return nil, nil, err
	}
	c, err := Verify(ctx, name, v)
	if err != nil {
		return nil, nil, err
	}
	r := &restore{Target: t, c: c, done: &Restored{}}
	if err := r.acceptable(ctx); err != nil {
		return nil, nil, err
	}
	if t.Blobs != nil && c.Manifest.Blobs.Where != LeftOut {
		if err := r.blobs(ctx); err != nil {
			return nil, nil, err
		}
	}
	if err := t.DB.Tx(ctx, func(tx *db.Tx) error { return r.rows(ctx, tx) }); err != nil {
		return nil, nil, err
	}
	t.Progress.end()
	if err := db.Migrate(ctx, t.DB, t.Log, t.Sets...); err != nil {
		return nil, nil, fmt.Errorf("the rows are restored, but the newer schema could not be made; the next start of Lyceum tries again: %w",
			err)
	}
	if _, err := t.DB.Exec(ctx, "ANALYZE"); err != nil {
		t.Log.Warn("the statistics of the database could not be made; it makes them by itself later", "error", err)
	}
	return c, r.done, nil
}

type restore struct {
	Target
	c    *Checked
	done *Restored
}

// ours are the tables in the database that Lyceum made.
func (t *Target) ours(ctx context.Context, q db.Querier) ([]string, error) {
	steps, err := db.Known(t.Sets...)
	if err != nil {
		return nil, err
	}
	known, err := tablesOf(ctx, steps, t.Sets)
	if err != nil {
		return nil, err
	}
	have, err := t.DB.Tables(ctx, q)
	var out []string
	for _, table := range have {
		if _, ok := known[table.Name]; ok {
			out = append(out, table.Name)
		}
	}
	return out, err
}

// room refuses a database that is in use.
func (t *Target) room(ctx context.Context) error {
	if _, err := t.DB.Ours(ctx); err != nil {
		return err // also with Replace
	}
	have, err := t.ours(ctx, t.DB)
	if err == nil && len(have) > 0 && !t.Replace {
		err = fmt.Errorf("the database is not empty: it has the tables %s and more: give an empty one, or throw this one away with --replace",
			strings.Join(have[:min(3, len(have))], ", "))
	}
	return err
}

// acceptable refuses, before anything is changed, what can not be restored.
func (r *restore) acceptable(ctx context.Context) error {
	m := &r.c.Manifest
	theirs, err := obs.ParseVersion(m.Version)
	if err != nil {
		return err
	}
	mine, err := obs.ParseVersion(r.Version)
	if err != nil {
		return err
	}
	if theirs.X > mine.X {
		return fmt.Errorf("the backup was made by version %s and this is %s: use version %d.* or newer", m.Version, r.Version, theirs.X)
	}
	if r.ServerName != "" && m.ServerName != r.ServerName {
		return fmt.Errorf("the backup is of the server %s and server.name is %s: set server.name to %s, "+
			"for users and rooms carry it in their ids", m.ServerName, r.ServerName, m.ServerName)
	}
	known, err := db.Known(r.Sets...)
	if err != nil {
		return err
	}
	for domain, step := range m.Schema {
		if step > known[domain] || step < 0 {
			return fmt.Errorf("the backup has schema step %d of %s, made by version %s, and this version knows %d: use %s or newer", step, domain,
				m.Version, known[domain], m.Version)
		}
	}
	tables, err := tablesOf(ctx, m.Schema, r.Sets)
	if err != nil {
		return err
	}
	for _, t := range m.Tables {
		want, ok := tables[t.Name]
		if !ok || isSchema(t.Name) || !sameColumns(want.Columns, t.Columns) {
			return fmt.Errorf("%w: table %q does not have the columns of its schema", ErrDamaged, t.Name)
		}
	}
	if r.Accept != nil {
		return r.Accept(ctx, r.c)
	}
	return nil
}

func sameColumns(a, b []db.Column) bool {
	less := func(x, y db.Column) int { return strings.Compare(x.Name, y.Name) }
	return slices.Equal(slices.SortedFunc(slices.Values(a), less), slices.SortedFunc(slices.Values(b), less))
}

// blobs stores all blobs that are not there.
func (r *restore) blobs(ctx context.Context) error {
	there := keySet{}
	err := eachBlob(ctx, r.Blobs, func(i blob.Info) error {
		if r.SkipBlobs != "" && strings.HasPrefix(i.Key, r.SkipBlobs) {
			return nil
		}
		if !r.c.keys.has(i.Key) && !r.Replace {
			return fmt.Errorf("the blob store is not empty: it has %s, which the backup does not have: "+
				"give an empty one, or keep those blobs with --replace", i.Key)
		}
		if contentHash(i.Key) != "" {
			there.add(i.Key + " " + fmt.Sprint(i.Size))
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.Progress.step("blobs", "bytes", r.c.Manifest.Blobs.Bytes)
	wanted := keySet{}
	for k := range r.c.keys {
		wanted[k] = struct{}{}
	}
	put := func(key string, size int64, body io.Reader) error {
		if _, ok := wanted[hashKey(key)]; !ok {
			return nil // of a base, and not needed any longer
		}
		delete(wanted, hashKey(key))
		if there.has(key + " " + fmt.Sprint(size)) {
			r.done.There++
			r.Progress.add(size)
			return nil
		}
		n, err := r.Blobs.Put(ctx, key, io.TeeReader(body, counter{r.Progress}), size)
		r.done.Blobs++
		r.done.Bytes += n
		return err
	}
	for _, name := range append([]string{r.c.name}, r.c.bases...) {
		if len(wanted) == 0 {
			break
		}
		if err := r.from(ctx, name, put); err != nil {
			return err
		}
	}
	if len(wanted) > 0 {
		return fmt.Errorf("%w: %d blobs were not found again", ErrDamaged, len(wanted))
	}
	return nil
}

// from hands on the blobs of one backup.
func (r *restore) from(ctx context.Context, name string, put func(key string, size int64, body io.Reader) error) error {
	archive := archiveOf(name)
	var store blob.Store
	if s, err := beside(name); archive != name && err == nil {
		store = s
	}
	_, err := read(ctx, archive, visitor{blob: put, list: func(entries []Entry) error {
		if store == nil {
			return nil
		}
		for _, e := range entries {
			body, err := store.Get(ctx, e.Key, 0, -1)
			if err != nil {
				return err
			}
			err = put(e.Key, e.Size, body)
			if err := errors.Join(err, body.Close()); err != nil {
				return err
			}
		}
		return nil
	}})
	return err
}

// rows builds the schema of the backup and fills it, or leaves everything as it was.
func (r *restore) rows(ctx context.Context, tx *db.Tx) error {
	r.done.Rows, r.done.Dropped, r.done.Cleaned = 0, 0, 0
	old, err := r.ours(ctx, tx)
	if err != nil {
		return err
	}
	if len(old) > 0 && !r.Replace {
		return errors.New("the database is no longer empty: something else has just used it")
	}
	if r.Before != nil {
		if err := r.Before(ctx, tx, len(old) > 0); err != nil {
			return err
		}
	}
	for _, name := range old {
		if _, err := tx.Exec(ctx, "DROP TABLE "+quote(name)); err != nil {
			return err
		}
	}
	indexes, err := db.Build(ctx, tx, r.c.Manifest.Schema, r.Sets...)
	if err != nil {
		return err
	}
	filled, err := r.fill(ctx, tx)
	if err != nil {
		return err
	}
	for _, stmt := range indexes {
		if _, err := tx.Exec(ctx, stmt); err != nil {
			return fmt.Errorf("%.80s: %w", stmt, err)
		}
	}
	if err := r.compare(ctx, tx, filled); err != nil {
		return err
	}
	if r.After != nil {
		return r.After(ctx, tx)
	}
	return nil
}

// fill loads the rows of all tables and tells what it wrote.
func (r *restore) fill(ctx context.Context, tx *db.Tx) (map[string]*found, error) {
	out := map[string]*found{}
	var tables []db.Table
	for _, t := range r.c.Manifest.Tables {
		tables = append(tables, t.Table)
		out[t.Name] = &found{table: &tables[len(tables)-1]}
		if _, err := tx.Exec(ctx, "DELETE FROM "+quote(t.Name)); err != nil { // what a step put there
			return nil, err
		}
	}
	r.Progress.step("rows", "rows", r.c.Manifest.rows())
	_, err := read(ctx, archiveOf(r.c.name), visitor{
		rows: func(table string, rr *rowReader) error {
			f := out[table]
			if f == nil {
				return fmt.Errorf("%w: rows of table %q", ErrDamaged, table)
			}
			return r.piece(ctx, tx, f, rr)
		},
		blob: func(string, int64, io.Reader) error { return errEnough },
	})
	return out, err
}

// piece loads a piece of a table in statements of many rows.
func (r *restore) piece(ctx context.Context, tx *db.Tx, f *found, rr *rowReader) error {
	width := len(f.table.Columns)
	most := max(1, 1000/width) // a text of less than 8 kB is prepared once
	insert := "INSERT INTO " + quote(f.table.Name) + " (" + columns(f.table) + ") VALUES ?"
	var batch [][]any
	size := 0
	flush := func() error {
		err := tx.Bulk(ctx, insert, batch)
		batch, size = batch[:0], 0
		if err != nil {
			return fmt.Errorf("table %s: %w", f.table.Name, err)
		}
		return nil
	}
	var record []byte
	for {
		values := make([]any, width)
		err := rr.next(f.table, values)
		if err == io.EOF {
			return flush()
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		r.Progress.add(1)
		if r.Change != nil && !r.Change(Row{f.table, values}) {
			r.done.Dropped++
			continue
		}
		r.clean(values)
		if record, err = appendRow(record[:0], f.table, values); err != nil {
			return err
		}
		f.sum.add(record)
		f.rows++
		r.done.Rows++
		batch = append(batch, values)
		if size += len(record); len(batch) == most || size > 8<<20 {
			if err := flush(); err != nil {
				return err
			}
		}
	}
}

// clean takes out of texts what SQLite keeps and PostgreSQL refuses.
func (r *restore) clean(values []any) {
	if !r.DB.Postgres() {
		return
	}
	for i, v := range values {
		if s, ok := v.(string); ok {
			if c := strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD"); c != s {
				values[i] = c
				r.done.Cleaned++
			}
		}
	}
}

// compare reads all rows again: the database has what was given to it.
func (r *restore) compare(ctx context.Context, tx *db.Tx, filled map[string]*found) error {
	r.Progress.step("compare", "rows", r.done.Rows)
	for name, want := range filled {
		var s sum
		var n int64
		var record []byte
		err := eachRow(ctx, tx, want.table, func(values []any) (err error) {
			if record, err = appendRow(record[:0], want.table, values); err != nil {
				return err
			}
			s.add(record)
			n++
			r.Progress.add(1)
			return nil
		})
		if err != nil {
			return err
		}
		if n != want.rows || s != want.sum {
			return fmt.Errorf("table %s: %d rows were written and other rows were read, %d of them: the database did not keep them", name,
				want.rows, n)
		}
	}
	return nil
}

// Name is where the backup is, for people.
func (c *Checked) Name() string { return filepath.Base(c.name) }
