package fleet

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"lyceum/platform/blob"
	"lyceum/platform/conf"
	"lyceum/platform/db"
	"lyceum/platform/db/dbtest"
	"lyceum/platform/domain"
	"lyceum/platform/engines/enginestest"
	"lyceum/platform/lease"
	"lyceum/platform/stream"
)

// tablesAfter are the tables that migrations make in an empty database.
func tablesAfter(t *testing.T, sets ...db.Migrations) map[string]db.Table {
	t.Helper()
	d := dbtest.Open(t, "sqlite:"+filepath.Join(t.TempDir(), "schema.db"), sets...)
	list, err := d.Tables(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]db.Table{}
	for _, table := range list {
		out[table.Name] = table
	}
	delete(out, "migrations") // what package db keeps
	delete(out, "migration_needs")
	return out
}

// TestTablesBelongToOneDomain holds that no domain makes or changes a table of another: each schema is made without the
// others, but for the leases, and together they are the whole.
func TestTablesBelongToOneDomain(t *testing.T) {
	whole, leases := tablesAfter(t, migrations()...), tablesAfter(t, lease.Migrations())
	owner := map[string]string{}
	for _, d := range Domains {
		if d.Migrations.Files == nil {
			if len(d.Blobs)+len(d.Restore) > 0 {
				t.Errorf("domain %s has no tables and says something of some", d.Name)
			}
			continue
		}
		if d.Migrations.Domain != d.Name {
			t.Errorf("domain %s has the migrations of %s", d.Name, d.Migrations.Domain)
		}
		tables := tablesAfter(t, lease.Migrations(), d.Migrations)
		if d.Name != own.Name {
			for name, table := range leases {
				if !reflect.DeepEqual(tables[name], table) {
					t.Errorf("domain %s changes the columns of %s, which is of package lease", d.Name, name)
				}
				delete(tables, name)
			}
		}
		for name, table := range tables {
			if owner[name] != "" {
				t.Errorf("the table %s is made by %s and by %s", name, owner[name], d.Name)
			}
			owner[name] = d.Name
			if !reflect.DeepEqual(table, whole[name]) {
				t.Errorf("the table %s of %s has other columns when all domains are there: only the domain may change it", name, d.Name)
			}
		}
		for _, r := range d.Restore {
			if _, ok := tables[r.Table]; !ok || r.Do == 0 || r.Rows == "" {
				t.Errorf("domain %s has the restore rule %+v: expected a table of its own, what its rows are, and what to do", d.Name, r)
			}
		}
		for _, b := range d.Blobs {
			if !slices.ContainsFunc(tables[b.Table].Columns, func(c db.Column) bool { return c.Name == b.Column && c.Kind == db.Text }) {
				t.Errorf("domain %s says that blobs are named by %s.%s, which is no text of its own", d.Name, b.Table, b.Column)
			}
		}
	}
	for name := range whole {
		if owner[name] == "" {
			t.Errorf("the table %s is of no domain", name)
		}
	}
}

