package archive

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"lyceum/platform/blob"
	"lyceum/platform/db"
	"lyceum/platform/domain"
)

// Source is what is copied.
type Source struct {
	DB         *db.DB
	Blobs      blob.Store // nil: they are left out
	Sets       []db.Migrations
	ServerName string
	Version    string
	// Skip are tables whose rows mean nothing elsewhere.
	Skip []string
	// SkipBlobs is the beginning of the keys of blobs that mean nothing elsewhere; "" for none.
	SkipBlobs string
	// References are the columns whose rows name blobs. Those that the schema does not have yet count for nothing.
	References []domain.Blob
	// Inspect adds what the snapshot tells of the fleet. May be nil.
	Inspect func(ctx context.Context, q db.Querier, m *Manifest) error
	Config  []byte // configuration file
	Secret  []byte // secret of the fleet; nil leaves it out
}

// Options say where a backup goes and how.
type Options struct {
	Target string // a file, or an existing directory, or a name that ends in a slash
	// Incomplete makes the backup also when the store lacks blobs that rows name, or has damaged ones. Without it none is made.
	Incomplete bool

	Since    string // a backup whose blobs need not be copied again; only for a file
	ID       string // differs for every backup
	Now      func() time.Time
	Progress *Progress
}

const (
	pieceSize  = 1 << 20
	listEvery  = 4096
	listPage   = 1000
	mostNamed  = 1000
	dirArchive = "backup.tar.zst"
	dirBlobs   = "blobs"
	blobTries  = 6
)

// job is one backup being made.
type job struct {
	Source
	Options
	w *writer
	m *Manifest

	blobDir   blob.Store // the directory of blobs beside the archive; nil without one
	baseBlobs keySet     // keys and sizes of the blobs that the base has
	named     []string   // queries for the keys that rows name
	names     keySet     // hashes of the keys of blobs that rows name and that were not copied yet
	namesFile *os.File   // the keys themselves, one in a line
	listLines []byte     // lines of the list of blobs since the last part with a list
	lineCount int        // of listLines
	listCount int        // parts with a list that were written
	sum       sum
}

// Write makes a backup and returns its manifest. Nothing is left of one that fails.
func Write(ctx context.Context, s Source, o Options) (m *Manifest, err error) {
	j := &job{Source: s, Options: o}
	name, dir := o.Target, isDir(o.Target)
	if dir {
		if o.Since != "" {
			return nil, errors.New("a directory keeps the blobs of the backup before: --since is for files")
		}
		if err := os.MkdirAll(o.Target, 0o700); err != nil {
			return nil, err
		}
		name = filepath.Join(o.Target, dirArchive)
	}
	if err := mayReplace(ctx, name, o.Since); err != nil {
		return nil, err
	}
	j.m = &Manifest{
		Format: Format, ID: o.ID, Version: s.Version, ServerName: s.ServerName, Engine: "sqlite", Secrets: s.Secret != nil,
		Blobs: BlobInfo{Where: InArchive},
	}
	if s.DB.Postgres() {
		j.m.Engine = "postgres"
	}
	switch {
	case s.Blobs == nil:
		j.m.Blobs.Where = LeftOut
	case dir:
		j.m.Blobs.Where = Beside
		if j.blobDir, err = blob.OpenDirectory(filepath.Join(o.Target, dirBlobs)); err != nil {
			return nil, err
		}
	case o.Since != "":
		if err := j.readBase(ctx); err != nil {
			return nil, err
		}
	}
	if j.w, err = newWriter(name, o.Now()); err != nil {
		return nil, err
	}
	if err := j.write(ctx); err != nil {
		return nil, errors.Join(err, j.w.drop())
	}
	j.Progress.end()
	if err := j.w.finish(); err != nil {
		return nil, err
	}
	if j.blobDir != nil && j.m.Blobs.Whole() == nil { // what the store has lost may be there, of the backup before
		return j.m, j.prune(ctx)
	}
	return j.m, nil
}

