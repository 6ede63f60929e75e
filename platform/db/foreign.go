package db

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"strings"
)

// ErrForeign says that a database holds the tables of another program.
var ErrForeign = errors.New("the database belongs to another program")

// Ours tells whether Lyceum has made tables in the database; it is false for a database without tables. A database that holds only tables
// of another program is ErrForeign, even when one of them has the name of one of ours.
func (d *DB) Ours(ctx context.Context) (bool, error) { return d.ours(ctx, d.read) }

func (d *DB) ours(ctx context.Context, on runner) (ours bool, err error) {
	query := `SELECT m.name, m.name = 'migrations' AND EXISTS (SELECT 1 FROM pragma_table_info(m.name) c WHERE c.name = 'domain')
		FROM sqlite_master m WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite\_%' ESCAPE '\' ORDER BY m.name`
	if d.Postgres() { // extensions may bring tables
		query = `SELECT c.relname, c.relname = 'migrations' AND EXISTS (SELECT 1 FROM pg_attribute a WHERE a.attrelid = c.oid
				AND a.attname = 'domain')
			FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
			WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p', 'f') AND NOT EXISTS (
				SELECT 1 FROM pg_depend e WHERE e.classid = 'pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')
			ORDER BY c.relname`
	}
	var others []string
	err = Each(func(row Row) error {
		var name string
		var mine bool
		if err := row.Scan(&name, &mine); err != nil {
			return err
		}
		ours = ours || mine
		others = append(others, name)
		return nil
	})(asRows(on.QueryContext(ctx, query)))
	if err != nil || ours || len(others) == 0 {
		return ours, err
	}
	return false, fmt.Errorf("%w: expected an empty one or one of Lyceum, found the tables %s and no table migrations of Lyceum; nothing "+
		"was changed: name another database, or another schema or directory",
		ErrForeign, strings.Join(others[:min(5, len(others))], ", "))
}

// refuseForeign checks a file of SQLite before it is opened for writing, which would change its journal. A file that can not be read is
// left to the later opening.
func (d *DB) refuseForeign(ctx context.Context, path string) error {
	if info, err := os.Stat(path); err != nil || info.Size() == 0 {
		return nil
	}
	err := d.look(ctx, path, "immutable=1")
	if _, wal := os.Stat(path + "-wal"); err != nil && wal == nil { // the file alone is not all of it
		err = d.look(ctx, path, "mode=ro")
	}
	return err
}

func (d *DB) look(ctx context.Context, path, how string) error {
	r, err := sql.Open(cmp.Or(d.opts.Driver, "sqlite"), "file:"+escapePath.Replace(path)+"?"+how)
	if err != nil {
		return err
	}
	defer r.Close()
	if _, err = d.ours(ctx, r); errors.Is(err, ErrForeign) {
		return err
	}
	return nil
}

// makePrivate makes a file of SQLite, and the files beside it, readable by their owner only: they hold hashes of passwords. SQLite gives
// the files beside the first one its mode.
func makePrivate(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err == nil {
		return f.Close()
	}
	// An existing file is not opened here: closing it would release the locks that this process has on it.
	for _, name := range []string{path, path + "-wal", path + "-shm", path + "-journal"} {
		info, err := os.Stat(name)
		if err != nil || info.Mode().Perm()&0o077 == 0 {
			continue // the later opening reports the error
		}
		if err := os.Chmod(name, 0o600); err != nil && !errors.Is(err, os.ErrPermission) { // its owner does it at the next start
			return err
		}
	}
	return nil
}
