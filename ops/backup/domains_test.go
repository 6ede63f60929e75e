package backup_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"lyceum/fleet"
	"lyceum/ops/backup"
	"lyceum/ops/opstest"
	"lyceum/platform/blob"
	"lyceum/platform/db"
	"lyceum/platform/db/dbtest"
	"lyceum/platform/domain"
	"lyceum/platform/lease"
)

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
	for _, b := range fleet.Collect(func(d domain.Domain) []domain.Blob { return d.Blobs }) {
		declared[b.Table+"."+b.Column] = b
	}
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) {
			c, d, blobs := opstest.Server(t, engine, fleet.Migrations()...)
			texts := map[string]string{} // by key
			for _, table := range dbtest.Tables(t, fleet.Migrations()...) {
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
			if err := backup.Make(t.Context(), c, backup.Options{Target: file}, &out); err != nil || strings.Contains(out.String(), "WARNING") ||
				strings.Contains(out.String(), "copied before") {
				t.Fatalf("%v\n%s", err, out.String())
			}
			target, _, restored := opstest.Server(t, "sqlite")
			if err := backup.Restore(t.Context(), target, backup.RestoreOptions{Source: file}, io.Discard); err != nil {
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
				if err := backup.Make(t.Context(), c, backup.Options{Target: file}, &out); err == nil || !strings.Contains(err.Error(), lost) {
					t.Errorf("the blob %s of %s is lost, and the backup says: %v\n%s", key, text, err, out.String())
				}
				if err := backup.Verify(t.Context(), file, nil, false, io.Discard); err != nil {
					t.Errorf("the backup before it is gone: %v", err)
				}
				without := file + ".incomplete"
				if err := backup.Make(t.Context(), c, backup.Options{Target: without, Incomplete: true}, &out); err == nil ||
					!strings.Contains(err.Error(), lost) {
					t.Errorf("the backup without the blob %s of %s passes for whole: %v\n%s", key, text, err, out.String())
				}
				if err := backup.Verify(t.Context(), without, nil, false, &out); err == nil || !strings.Contains(err.Error(), lost) ||
					strings.Contains(out.String(), "whole:    yes") {
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
	c, _, _ := opstest.Server(t, "sqlite", lease.Migrations())
	if err := backup.Make(t.Context(), c, backup.Options{Target: filepath.Join(t.TempDir(), "backup")}, io.Discard); err != nil {
		t.Error(err)
	}
}

// TestEveryTableIsRestoredByItsRule: a row of every table goes through a backup. Without a rule it comes back as it was.
func TestEveryTableIsRestoredByItsRule(t *testing.T) {
	rules := map[string]domain.Rule{}
	for _, r := range fleet.Collect(func(d domain.Domain) []domain.Rule { return d.Restore }) {
		rules[r.Table] = r
	}
	for table, do := range map[string]domain.Treatment{ // what would do harm if it were put back as it was
		"one_time_keys": domain.Dropped, "push_outbox": domain.Dropped, "leases": domain.Rewritten, "fleet": domain.Rewritten,
		"machines": domain.Skipped,
	} {
		if rules[table].Do != do {
			t.Errorf("the rule for %s is %+v", table, rules[table])
		}
	}
	for _, engine := range []string{"sqlite", "postgres"} {
		for _, move := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s moved %v", engine, move), func(t *testing.T) {
				c, d, _ := opstest.Server(t, engine, fleet.Migrations()...)
				tables := dbtest.Tables(t, fleet.Migrations()...)
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
				if _, err := d.Exec(t.Context(), "INSERT INTO fleet (name, value) VALUES ($1, $2)", "server_name",
					cmp.Or(c.Server.Name, fleet.DefaultName)); err != nil {
					t.Fatal(err)
				}
				file := filepath.Join(t.TempDir(), "backup")
				if err := backup.Make(t.Context(), c, backup.Options{Target: file, NoBlobs: true}, io.Discard); err != nil {
					t.Fatal(err)
				}
				target, restored, _ := opstest.Server(t, engine)
				if err := backup.Restore(t.Context(), target, backup.RestoreOptions{Source: file, Continue: move}, io.Discard); err != nil {
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