// mayReplace lets a backup take the place of an earlier one, and of nothing else. One that stands on another takes a new name: what it
// replaced may be below it.
func mayReplace(ctx context.Context, name, since string) error {
	info, err := os.Stat(name)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is no file: name one for the backup", name)
	case since != "":
		return fmt.Errorf("%s is there already, and what --since names may stand on it: give this backup a new name", name)
	}
	if _, err := read(ctx, name, visitor{header: func(header) error { return errEnough }}); err != nil {
		return fmt.Errorf("%s is there already and is no backup of Lyceum: name another file, or remove this one", name)
	}
	return nil
}

func isDir(name string) bool {
	if strings.HasSuffix(name, "/") || strings.HasSuffix(name, string(filepath.Separator)) {
		return true
	}
	info, err := os.Stat(name)
	return err == nil && info.IsDir()
}

func (j *job) write(ctx context.Context) (err error) {
	if err := j.w.json(headerName, header{Format, j.ID}); err != nil {
		return err
	}
	if err := j.w.part(configName, j.Config); err != nil {
		return err
	}
	if j.Secret != nil {
		if err := j.w.part(secretName, j.Secret); err != nil {
			return err
		}
	}
	if j.Blobs != nil {
		j.names = keySet{}
		if j.namesFile, err = os.CreateTemp(filepath.Dir(j.w.name), ".lyceum-backup-names-"); err != nil {
			return err
		}
		defer func() { _ = os.Remove(j.namesFile.Name()) }() // a list of keys that is of no use when it stays
		defer j.namesFile.Close()
	}
	if err := j.DB.Snapshot(ctx, func(q db.Querier) error { return j.snapshot(ctx, q) }); err != nil {
		return err
	}
	if j.Blobs != nil {
		if err := j.blobs(ctx); err != nil {
			return err
		}
	}
	return j.w.json(manifestName, j.m)
}

// snapshot writes all rows.
func (j *job) snapshot(ctx context.Context, q db.Querier) error {
	have, err := j.DB.Tables(ctx, q) // the first statement: the moment of the snapshot
	if err != nil {
		return err
	}
	j.m.Time = j.Now().UTC()
	if !slices.ContainsFunc(have, func(t db.Table) bool { return t.Name == "migrations" }) {
		return errors.New("the database holds no Lyceum: is it the right one?")
	}
	if j.m.Schema, err = db.Applied(ctx, q); err != nil {
		return err
	}
	known, err := tablesOf(ctx, j.m.Schema, j.Sets)
	if err != nil {
		return err
	}
	if j.Inspect != nil {
		if err := j.Inspect(ctx, q, j.m); err != nil {
			return err
		}
	}
	var tables []db.Table
	total := int64(0)
	for _, t := range have {
		if _, ours := known[t.Name]; !ours || slices.Contains(j.Skip, t.Name) || isSchema(t.Name) {
			continue
		}
		var n int64
		if err := q.QueryRow(ctx, "SELECT COUNT(*) FROM "+quote(t.Name)).Scan(&n); err != nil {
			return err
		}
		total += n
		tables = append(tables, t)
	}
	if err := checkTables(tables); err != nil {
		return err
	}
	if err := j.w.json(tablesName, tables); err != nil {
		return err
	}
	j.Progress.step("rows", "rows", total)
	for _, t := range tables {
		info, err := j.table(ctx, q, t)
		if err != nil {
			return err
		}
		j.m.Tables = append(j.m.Tables, info)
	}
	if j.Blobs == nil {
		return nil
	}
	for _, b := range j.References {
		if hasColumn(tables, b) {
			j.named = append(j.named, b.Keys())
			if err := j.references(ctx, q, b.Keys()); err != nil {
				return err
			}
		}
	}
	return nil
}

func hasColumn(tables []db.Table, b domain.Blob) bool {
	return slices.ContainsFunc(tables, func(t db.Table) bool {
		return t.Name == b.Table && slices.ContainsFunc(t.Columns, func(c db.Column) bool { return c.Name == b.Column })
	})
}