// siteOver is an empty server without processes, over SQLite or PostgreSQL, with the schema of all domains.
func siteOver(t *testing.T, engine string, sets ...db.Migrations) (*Config, *db.DB, blob.Store) {
	t.Helper()
	dir := t.TempDir()
	environ := []string{"LYCEUM_SERVER_DATA=" + dir, "LYCEUM_BLOB_DIRECTORY=" + filepath.Join(dir, "blobs")}
	if engine == "postgres" {
		environ = append(environ, "LYCEUM_DATABASE_URL="+enginestest.TestPostgres(t))
	}
	c, err := Load(conf.Sources{Environ: environ})
	if err != nil {
		t.Fatal(err)
	}
	d, err := db.Open(t.Context(), c.databaseURL(), db.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	if len(sets) > 0 {
		if err := db.Migrate(t.Context(), d, slog.New(slog.DiscardHandler), sets...); err != nil {
			t.Fatal(err)
		}
	}
	blobs, err := blob.Open(t.Context(), c.Blob)
	if err != nil {
		t.Fatal(err)
	}
	return c, d, blobs
}

// insert writes a row of a table; columns without a value get some.
func insert(t *testing.T, d *db.DB, table db.Table, values map[string]any) {
	t.Helper()
	some := map[db.Kind]any{db.Integer: 7, db.Text: "text", db.Bytes: []byte("bytes"), db.Bool: true, db.Float: 1.5}
	var names []string
	var row []any
	for _, c := range table.Columns {
		names = append(names, `"`+c.Name+`"`)
		row = append(row, cmp.Or(values[c.Name], some[c.Kind]))
	}
	if err := d.Bulk(t.Context(), `INSERT INTO "`+table.Name+`" (`+strings.Join(names, ", ")+") VALUES ?", [][]any{row}); err != nil {
		t.Fatal(err)
	}
}

// rowsOf are the rows of a table as text.
func rowsOf(t *testing.T, d *db.DB, table db.Table) string {
	t.Helper()
	values, into := make([]any, len(table.Columns)), make([]any, len(table.Columns))
	var names []string
	for i, c := range table.Columns {
		into[i] = &values[i]
		names = append(names, `"`+c.Name+`"`)
	}
	var lines []string
	err := db.Each(func(row db.Row) error {
		err := row.Scan(into...)
		lines = append(lines, fmt.Sprint(values...))
		return err
	})(d.Query(t.Context(), "SELECT "+strings.Join(names, ", ")+` FROM "`+table.Name+`"`))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// namesBlob tells of a column that by its name names a blob. Columns that do are called so.
var namesBlob = regexp.MustCompile(`(^|_)(blobs?|sha256)(_|$)`)

// TestBackupsHaveTheBlobsOfAllDomains goes through the columns of the schema: a blob that a row names is in a backup and
// comes back, and a backup says so when it is lost.
func TestBackupsHaveTheBlobsOfAllDomains(t *testing.T) {
	declared := map[string]domain.Blob{}
	for _, b := range collect(func(d domain.Domain) []domain.Blob { return d.Blobs }) {
		declared[b.Table+"."+b.Column] = b
	}
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			c, d, blobs := siteOver(t, engine, migrations()...)
			texts := map[string]string{} // by key
			for _, table := range tablesAfter(t, migrations()...) {
				values := map[string]any{}
				for _, column := range table.Columns {
					name := table.Name + "." + column.Name
					b, ok := declared[name]
					if !namesBlob.MatchString(column.Name) && !ok {
						continue
					}
					if !ok {
						t.Errorf("the column %s names blobs and is in Blobs of no domain: a backup would not notice when one is lost", name)
					}
					hash := sha256.Sum256([]byte(name))
					value := hex.EncodeToString(hash[:])
					if b.Prefix == "" {
						value = "files/" + value
					}
					values[column.Name], texts[b.Prefix+value] = value, name
				}
				if len(values) > 0 {
					insert(t, d, table, values)
				}
			}
			put := func(key string) {
				if _, err := blobs.Put(t.Context(), key, strings.NewReader(texts[key]), int64(len(texts[key]))); err != nil {
					t.Fatal(err)
				}
			}
			for key := range texts {
				put(key)
			}
			file := filepath.Join(t.TempDir(), "backup")
			var out bytes.Buffer
			if err := Backup(t.Context(), c, BackupOptions{Target: file}, &out); err != nil || strings.Contains(out.String(), "WARNING") || strings.Contains(out.String(), "copied before") {
				t.Fatalf("%v\n%s", err, out.String())
			}
			target, _, restored := siteOver(t, "sqlite")
			if err := Restore(t.Context(), target, RestoreOptions{Source: file}, io.Discard); err != nil {
				t.Fatal(err)
			}
			for key, text := range texts {
				if got, err := read(t.Context(), restored, key); err != nil || got != text {
					t.Errorf("the blob %s of %s was not restored: %q, %v", key, text, got, err)
				}
				if err := blobs.Delete(t.Context(), key); err != nil {
					t.Fatal(err)
				}
				out.Reset()
				lost := "does not have 1 blobs that rows name, the first is " + key
				if err := Backup(t.Context(), c, BackupOptions{Target: file}, &out); err == nil || !strings.Contains(err.Error(), lost) {
					t.Errorf("the blob %s of %s is lost, and the backup says: %v\n%s", key, text, err, out.String())
				}
				if err := VerifyBackup(t.Context(), file, nil, false, io.Discard); err != nil {
					t.Errorf("the backup before it is gone: %v", err)
				}
				without := file + ".incomplete"
				if err := Backup(t.Context(), c, BackupOptions{Target: without, Incomplete: true}, &out); err == nil || !strings.Contains(err.Error(), lost) {
					t.Errorf("the backup without the blob %s of %s passes for whole: %v\n%s", key, text, err, out.String())
				}
				if err := VerifyBackup(t.Context(), without, nil, false, &out); err == nil || !strings.Contains(err.Error(), lost) || strings.Contains(out.String(), "whole:    yes") {
					t.Errorf("the backup without the blob %s of %s is found whole: %v\n%s", key, text, err, out.String())
				}
				put(key)
			}
		})
	}
}

