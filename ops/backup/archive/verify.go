package archive

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"lyceum/platform/blob"
	"lyceum/platform/db"
)

// Row is a row of a table.
type Row struct {
	Table  *db.Table
	Values []any // int64, string, []byte, bool, float64 or nil
}

// Get gives a value by the name of its column; nil when there is no such column.
func (r Row) Get(column string) any {
	for i, c := range r.Table.Columns {
		if c.Name == column {
			return r.Values[i]
		}
	}
	return nil
}

// Set changes a value.
func (r Row) Set(column string, v any) {
	for i, c := range r.Table.Columns {
		if c.Name == column {
			r.Values[i] = v
		}
	}
}

// Checked is a backup that was read from its beginning to its end and found whole.
type Checked struct {
	Manifest Manifest
	Config   []byte
	Secret   []byte // nil when it was left out
	Peeked   []Row  // the rows of the tables that were asked for

	name  string
	keys  keySet   // of all its blobs
	bases []string // where the backups are that have the other blobs
}

// VerifyOptions say how a backup is read.
type VerifyOptions struct {
	Bases    []string // where to look for the backups that this one stands on, beside its own directory
	Peek     []string // small tables whose rows are wanted
	Progress *Progress
}

// Verify reads a whole backup, and the ones that it stands on, and checks every hash.
func Verify(ctx context.Context, name string, o VerifyOptions) (*Checked, error) {
	v := newVerifier(o)
	m, err := v.run(ctx, name)
	if err != nil {
		return nil, err
	}
	c := &Checked{Manifest: *m, Config: v.config, Secret: v.secret, Peeked: v.peeked, name: name, keys: v.keys}
	need := v.need
	for at, next := name, m; next.Blobs.Base != ""; {
		base, err := findBase(ctx, at, next, o.Bases)
		if err != nil {
			return nil, err
		}
		v := newVerifier(VerifyOptions{Progress: o.Progress})
		v.has = need
		if next, err = v.run(ctx, base); err != nil {
			return nil, fmt.Errorf("the base of the backup: %w", err)
		}
		c.bases, at = append(c.bases, base), base
		if len(c.bases) > 1000 {
			return nil, fmt.Errorf("%w: it stands on more than 1000 others", ErrDamaged)
		}
	}
	if len(need) > 0 {
		return nil, fmt.Errorf("%w: %d blobs are neither in it nor in the backups that it stands on", ErrDamaged, len(need))
	}
	o.Progress.end()
	return c, nil
}

// findBase finds the archive with the id that a manifest names.
func findBase(ctx context.Context, at string, m *Manifest, places []string) (string, error) {
	for _, place := range append(slices.Clone(places), filepath.Join(filepath.Dir(at), filepath.Base(m.Blobs.BaseAt))) {
		var id string
		_, err := read(ctx, archiveOf(place), visitor{header: func(h header) error {
			id = h.ID
			return errEnough
		}})
		if err == nil && id == m.Blobs.Base {
			return place, nil
		}
	}
	return "", fmt.Errorf("the backup has only the blobs that %s did not have: put that one beside it, or name it with --base", m.Blobs.BaseAt)
}

// verifier checks one archive.
type verifier struct {
	VerifyOptions
	config, secret []byte
	peeked         []Row

	id      string
	tables  []db.Table
	found   map[string]*found
	pending []Entry // blobs since the last list
	beside  blob.Store
	listed  int64
	bytes   int64
	sum     sum
	keys    keySet
	need    keySet // blobs that the base must have
	has     keySet // what another backup needs of this one; nil: nothing is asked
	ctx     context.Context
}

// found is what was read of a table.
type found struct {
	table *db.Table
	rows  int64
	bytes int64
	sum   sum
}

func newVerifier(o VerifyOptions) *verifier {
	return &verifier{VerifyOptions: o, found: map[string]*found{}, keys: keySet{}, need: keySet{}}
}

func (v *verifier) run(ctx context.Context, name string) (*Manifest, error) {
	v.ctx = ctx
	archive := archiveOf(name)
	info, err := os.Stat(archive)
	if err != nil {
		return nil, err
	}
	if archive != name {
		if _, err := os.Stat(filepath.Join(name, dirBlobs)); err == nil {
			if v.beside, err = beside(name); err != nil {
				return nil, err
			}
		}
	}
	v.Progress.step("check "+filepath.Base(name), "bytes", info.Size())
	m, err := read(ctx, archive, visitor{
		header: func(h header) error { v.id = h.ID; return nil },
		config: func(name string, text []byte) error {
			if name == secretName {
				v.secret = text
			} else {
				v.config = text
			}
			return nil
		},
		tables: func(tables []db.Table) error { v.tables = tables; return nil },
		rows:   v.rows, blob: v.blob, list: v.list, progress: v.Progress,
	})
	if err != nil {
		return nil, err
	}
	if err := v.compare(m); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return m, nil
}