// isSchema tells of the tables that say which steps were applied: the manifest says it.
func isSchema(table string) bool { return table == "migrations" || table == "migration_needs" }

// tablesOf are the tables that the steps make, found by making them in an empty database.
func tablesOf(ctx context.Context, steps map[string]int64, sets []db.Migrations) (map[string]db.Table, error) {
	dir, err := os.MkdirTemp("", "lyceum-schema-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	d, err := db.Open(ctx, "sqlite:"+filepath.Join(dir, "schema.db"), db.Options{})
	if err != nil {
		return nil, err
	}
	defer d.Close()
	out := map[string]db.Table{}
	return out, d.Tx(ctx, func(tx *db.Tx) error {
		if _, err := db.Build(ctx, tx, steps, sets...); err != nil {
			return err
		}
		tables, err := d.Tables(ctx, tx)
		for _, t := range tables {
			out[t.Name] = t
		}
		return err
	})
}

func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

func columns(t *db.Table) string {
	names := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		names[i] = quote(c.Name)
	}
	return strings.Join(names, ", ")
}

// table writes the rows of a table in pieces.
func (j *job) table(ctx context.Context, q db.Querier, t db.Table) (TableInfo, error) {
	info := TableInfo{Table: t}
	var s sum
	var piece []byte
	pieces := 0
	flush := func() error {
		if len(piece) == 0 {
			return nil
		}
		pieces++
		err := j.w.part(fmt.Sprintf("%s%s/%08d", rowsPrefix, t.Name, pieces), piece)
		info.Bytes += int64(len(piece))
		piece = piece[:0]
		return err
	}
	err := eachRow(ctx, q, &t, func(values []any) error {
		begin := len(piece)
		var err error
		if piece, err = appendRow(piece, &t, values); err != nil {
			return err
		}
		s.add(piece[begin:])
		info.Rows++
		j.Progress.add(1)
		if len(piece) >= pieceSize {
			return flush()
		}
		return nil
	})
	if err == nil {
		err = flush()
	}
	info.Sum = s.text()
	return info, err
}

// eachRow reads all rows of a table; fn does not keep the values.
func eachRow(ctx context.Context, q db.Querier, t *db.Table, fn func(values []any) error) error {
	values, into := make([]any, len(t.Columns)), make([]any, len(t.Columns))
	for i := range values {
		into[i] = &values[i]
	}
	return db.Each(func(row db.Row) error {
		if err := row.Scan(into...); err != nil {
			return fmt.Errorf("table %s: %w", t.Name, err)
		}
		return fn(values)
	})(q.Query(ctx, "SELECT "+columns(t)+" FROM "+quote(t.Name)))
}

// references notes the keys that rows name.
func (j *job) references(ctx context.Context, q db.Querier, query string) error {
	out := newLineWriter(j.namesFile)
	err := db.Each(func(row db.Row) error {
		var key string
		if err := row.Scan(&key); err != nil || !j.names.add(key) {
			return err
		}
		return out.line(key)
	})(q.Query(ctx, query))
	return errors.Join(err, out.Flush())
}

// prune removes blobs beside an archive that no longer names them.
func (j *job) prune(ctx context.Context) error {
	keep := keySet{}
	_, err := read(ctx, j.w.name, visitor{list: func(entries []Entry) error {
		for _, e := range entries {
			keep.add(e.Key)
		}
		return nil
	}})
	if err != nil {
		return err
	}
	return eachBlob(ctx, j.blobDir, func(i blob.Info) error {
		if keep.has(i.Key) {
			return nil
		}
		return j.blobDir.Delete(ctx, i.Key)
	})
}

// eachBlob lists a whole store.
func eachBlob(ctx context.Context, s blob.Store, fn func(blob.Info) error) error {
	for after := ""; ; {
		page, err := s.List(ctx, "", after, listPage)
		if err != nil {
			return err
		}
		for _, i := range page {
			if err := fn(i); err != nil {
				return err
			}
		}
		if len(page) < listPage {
			return nil
		}
		after = page[len(page)-1].Key
	}
}