func read(ctx context.Context, s blob.Store, key string) (string, error) {
	r, err := s.Get(ctx, key, 0, -1)
	if err != nil {
		return "", err
	}
	defer r.Close()
	text, err := io.ReadAll(r)
	return string(text), err
}

// TestABackupOfAnOlderSchema: the command of a new version backs up a server that was not upgraded yet, which lacks
// the tables of new domains.
func TestABackupOfAnOlderSchema(t *testing.T) {
	c, _, _ := siteOver(t, "sqlite", lease.Migrations())
	if err := Backup(t.Context(), c, BackupOptions{Target: filepath.Join(t.TempDir(), "backup")}, io.Discard); err != nil {
		t.Error(err)
	}
}

// TestEveryTableIsRestoredByItsRule: a row of every table goes through a backup. Without a rule it comes back as it was.
func TestEveryTableIsRestoredByItsRule(t *testing.T) {
	rules := map[string]domain.Rule{}
	for _, r := range restoreRules() {
		rules[r.Table] = r
	}
	for table, do := range map[string]domain.Treatment{ // what would do harm if it were put back as it was
		"one_time_keys": domain.Dropped, "push_outbox": domain.Dropped, "leases": domain.Rewritten, "fleet": domain.Rewritten, "machines": domain.Skipped,
	} {
		if rules[table].Do != do {
			t.Errorf("the rule for %s is %+v", table, rules[table])
		}
	}
	for _, engine := range []string{"sqlite", "postgres"} {
		for _, move := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s moved %v", engine, move), func(t *testing.T) {
				c, d, _ := siteOver(t, engine, migrations()...)
				tables := tablesAfter(t, migrations()...)
				for _, table := range tables {
					values := map[string]any{}
					if table.Name == "fleet" {
						values["name"] = "log_epoch"
					}
					if _, err := d.Exec(t.Context(), `DELETE FROM "`+table.Name+`"`); err != nil { // of a migration
						t.Fatal(err)
					}
					insert(t, d, table, values)
				}
				if _, err := d.Exec(t.Context(), "INSERT INTO fleet (name, value) VALUES ($1, $2)", nameRow, cmp.Or(c.Server.Name, firstName)); err != nil {
					t.Fatal(err)
				}
				file := filepath.Join(t.TempDir(), "backup")
				if err := Backup(t.Context(), c, BackupOptions{Target: file, NoBlobs: true}, io.Discard); err != nil {
					t.Fatal(err)
				}
				target, restored, _ := siteOver(t, engine)
				if err := Restore(t.Context(), target, RestoreOptions{Source: file, Continue: move}, io.Discard); err != nil {
					t.Fatal(err)
				}
				for _, table := range tables {
					before, after := rowsOf(t, d, table), rowsOf(t, restored, table)
					switch rule := rules[table.Name]; {
					case rule.Do == domain.Skipped, rule.Do == domain.Dropped && !move:
						if after != "" {
							t.Errorf("%s (%s) were restored: %s", table.Name, rule.Rows, after)
						}
					case rule.Do == domain.Rewritten && !(table.Name == "fleet" && move):
						if after == "" || after == before {
							t.Errorf("%s (%s) were not rewritten: %s", table.Name, rule.Rows, after)
						}
					case after != before:
						t.Errorf("%s: expected %s, found %s", table.Name, before, after)
					}
				}
			})
		}
	}
}

