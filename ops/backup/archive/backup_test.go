package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/klauspost/compress/zstd"

	"lyceum/platform/blob"
	"lyceum/platform/db"
	"lyceum/platform/domain"
	"lyceum/platform/engines/enginestest"
)

// steps are a domain whose second step adds a column and an index, and whose third changes rows.
func steps(n int) []db.Migrations {
	all := []string{
		"CREATE TABLE things (id BIGINT PRIMARY KEY, name TEXT, data BYTEA, flag BOOLEAN NOT NULL, size DOUBLE PRECISION);\n" +
			"CREATE TABLE gone (id BIGINT PRIMARY KEY);\nINSERT INTO gone (id) VALUES (77);\nCREATE TABLE files (blob TEXT);\n",
		"ALTER TABLE things ADD COLUMN \"order\" BIGINT NOT NULL DEFAULT 5;\nCREATE UNIQUE INDEX things_name ON things (name);\n",
		"UPDATE things SET \"order\" = 9 WHERE id = 1;\n",
	}
	fs := fstest.MapFS{}
	for i := range n {
		fs[fmt.Sprintf("migrations/%04d_step.sql", i+1)] = &fstest.MapFile{Data: []byte(all[i])}
	}
	return []db.Migrations{{Domain: "test", Files: fs}}
}

type place struct {
	d     *db.DB
	blobs blob.Store
}

