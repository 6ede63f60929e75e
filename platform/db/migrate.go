package db

import (
	"context"
	"database/sql"
	"fmt"
	"io/fs"
	"log/slog"
	"sort"
	"strconv"
	"strings"
	"time"

	"lyceum/platform/obs"
)

// Migrations are the schema steps of one domain: files migrations/0001_title.sql, applied in order, each
// in one transaction, statements separated by a ";" at the end of a line. A step only expands the
// schema; what it makes dead is contracted a version later. A step that an older binary can not work
// with begins with the line "-- needs X.Y.Z", the oldest version that can.
type Migrations struct {
	Domain string
	Files  fs.FS
}

// needsLine begins a step that old binaries can not work with.
const needsLine = "-- needs "

// migrationLock is the advisory lock of PostgreSQL under which one process migrates.
const migrationLock = 0x6c796365756d // "lyceum"

// What was applied, and what it needs.
const (
	migrationsTable = `CREATE TABLE IF NOT EXISTS migrations (
		domain TEXT NOT NULL, version BIGINT NOT NULL, title TEXT NOT NULL, applied_ms BIGINT NOT NULL,
		PRIMARY KEY (domain, version))`
	needsTable = `CREATE TABLE IF NOT EXISTS migration_needs (
		domain TEXT NOT NULL, version BIGINT NOT NULL, needs TEXT NOT NULL, PRIMARY KEY (domain, version))`
)

// Migrate brings the schema of all domains up to date. One process at a time does it, the others wait.
// The database of another program is refused (ErrForeign). Steps that this binary does not know of, made by a newer
// one, are left alone, unless one of them needs a newer version.
func Migrate(ctx context.Context, d *DB, log *slog.Logger, sets ...Migrations) error {
	start := time.Now()
	conn, err := d.write.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if d.Postgres() {
		if _, err := conn.ExecContext(ctx, "SET statement_timeout = 0"); err != nil {
			return err
		}
		if _, err := conn.ExecContext(ctx, "SELECT pg_advisory_lock($1)", int64(migrationLock)); err != nil {
			return err
		}
		defer func() {
			end := context.WithoutCancel(ctx)
			_, _ = conn.ExecContext(end, "SELECT pg_advisory_unlock($1)", int64(migrationLock)) // closing the session frees it too
			_, _ = conn.ExecContext(end, fmt.Sprintf("SET statement_timeout = %d", d.opts.Timeout.Milliseconds()))
		}()
	}
	if _, err := d.ours(ctx, conn); err != nil {
		return err
	}
	for _, stmt := range append(d.prelude(), migrationsTable, needsTable) {
		if _, err = conn.ExecContext(ctx, stmt); err != nil {
			return err
		}
	}
	applied := 0
	for _, set := range sets {
		n, err := migrateDomain(ctx, d, conn, set)
		if err != nil {
			return err
		}
		applied += n
	}
	log.Info("finished migrations", "applied", applied, "took", time.Since(start).Round(time.Millisecond))
	return nil
}

type step struct {
	version int64
	title   string
	sql     string
}

func migrateDomain(ctx context.Context, d *DB, conn *sql.Conn, set Migrations) (int, error) {
	steps, err := readSteps(set)
	if err != nil {
		return 0, err
	}
	var have int64
	row := conn.QueryRowContext(ctx, d.text("SELECT COALESCE(MAX(version), 0) FROM migrations WHERE domain = $1"), set.Domain)
	if err := row.Scan(&have); err != nil {
		return 0, err
	}
	if n := int64(len(steps)); have > n {
		return 0, worksWith(ctx, d, conn, set.Domain, n)
	}
	applied := 0
	for _, s := range steps[have:] {
		done, err := applyStep(ctx, d, conn, set.Domain, s)
		if err != nil {
			return 0, fmt.Errorf("migration %s %04d_%s: %w", set.Domain, s.version, s.title, err)
		}
		if done {
			applied++
		}
	}
	return applied, nil
}

// worksWith refuses steps of a newer version that this binary can not work with.
func worksWith(ctx context.Context, d *DB, conn *sql.Conn, domain string, known int64) error {
	mine, err := obs.ParseVersion(obs.Version)
	if err != nil {
		return err
	}
	return Each(func(row Row) error {
		var step int64
		var text string
		if err := row.Scan(&step, &text); err != nil {
			return err
		}
		needs, err := obs.ParseVersion(text)
		if err != nil {
			return err
		}
		if mine.Compare(needs) < 0 {
			return fmt.Errorf("the database has schema step %d of %s, which needs version %s; this is %s: start a newer version", step, domain,
				needs, mine)
		}
		return nil
	})(asRows(conn.QueryContext(ctx, d.text("SELECT version, needs FROM migration_needs WHERE domain = $1 AND version > $2"), domain, known)))
}

// applyStep applies one step. done is false when another process was faster: SQLite has no lock around the whole migration.
func applyStep(ctx context.Context, d *DB, conn *sql.Conn, domain string, s step) (done bool, err error) {
	tx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return false, err
	}
	defer func() { _ = tx.Rollback() }() // after Commit it does nothing
	res, err := tx.ExecContext(ctx,
		d.text("INSERT INTO migrations (domain, version, title, applied_ms) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING"),
		domain, s.version, s.title, time.Now().UnixMilli())
	if err != nil {
		return false, err
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return false, err
	}
	if first, _, _ := strings.Cut(s.sql, "\n"); strings.HasPrefix(first, needsLine) {
		_, err := tx.ExecContext(ctx, d.text("INSERT INTO migration_needs (domain, version, needs) VALUES ($1, $2, $3)"),
			domain, s.version, strings.TrimSpace(strings.TrimPrefix(first, needsLine)))
		if err != nil {
			return false, err
		}
	}
	for _, stmt := range splitStatements(s.sql) {
		if _, err := tx.ExecContext(ctx, d.text(stmt)); err != nil {
			return false, err
		}
	}
	return true, tx.Commit()
}

func splitStatements(text string) []string {
	var out []string
	var b strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(strings.TrimSpace(line), "--") {
			continue
		}
		b.WriteString(line)
		if strings.HasSuffix(strings.TrimSpace(line), ";") {
			out = append(out, strings.TrimSuffix(strings.TrimSpace(b.String()), ";"))
			b.Reset()
		}
	}
	if rest := strings.TrimSpace(b.String()); rest != "" {
		out = append(out, rest)
	}
	return out
}

func readSteps(set Migrations) ([]step, error) {
	names, err := fs.Glob(set.Files, "migrations/*.sql")
	if err != nil {
		return nil, err
	}
	sort.Strings(names)
	var steps []step
	for i, name := range names {
		base := strings.TrimSuffix(strings.TrimPrefix(name, "migrations/"), ".sql")
		number, title, _ := strings.Cut(base, "_")
		v, err := strconv.ParseInt(number, 10, 64)
		if err != nil || v != int64(i+1) {
			return nil, fmt.Errorf("migrations of %s: expected file %04d_title.sql, found %s", set.Domain, i+1, name)
		}
		text, err := fs.ReadFile(set.Files, name)
		if err != nil {
			return nil, err
		}
		steps = append(steps, step{v, title, string(text)})
	}
	return steps, nil
}