// TestDomainsDoWhatTheyDeclare: the streams, consumers, roles and sections of a process are those that are declared, and
// all that they name is there.
func TestDomainsDoWhatTheyDeclare(t *testing.T) {
	d := wired(t)
	names := map[string]string{}
	unique := func(kind, name, by string) {
		if old := names[kind+" "+name]; old != "" || name == "" {
			t.Errorf("%s %q of domain %s: expected a name of its own, and %s has it too", kind, name, by, old)
		}
		names[kind+" "+name] = by
	}
	there := func(kind, name, where string) {
		if names[kind+" "+name] == "" {
			t.Errorf("%s names the %s %q, and no domain declares it", where, kind, name)
		}
	}
	specs, consumers := map[string]stream.Spec{}, map[string]stream.Consumer{}
	for _, x := range Domains {
		unique("domain", x.Name, x.Name)
		for _, s := range x.Streams {
			unique("stream", s.Name, x.Name)
			specs[s.Name] = s
		}
		for _, c := range x.Consumers {
			unique("consumer", c.Name, x.Name)
			consumers[c.Name] = c
		}
		for _, r := range x.Roles {
			unique("role", r.Name, x.Name)
		}
	}
	for _, st := range d.process.Streams.All() {
		if opened := st.Spec().With(nil, nil); !reflect.DeepEqual(opened, specs[st.Name()]) {
			t.Errorf("the stream %s is opened as %+v and declared as %+v", st.Name(), opened, specs[st.Name()])
		}
		there("role", st.Role(), "stream "+st.Name())
		delete(specs, st.Name())
	}
	for _, c := range d.process.Streams.Consumers() {
		want := consumers[c.Name]
		if c.Role != want.Role || c.Linger != want.Linger || c.Batch != cmp.Or(want.Batch, 100) {
			t.Errorf("the consumer %s is %+v and declared as %+v", c.Name, c, want)
		}
		there("role", c.Role, "consumer "+c.Name)
		there("stream", c.Stream.Name(), "consumer "+c.Name)
		delete(consumers, c.Name)
	}
	if len(specs)+len(consumers) > 0 {
		t.Errorf("declared and never opened: %v %v", specs, consumers)
	}
	for _, r := range Roles {
		if r.Stream != "" {
			there("stream", r.Stream, "role "+r.Name)
		}
		if r.Pool != "" {
			there("role", r.Pool, "role "+r.Name)
		}
	}
	for _, name := range reading {
		there("role", name, "the order of roles")
	}
	for _, r := range d.routes {
		if r.Role != "" {
			there("role", r.Role, r.Pattern)
		}
	}
	sections := map[string]bool{}
	for _, s := range d.config.Sections() {
		if sections[s.Name] || s.Help == "" {
			t.Errorf("the section %q of the configuration: expected one, with a line of help", s.Name)
		}
		sections[s.Name] = true
	}
}

// TestADomainWithoutConstructorIsSeen holds that a domain can not be declared and then left out.
func TestADomainWithoutConstructorIsSeen(t *testing.T) {
	if _, err := wired(t).construct("forgotten"); err == nil || !strings.Contains(err.Error(), "wire.go") {
		t.Errorf("found %v", err)
	}
}