// tableOf finds a table by name.
func tableOf(tables []db.Table, name string) *db.Table {
	for i := range tables {
		if tables[i].Name == name {
			return &tables[i]
		}
	}
	return nil
}

func (v *verifier) rows(table string, r *rowReader) error {
	f := v.found[table]
	if f == nil {
		f = &found{table: tableOf(v.tables, table)}
		if f.table == nil {
			return fmt.Errorf("%w: rows of table %q, which its list of tables does not have", ErrDamaged, table)
		}
		v.found[table] = f
	}
	f.bytes += r.left
	peek := slices.Contains(v.Peek, table)
	values := make([]any, len(f.table.Columns))
	var record []byte
	for {
		err := r.next(f.table, values)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return damaged(err)
		}
		if record, err = appendRow(record[:0], f.table, values); err != nil {
			return err
		}
		f.sum.add(record)
		f.rows++
		if peek {
			v.peeked = append(v.peeked, Row{f.table, slices.Clone(values)})
		}
	}
}

func (v *verifier) blob(key string, size int64, r io.Reader) error {
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return err
	}
	if v.pending = append(v.pending, Entry{Key: key, Size: size, SHA256: hex.EncodeToString(h.Sum(nil))}); len(v.pending) > maxPending {
		return fmt.Errorf("%w: more than %d blobs without a list", ErrDamaged, maxPending)
	}
	return nil
}

func (v *verifier) list(entries []Entry) error {
	for _, e := range entries {
		line, err := json.Marshal(e)
		if err != nil {
			return err
		}
		v.sum.add(line)
		v.listed++
		v.bytes += e.Size
		if !v.keys.add(e.Key) {
			return fmt.Errorf("%w: blob %q is listed twice", ErrDamaged, e.Key)
		}
		switch {
		case e.Base:
			v.need.add(e.name())
			continue
		case v.beside != nil:
			if err := v.besideIs(e); err != nil {
				return err
			}
		case len(v.pending) == 0 || v.pending[0] != e:
			return fmt.Errorf("%w: the bytes of blob %q are not those that were copied", ErrDamaged, e.Key)
		default:
			v.pending = v.pending[1:]
		}
		delete(v.has, hashKey(e.name()))
	}
	return nil
}

// name stands for a blob with its content.
func (e Entry) name() string { return fmt.Sprintf("%s %d %s", e.Key, e.Size, e.SHA256) }

// besideIs checks a blob in the directory beside the archive.
func (v *verifier) besideIs(e Entry) error {
	r, err := v.beside.Get(v.ctx, e.Key, 0, -1)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	defer r.Close()
	h := sha256.New()
	n, err := io.Copy(h, blob.UntilDone(v.ctx, r))
	if err != nil {
		return err
	}
	if n != e.Size || hex.EncodeToString(h.Sum(nil)) != e.SHA256 {
		return fmt.Errorf("%w: the bytes of blob %q are not those that were copied", ErrDamaged, e.Key)
	}
	return nil
}

// compare holds what was read against the manifest.
func (v *verifier) compare(m *Manifest) error {
	if m.ID != v.id || len(m.Tables) != len(v.tables) || v.config == nil {
		return fmt.Errorf("%w: its beginning and its end belong to different backups", ErrDamaged)
	}
	for i, t := range m.Tables {
		f := v.found[t.Name]
		if f == nil {
			f = &found{}
		}
		if t.Name != v.tables[i].Name || !slices.Equal(t.Columns, v.tables[i].Columns) {
			return fmt.Errorf("%w: table %s has other columns in the manifest", ErrDamaged, t.Name)
		}
		if f.rows != t.Rows || f.bytes != t.Bytes || f.sum.text() != t.Sum {
			return fmt.Errorf("%w: table %s: expected %d rows with the sum %s, found %d with %s", ErrDamaged, t.Name, t.Rows, t.Sum, f.rows,
				f.sum.text())
		}
	}
	if m.Blobs.Where == LeftOut {
		return nil
	}
	if v.listed != m.Blobs.Count || v.bytes != m.Blobs.Bytes || v.sum.text() != m.Blobs.Sum || len(v.pending) > 0 {
		return fmt.Errorf("%w: expected %d blobs, found %d", ErrDamaged, m.Blobs.Count, v.listed)
	}
	return nil
}

// Age tells people when the snapshot was taken.
func (m *Manifest) Age() string { return m.Time.Format(time.RFC3339) }