func open(t *testing.T, url string, sets []db.Migrations) place {
	t.Helper()
	d, err := db.Open(t.Context(), url, db.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	if sets != nil {
		if err := db.Migrate(t.Context(), d, slog.New(slog.DiscardHandler), sets...); err != nil {
			t.Fatal(err)
		}
	}
	s, err := blob.OpenDirectory(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return place{d, s}
}

func lite(t *testing.T) string { return "sqlite:" + filepath.Join(t.TempDir(), "x.db") }

// fill makes rows of every kind, and enough for several pieces, and a few blobs.
func (p place) fill(t *testing.T) {
	t.Helper()
	rows := [][]any{
		{1, "a", []byte{0, 255}, true, 1.5},
		{2, nil, nil, false, nil},
		{-3, "", []byte{}, true, 0.0},
		{1 << 62, "ü\U0001F600'\"\\", bytes.Repeat([]byte("x"), 3<<20), false, -1e300},
	}
	for i := range 5000 {
		rows = append(rows, []any{1000 + i, fmt.Sprintf("name %d %s", i, strings.Repeat("y", 300)), []byte{byte(i)}, i%2 == 0, float64(i) / 3})
	}
	if err := p.d.Bulk(t.Context(), "INSERT INTO things (id, name, data, flag, size) VALUES ?", rows); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		p.put(t, fmt.Sprint("blob ", i, strings.Repeat("z", i*10_000)))
	}
	p.put(t, "")
}

func (p place) put(t *testing.T, text string) (key string) {
	t.Helper()
	hash, _, err := blob.PutContent(t.Context(), p.blobs, "media/", strings.NewReader(text), -1)
	if err != nil {
		t.Fatal(err)
	}
	return "media/" + hash
}

func (p place) source() Source {
	return Source{
		DB: p.d, Blobs: p.blobs, Sets: steps(2), ServerName: "x.test", Version: "1.2.3", Config: []byte("a: b\n"), SkipBlobs: "probe/",
	}
}

func (p place) target(sets []db.Migrations) Target {
	return Target{
		DB: p.d, Blobs: p.blobs, Sets: sets, ServerName: "x.test", Version: "1.2.3", Log: slog.New(slog.DiscardHandler),
		SkipBlobs: "probe/",
	}
}

var serial int

func options(target string) Options {
	serial++
	return Options{Target: target, ID: fmt.Sprint("id", serial), Now: time.Now}
}

func (p place) backup(t *testing.T, target string) *Manifest {
	t.Helper()
	m, err := Write(t.Context(), p.source(), options(target))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// dump is every row and every blob, read without this package.
func (p place) dump(t *testing.T) string {
	t.Helper()
	var lines []string
	tables, err := p.d.Tables(t.Context(), p.d)
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		rows, err := p.d.Query(t.Context(), "SELECT * FROM "+table.Name)
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			values, into := make([]any, len(table.Columns)), make([]any, len(table.Columns))
			for i := range values {
				into[i] = &values[i]
			}
			if err := rows.Scan(into...); err != nil {
				t.Fatal(err)
			}
			if table.Name == "migrations" {
				values[3] = 0 // when
			}
			line := table.Name
			for i, v := range values {
				switch x := v.(type) {
				case []byte:
					v = fmt.Sprintf("%x", sha256.Sum256(x))
				case int64: // of a boolean in SQLite
					if table.Columns[i].Kind == db.Bool {
						v = x != 0
					}
				}
				line += fmt.Sprintf(" %s=%v", table.Columns[i].Name, v)
			}
			lines = append(lines, line)
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(lines)
	err = eachBlob(t.Context(), p.blobs, func(i blob.Info) error {
		r, err := p.blobs.Get(t.Context(), i.Key, 0, -1)
		if err != nil {
			return err
		}
		defer r.Close()
		h := sha256.New()
		n, err := io.Copy(h, r)
		lines = append(lines, fmt.Sprintf("%s %d %x", i.Key, n, h.Sum(nil)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(lines, "\n")
}

func difference(t *testing.T, want, got string) {
	t.Helper()
	if want == got {
		return
	}
	a, b := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range max(len(a), len(b)) {
		if i >= len(a) || i >= len(b) || a[i] != b[i] {
			t.Fatalf("%d lines expected, %d found; the first that differs:\n%.300s\n%.300s", len(a), len(b), strings.Join(a[i:min(i+1, len(a))], ""),
				strings.Join(b[i:min(i+1, len(b))], ""))
		}
	}
}

func TestBetweenTheEngines(t *testing.T) {
	for _, from := range []string{"sqlite", "postgres"} {
		url := lite(t)
		if from == "postgres" {
			url = enginestest.TestPostgres(t)
		}
		source := open(t, url, steps(2))
		source.fill(t)
		file := filepath.Join(t.TempDir(), "b.tar.zst")
		m := source.backup(t, file)
		if m.rows() != 5005 || m.Blobs.Count != 21 || m.Engine != from || m.Schema["test"] != 2 {
			t.Errorf("the manifest says %+v", m)
		}
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the file has the mode %v, %v", info.Mode(), err)
		}
		want := source.dump(t)
		for _, to := range []string{"sqlite", "postgres"} {
			t.Run(from+" to "+to, func(t *testing.T) {
				url := lite(t)
				if to == "postgres" {
					url = enginestest.TestPostgres(t)
				}
				target := open(t, url, nil)
				_, done, err := Restore(t.Context(), file, target.target(steps(2)), VerifyOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if done.Rows != 5005 || done.Blobs != 21 {
					t.Errorf("restored %+v", done)
				}
				difference(t, want, target.dump(t))
				if _, err := target.d.Exec(t.Context(), "INSERT INTO things (id, name, flag) VALUES (5, 'a', TRUE)"); !db.IsUnique(err) {
					t.Errorf("the index is not there: %v", err)
				}
				if _, _, err := Restore(t.Context(), file, target.target(steps(2)), VerifyOptions{}); err == nil ||
					!strings.Contains(err.Error(), "not empty") {
					t.Errorf("a second restore: %v", err)
				}
				if _, err := target.d.Exec(t.Context(), "DELETE FROM things WHERE id > 0"); err != nil {
					t.Fatal(err)
				}
				again := target.target(steps(2))
				again.Replace = true
				if _, done, err = Restore(t.Context(), file, again, VerifyOptions{}); err != nil || done.Blobs != 0 || done.There != 21 {
					t.Fatalf("replaced: %+v, %v", done, err)
				}
				difference(t, want, target.dump(t))
			})
		}
	}
}

func TestOldAndNewSchemas(t *testing.T) {
	source := open(t, lite(t), steps(2))
	source.fill(t)
	file := filepath.Join(t.TempDir(), "b.tar.zst")
	source.backup(t, file)

	newer := open(t, lite(t), nil)
	if _, _, err := Restore(t.Context(), file, newer.target(steps(3)), VerifyOptions{}); err != nil {
		t.Fatal(err)
	}
	var order int
	if err := newer.d.QueryRow(t.Context(), `SELECT "order" FROM things WHERE id = 1`).Scan(&order); err != nil || order != 9 {
		t.Errorf("the third step was not done: %d, %v", order, err)
	}
	older := open(t, lite(t), nil)
	empty := older.dump(t)
	if _, _, err := Restore(t.Context(), file, older.target(steps(1)), VerifyOptions{}); err == nil ||
		!strings.Contains(err.Error(), "schema step 2 of test") {
		t.Errorf("an older version: %v", err)
	}
	for name, change := range map[string]func(*Target){
		"server.name": func(t *Target) { t.ServerName = "y.test" },
		"use version": func(t *Target) { t.Version = "0.9.9" },
		"no thanks":   func(t *Target) { t.Accept = func(context.Context, *Checked) error { return errors.New("no thanks") } },
		"refused":     func(t *Target) { t.Before = func(context.Context, *db.Tx, bool) error { return errors.New("refused") } },
		"at the end":  func(t *Target) { t.After = func(context.Context, *db.Tx) error { return errors.New("at the end") } },
	} {
		target := older.target(steps(2))
		target.Blobs = nil
		change(&target)
		if _, _, err := Restore(t.Context(), file, target, VerifyOptions{}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("expected %q, found %v", name, err)
		}
	}
	difference(t, empty, older.dump(t))
}

// unpack is what an archive holds.
func unpack(archive []byte) ([]byte, error) {
	z, err := zstd.NewReader(bytes.NewReader(archive))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	return io.ReadAll(z)
}

func TestDamageIsFoundBeforeAnythingIsChanged(t *testing.T) {
	source := open(t, lite(t), steps(2))
	source.fill(t)
	file := filepath.Join(t.TempDir(), "b.tar.zst")
	source.backup(t, file)
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	content, err := unpack(whole)
	if err != nil {
		t.Fatal(err)
	}
	target := open(t, lite(t), steps(2))
	target.put(t, "mine")
	before := target.dump(t)
	bad := filepath.Join(t.TempDir(), "bad")
	try := func(what string, data []byte) {
		t.Helper()
		if err := os.WriteFile(bad, data, 0o600); err != nil {
			t.Fatal(err)
		}
		into := target.target(steps(2))
		into.Replace = true
		if _, _, err := Restore(t.Context(), bad, into, VerifyOptions{}); !errors.Is(err, ErrDamaged) ||
			strings.Count(err.Error(), ErrDamaged.Error()) != 1 {
			t.Errorf("%s: expected that it is damaged, found %v", what, err)
		}
	}
	const places = 100
	for i := range places {
		at := i * (len(whole) - 1) / (places - 1)
		if i%8 == 0 {
			try(fmt.Sprint("cut at ", at), whole[:at])
		}
		flipped := slices.Clone(whole)
		flipped[at] ^= 1 << (i % 8)
		if text, err := unpack(flipped); err == nil && bytes.Equal(text, content) {
			continue // the compression has bits that nobody reads
		}
		try(fmt.Sprint("flipped at ", at), flipped)
	}
	try("nothing", nil)
	try("text", []byte("hello"))
	try("with more behind", append(slices.Clone(whole), "more"...))
	difference(t, before, target.dump(t))
}

// rewrite takes an archive apart and puts it together again with changed parts.
func rewrite(t *testing.T, file string, change func(h *tar.Header, data []byte) (*tar.Header, []byte)) string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := zstd.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	var out bytes.Buffer
	w, err := zstd.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	in, to := tar.NewReader(z), tar.NewWriter(w)
	for {
		h, err := in.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		if h, data = change(h, data); h == nil {
			continue
		}
		h.Size = int64(len(data))
		if err := to.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := to.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(to.Close(), w.Close()); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "changed")
	if err := os.WriteFile(name, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestForgedPartsAreRefused(t *testing.T) {
	source := open(t, lite(t), steps(2))
	source.fill(t)
	file := filepath.Join(t.TempDir(), "b.tar.zst")
	source.backup(t, file)
	is := func(part string) func(h *tar.Header) bool {
		return func(h *tar.Header) bool { return strings.HasPrefix(h.Name, part) }
	}
	for what, c := range map[string]struct {
		at     func(h *tar.Header) bool
		change func(h *tar.Header, data []byte) (*tar.Header, []byte)
	}{
		"a path upwards": {is(blobPrefix), func(h *tar.Header, d []byte) (*tar.Header, []byte) {
			h.Name = blobPrefix +
				"../../x"
			return h, d
		}},
		"an absolute path": {is(blobPrefix), func(h *tar.Header, d []byte) (*tar.Header, []byte) { h.Name = "/etc/passwd"; return h, d }},
		"a dotted path":    {is(blobPrefix), func(h *tar.Header, d []byte) (*tar.Header, []byte) { h.Name = blobPrefix + "a/./b"; return h, d }},
		"an unknown part":  {is(configName), func(h *tar.Header, d []byte) (*tar.Header, []byte) { h.Name = "other"; return h, d }},
		"another blob":     {is(blobPrefix), func(h *tar.Header, d []byte) (*tar.Header, []byte) { return h, append(d, 'x') }},
		"a blob less":      {is(blobPrefix), func(*tar.Header, []byte) (*tar.Header, []byte) { return nil, nil }},
		"rows less":        {is(rowsPrefix + "things/00000002"), func(*tar.Header, []byte) (*tar.Header, []byte) { return nil, nil }},
		"no tables":        {is(tablesName), func(*tar.Header, []byte) (*tar.Header, []byte) { return nil, nil }},
		"no configuration": {is(configName), func(*tar.Header, []byte) (*tar.Header, []byte) { return nil, nil }},
		"no manifest":      {is(manifestName), func(*tar.Header, []byte) (*tar.Header, []byte) { return nil, nil }},
		"rows of another": {is(rowsPrefix), func(h *tar.Header, d []byte) (*tar.Header, []byte) {
			h.Name = rowsPrefix +
				"other/1"
			return h, d
		}},
		"half a row":        {is(rowsPrefix), func(h *tar.Header, d []byte) (*tar.Header, []byte) { return h, d[:len(d)-1] }},
		"no list of blobs":  {is(listPrefix), func(*tar.Header, []byte) (*tar.Header, []byte) { return nil, nil }},
		"a newer format":    {is(headerName), func(h *tar.Header, _ []byte) (*tar.Header, []byte) { return h, []byte(`{"format":2,"id":"x"}`) }},
		"an empty manifest": {is(manifestName), func(h *tar.Header, _ []byte) (*tar.Header, []byte) { return h, []byte(`{}`) }},
		"a link": {is(configName), func(h *tar.Header, _ []byte) (*tar.Header, []byte) {
			h.Typeflag, h.Linkname = tar.TypeSymlink, "/x"
			return h, nil
		}},
	} {
		t.Run(what, func(t *testing.T) {
			done := false
			bad := rewrite(t, file, func(h *tar.Header, data []byte) (*tar.Header, []byte) {
				if !done && c.at(h) {
					done = true
					return c.change(h, data)
				}
				return h, data
			})
			target := open(t, lite(t), nil)
			before := target.dump(t)
			if _, _, err := Restore(t.Context(), bad, target.target(steps(2)), VerifyOptions{}); err == nil || !done {
				t.Errorf("restored, changed: %v", done)
			}
			difference(t, before, target.dump(t))
		})
	}
	same := rewrite(t, file, func(h *tar.Header, data []byte) (*tar.Header, []byte) { return h, data })
	if _, err := Verify(t.Context(), same, VerifyOptions{}); err != nil {
		t.Errorf("an archive with the same parts: %v", err)
	}
}

func TestIncrementsAndDirectories(t *testing.T) {
	source := open(t, lite(t), steps(2))
	source.fill(t)
	dir := t.TempDir()
	first, second, third, all := filepath.Join(dir, "1"), filepath.Join(dir, "2"), filepath.Join(dir, "3"), filepath.Join(dir, "all")+"/"
	source.backup(t, first)
	if m := source.backup(t, all); m.Blobs.Added != 21 || m.Blobs.Where != Beside {
		t.Errorf("a directory: %+v", m.Blobs)
	}
	since := func(base, target string, added int64) {
		t.Helper()
		o := options(target)
		o.Since = base
		m, err := Write(t.Context(), source.source(), o)
		if err != nil || m.Blobs.Added != added {
			t.Fatalf("added %+v, %v", m, err)
		}
	}
	gone := source.put(t, "new 1")
	source.put(t, "new 2")
	since(first, second, 2)
	if m := source.backup(t, all); m.Blobs.Added != 2 || m.Blobs.Count != 23 {
		t.Errorf("the second time in a directory: %+v", m.Blobs)
	}
	if err := source.blobs.Delete(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
	source.put(t, "new 3")
	since(second, third, 1)
	if m := source.backup(t, all); m.Blobs.Added != 1 || m.Blobs.Count != 23 {
		t.Errorf("the third time in a directory: %+v", m.Blobs)
	}
	if _, err := os.Stat(filepath.Join(all, dirBlobs, "me~")); err != nil {
		t.Error(err)
	}
	want := source.dump(t)
	for _, from := range []string{third, all} {
		target := open(t, lite(t), nil)
		if _, _, err := Restore(t.Context(), from, target.target(steps(2)), VerifyOptions{}); err != nil {
			t.Fatalf("%s: %v", from, err)
		}
		difference(t, want, target.dump(t))
	}
	moved := filepath.Join(t.TempDir(), "moved")
	if err := os.Rename(first, moved); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(t.Context(), third, VerifyOptions{}); err == nil || !strings.Contains(err.Error(), "--base") {
		t.Errorf("without a base: %v", err)
	}
	if _, err := Verify(t.Context(), third, VerifyOptions{Bases: []string{all, moved}}); err != nil {
		t.Errorf("with a base elsewhere: %v", err)
	}
	var one string
	err := filepath.Walk(filepath.Join(all, dirBlobs), func(path string, info os.FileInfo, err error) error {
		if err == nil && info.Size() > 1000 && !info.IsDir() {
			one = path
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(one)
	if err != nil {
		t.Fatal(err)
	}
	data[500] ^= 1
	if err := os.WriteFile(one, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(t.Context(), all, VerifyOptions{}); !errors.Is(err, ErrDamaged) {
		t.Errorf("a changed file in the directory: %v", err)
	}
}

// An interrupted backup leaves no file, and an interrupted restore an unchanged database.
func TestInterrupted(t *testing.T) {
	source := open(t, lite(t), steps(2))
	source.fill(t)
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	s := source.source()
	s.Blobs = stopping{source.blobs, cancel}
	if _, err := Write(ctx, s, options(filepath.Join(dir, "b"))); err == nil {
		t.Error("the backup was made")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	file := filepath.Join(dir, "b")
	source.backup(t, file)
	for _, url := range []string{lite(t), enginestest.TestPostgres(t)} {
		target := open(t, url, steps(2))
		if _, err := target.d.Exec(t.Context(), "INSERT INTO things (id, name, flag) VALUES (5, 'old', TRUE)"); err != nil {
			t.Fatal(err)
		}
		before := target.dump(t)
		ctx, cancel := context.WithCancel(t.Context())
		rows := 0
		into := target.target(steps(2))
		into.Replace, into.Blobs = true, nil
		into.Change = func(Row) bool {
			if rows++; rows == 3000 {
				cancel()
			}
			return true
		}
		if _, _, err := Restore(ctx, file, into, VerifyOptions{}); err == nil {
			t.Error("the restore was done")
		}
		difference(t, before, target.dump(t))
	}
}

// stopping is a store whose reader goes away in the middle.
type stopping struct {
	blob.Store
	cancel func()
}

func (s stopping) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	s.cancel()
	return s.Store.Get(ctx, key, offset, length)
}

// breaking is a store that breaks off each answer after some bytes.
type breaking struct{ blob.Store }

func (b breaking) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	r, err := b.Store.Get(ctx, key, offset, length)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(io.LimitReader(r, 60_000), broken{}), r}, nil
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("connection reset") }

func TestTroubleWithBlobs(t *testing.T) {
	source := open(t, lite(t), steps(2))
	source.fill(t)
	if _, err := source.d.Exec(t.Context(), "INSERT INTO files (blob) VALUES ('lost'), (''), (NULL)"); err != nil {
		t.Fatal(err)
	}
	wrong := "media/" + hex.EncodeToString(make([]byte, 32))
	for _, key := range []string{wrong, "probe/x"} {
		if _, err := source.blobs.Put(t.Context(), key, strings.NewReader("wrong"), 5); err != nil {
			t.Fatal(err)
		}
	}
	s := source.source()
	s.Blobs = breaking{source.blobs}
	s.References = []domain.Blob{
		{Table: "files", Column: "blob", Prefix: "media/"},
		{Table: "later", Column: "blob"},
		{Table: "things", Column: "later_blob"}, // of a version whose steps are not applied
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "b")
	if _, err := Write(t.Context(), s, options(file)); !errors.Is(err, ErrIncomplete) ||
		!strings.Contains(err.Error(), "1 blobs that rows name, the first is media/lost") {
		t.Errorf("a backup without a blob that a row names: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	o := options(file)
	o.Incomplete = true
	m, err := Write(t.Context(), s, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Blobs.Whole(); !errors.Is(err, ErrIncomplete) {
		t.Errorf("the backup passes for whole: %v", err)
	}
	if !slices.Equal(m.Blobs.Missing, []string{"media/lost"}) || m.Blobs.Lost != 1 || !slices.Equal(m.Blobs.Damaged, []string{wrong}) ||
		m.Blobs.Count != 22 {
		t.Errorf("found %+v", m.Blobs)
	}
	if _, err := Verify(t.Context(), file, VerifyOptions{}); err != nil {
		t.Error(err)
	}
}

// deleting is a store from which a blob is deleted while it is listed, after its row.
type deleting struct {
	blob.Store
	d    *db.DB
	key  string
	once *sync.Once
}

func (s deleting) List(ctx context.Context, prefix, after string, limit int) (out []blob.Info, err error) {
	s.once.Do(func() {
		_, err = s.d.Exec(ctx, "DELETE FROM files WHERE blob = $1", s.key)
		err = errors.Join(err, s.Delete(ctx, "media/"+s.key))
	})
	if err != nil {
		return nil, err
	}
	return s.Store.List(ctx, prefix, after, limit)
}

// TestABlobIsDeletedWhileItRuns: the deleted one is no loss, and one whose row is still there is.
func TestABlobIsDeletedWhileItRuns(t *testing.T) {
	source := open(t, lite(t), steps(2))
	source.fill(t)
	if _, err := source.d.Exec(t.Context(), "INSERT INTO files (blob) VALUES ('goes'), ('stays')"); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"media/goes", "media/stays"} {
		if _, err := source.blobs.Put(t.Context(), key, strings.NewReader("text"), 4); err != nil {
			t.Fatal(err)
		}
	}
	s := source.source()
	s.References = []domain.Blob{{Table: "files", Column: "blob", Prefix: "media/"}}
	s.Blobs = deleting{source.blobs, source.d, "goes", &sync.Once{}}
	to := t.TempDir() + "/"
	m, err := Write(t.Context(), s, options(to))
	if err != nil || m.Blobs.Gone != 1 || m.Blobs.Lost != 0 || m.Blobs.Whole() != nil {
		t.Fatalf("%v, %+v", err, m)
	}
	if err := source.blobs.Delete(t.Context(), "media/stays"); err != nil {
		t.Fatal(err)
	}
	o := options(to)
	o.Incomplete = true
	if m, err = Write(t.Context(), s, o); err != nil || m.Blobs.Lost != 1 || m.Blobs.Gone != 0 {
		t.Errorf("%v, %+v", err, m)
	}
	kept, err := beside(to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kept.Stat(t.Context(), "media/stays"); err != nil {
		t.Errorf("the last copy of a blob that the store lost was thrown away: %v", err)
	}
}

func FuzzRows(f *testing.F) {
	table := &db.Table{Name: "t", Columns: []db.Column{
		{Name: "a", Kind: db.Integer},
		{Name: "b", Kind: db.Text},
		{Name: "c", Kind: db.Bytes},
		{Name: "d", Kind: db.Bool},
		{Name: "e", Kind: db.Float},
	}}
	for _, values := range [][]any{{int64(-5), "text", []byte("bytes"), true, 2.5}, {nil, nil, nil, nil, nil}} {
		b, err := appendRow(nil, table, values)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte("n" + "t\xff\xff\xff\xff\xff\xff\xff\xff\x7f"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := newRowReader(bytes.NewReader(data), int64(len(data)))
		var again []byte
		values := make([]any, len(table.Columns))
		for {
			err := r.next(table, values)
			if err == io.EOF {
				break
			}
			if err != nil {
				return
			}
			if again, err = appendRow(again, table, values); err != nil {
				t.Fatal(err)
			}
		}
		if len(again) > len(data) { // lengths may be written longer than needed, never shorter
			t.Errorf("%d bytes became %d", len(data), len(again))
		}
	})
}

func FuzzArchive(f *testing.F) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, p := range [][2]string{
		{headerName, `{"format":1,"id":"x"}`},
		{configName, "a: b"},
		{tablesName, `[{"name":"t","columns":[{"name":"a","kind":"integer"}]}]`},
		{rowsPrefix + "t/1", "i\x00\x00\x00\x00\x00\x00\x00\x01"},
		{blobPrefix + "k", "v"},
		{listPrefix + "1", `{"key":"k","size":1,"sha256":"` + strings.Repeat("0", 64) + "\"}\n"},
		{manifestName, `{"format":1,"id":"x"}`},
	} {
		if err := w.WriteHeader(&tar.Header{Name: p[0], Size: int64(len(p[1])), Typeflag: tar.TypeReg}); err != nil {
			f.Fatal(err)
		}
		if _, err := w.Write([]byte(p[1])); err != nil {
			f.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		v := newVerifier(VerifyOptions{})
		m, err := readParts(tar.NewReader(bytes.NewReader(data)), visitor{
			header: func(h header) error { v.id = h.ID; return nil },
			config: func(_ string, text []byte) error { v.config = text; return nil },
			tables: func(tables []db.Table) error { v.tables = tables; return nil },
			rows:   v.rows, blob: v.blob, list: v.list,
		})
		if err == nil {
			_ = v.compare(m)
		}
	})
}

// TestABackupTakesNothingElsesPlace: neither that of a file of the server, nor that of a backup on which others stand.
func TestABackupTakesNothingElsesPlace(t *testing.T) {
	source := open(t, lite(t), steps(2))
	source.fill(t)
	dir := t.TempDir()
	taken, linked, first, second := filepath.Join(dir, "secret"), filepath.Join(dir, "link"), filepath.Join(dir, "1"), filepath.Join(dir, "2")
	if err := errors.Join(os.WriteFile(taken, []byte("a secret"), 0o600), os.Symlink(taken, linked),
		os.WriteFile(filepath.Join(dir, "empty"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	refused := func(target, since, word string) {
		t.Helper()
		o := options(target)
		o.Since = since
		if _, err := Write(t.Context(), source.source(), o); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%s since %q: %v, expected an error with %q", target, since, err, word)
		}
	}
	for _, target := range []string{taken, linked, filepath.Join(dir, "empty")} {
		refused(target, "", "is no backup")
	}
	if held, err := os.ReadFile(taken); err != nil || string(held) != "a secret" {
		t.Errorf("%q, %v", held, err)
	}
	source.backup(t, first)
	o := options(second)
	o.Since = first
	if _, err := Write(t.Context(), source.source(), o); err != nil {
		t.Fatal(err)
	}
	for _, pair := range [][2]string{{first, first}, {first, second}, {second, second}, {second, first}} {
		refused(pair[0], pair[1], "new name")
	}
	for _, from := range []string{first, second} {
		if _, err := Verify(t.Context(), from, VerifyOptions{}); err != nil {
			t.Errorf("%s: %v", from, err)
		}
	}
	source.backup(t, first) // one that stands on nothing
}
