package fleet

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"lyceum/ops/backup"
	"lyceum/platform/blob"
	"lyceum/platform/conf"
	"lyceum/platform/db"
	"lyceum/platform/disk"
	"lyceum/platform/domain"
	"lyceum/platform/obs"
)

// BackupOptions say what a backup takes and where it goes.
type BackupOptions struct {
	Target      string // a file, or a directory: one that exists, or a name that ends in a slash
	Since       string // an earlier backup, whose blobs are not copied again
	NoBlobs     bool   // the blob store has backups of its own
	WithSecrets bool   // the configuration with its secrets, and the secret of the fleet
	Incomplete  bool   // make one also when the blob store lacks files that rows name
	Terminal    bool   // out is a terminal
}

// RestoreOptions say what is restored and over what.
type RestoreOptions struct {
	Source      string
	Bases       []string // where the backups are on which an incremental one stands, beside its own directory
	Replace     bool     // throw away what the database holds
	Continue    bool     // the backup was the last act of a stopped server: clients go on where they were
	WriteConfig string   // file for the configuration in the backup; "": none
	Terminal    bool
}

const longest = 24 * time.Hour // a statement over a large table takes long

// Backup writes all that the server keeps, as it is at one moment, while processes run or not.
// The PostgreSQL of a fleet of lyceum up that is stopped runs meanwhile.
func Backup(ctx context.Context, c *Config, o BackupOptions, out io.Writer) error {
	return c.withEngines(ctx, func() error { return writeBackup(ctx, c, o, out) })
}

func writeBackup(ctx context.Context, c *Config, o BackupOptions, out io.Writer) error {
	began := time.Now()
	d, err := openExisting(ctx, c)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := c.knowName(ctx, d); err != nil {
		return err
	}
	c.Server.Name = cmp.Or(c.Server.Name, firstName)
	s := backup.Source{
		DB: d, Sets: migrations(), ServerName: c.Server.Name, Version: obs.Version, SkipBlobs: probePrefix,
		References: collect(func(d domain.Domain) []domain.Blob { return d.Blobs }), Inspect: func(ctx context.Context, q db.Querier, m *backup.Manifest) error { return c.inspect(ctx, q, m) },
	}
	for _, r := range restoreRules() {
		if r.Do == domain.Skipped {
			s.Skip = append(s.Skip, r.Table)
		}
	}
	if !o.NoBlobs {
		if s.Blobs, err = blob.Open(ctx, c.Blob); err != nil {
			return err
		}
	}
	if s.Config, err = c.file(o.WithSecrets); err != nil {
		return err
	}
	s.Config = append([]byte("# The configuration of the server when it was backed up.\n"), s.Config...)
	if o.WithSecrets {
		if s.Secret, err = givenSecret(c); err != nil {
			return err
		}
	}
	m, err := backup.Write(ctx, s, backup.Options{
		Target: o.Target, Since: o.Since, Incomplete: o.Incomplete, ID: rand.Text(), Now: time.Now, Progress: &backup.Progress{Out: out, Terminal: o.Terminal, Now: time.Now},
	})
	if ctx.Err() != nil {
		return errors.New("interrupted: no backup was made, and nothing is left of it")
	}
	if errors.Is(err, backup.ErrIncomplete) {
		return fmt.Errorf("%w: are the keys of blob in this configuration those of the processes? If the files are lost, --incomplete makes a backup of what is there", err)
	}
	if err != nil {
		return err
	}
	describe(out, o.Target, m)
	if m.Blobs.Where != backup.LeftOut {
		before := ""
		if n := m.Blobs.Count - m.Blobs.Added; n > 0 {
			before = fmt.Sprintf("; %d others were copied before", n)
		}
		fmt.Fprintf(out, "copied:   %d blobs, %s%s\n", m.Blobs.Added, backup.Bytes10(m.Blobs.AddedB), before)
	}
	fmt.Fprintf(out, "took:     %s\n", time.Since(began).Round(time.Millisecond))
	if o.WithSecrets {
		fmt.Fprintln(out, "WARNING: the backup holds every secret of the server in clear: who can read it can act as the server. Keep it encrypted.")
	}
	if err := m.Blobs.Whole(); err != nil {
		return fmt.Errorf("the backup was made, but it is %w", err)
	}
	return nil
}

// openExisting opens a database for long statements, but does not make one.
func openExisting(ctx context.Context, c *Config) (*db.DB, error) {
	if err := c.place(mustExist); err != nil {
		return nil, err
	}
	d, err := openLong(ctx, c)
	if err != nil {
		return nil, err
	}
	ours, err := d.Ours(ctx)
	if err == nil && !ours {
		err = c.noServer(mustExist)
	}
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

func openLong(ctx context.Context, c *Config) (*db.DB, error) {
	return c.openDatabase(ctx, db.Options{
		Readers: 4, Own: true, Timeout: longest, Params: map[string]string{"idle_in_transaction_session_timeout": "0"},
	})
}

// inspect adds the history that is copied, and whether anybody writes on.
func (c *Config) inspect(ctx context.Context, q db.Querier, m *backup.Manifest) error {
	err := q.QueryRow(ctx, "SELECT value FROM fleet WHERE name = 'log_epoch'").Scan(&m.LogEpoch)
	if err != nil && !errors.Is(err, db.ErrNoRows) {
		return err
	}
	if c.embedded() {
		p := &Process{config: c}
		m.Quiet = p.lockData() == nil
		p.close()
		return nil
	}
	living, err := livingMachines(ctx, q)
	m.Quiet = len(living) == 0
	return err
}

// livingMachines names the processes of a fleet.
func livingMachines(ctx context.Context, q db.Querier) ([]string, error) {
	return db.List(func(row db.Row) (string, error) {
		var id int64
		var host string
		err := row.Scan(&id, &host)
		return fmt.Sprintf("%d (%s)", id, host), err
	})(q.Query(ctx, "SELECT id, host FROM machines WHERE expires_ms > (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::bigint ORDER BY id"))
}

func describe(out io.Writer, name string, m *backup.Manifest) {
	rows := int64(0)
	for _, t := range m.Tables {
		rows += t.Rows
	}
	fmt.Fprintf(out, "backup:   %s\nserver:   %s, version %s, database %s\nmoment:   %s\nrows:     %d in %d tables\n",
		name, m.ServerName, m.Version, m.Engine, m.Age(), rows, len(m.Tables))
	b := m.Blobs
	if b.Where == backup.LeftOut {
		fmt.Fprintln(out, "blobs:    left out: back the blob store up by itself")
		return
	}
	fmt.Fprintf(out, "blobs:    %d, %s\n", b.Count, backup.Bytes10(b.Bytes))
	if b.Base != "" {
		fmt.Fprintf(out, "base:     %s, needed for a restore\n", b.BaseAt)
	}
	if b.Gone > 0 {
		fmt.Fprintf(out, "deleted:  %d blobs, with their rows, while the backup was made\n", b.Gone)
	}
	if err := b.Whole(); err != nil {
		fmt.Fprintln(out, "WARNING:", err)
	}
}

// VerifyBackup reads a backup to its end and checks every hash.
func VerifyBackup(ctx context.Context, source string, bases []string, terminal bool, out io.Writer) error {
	c, err := backup.Verify(ctx, source, backup.VerifyOptions{Bases: bases, Progress: &backup.Progress{Out: out, Terminal: terminal, Now: time.Now}})
	if err != nil {
		return err
	}
	describe(out, source, &c.Manifest)
	if err := c.Manifest.Blobs.Whole(); err != nil {
		fmt.Fprintln(out, "whole:    no")
		return fmt.Errorf("%s is as it was written, and it is %w", source, err)
	}
	fmt.Fprintln(out, "whole:    yes")
	return nil
}

// Restore fills an empty database and blob store from a backup.
func Restore(ctx context.Context, c *Config, o RestoreOptions, out io.Writer) error {
	began := time.Now()
	if _, err := os.Stat(o.Source); err != nil {
		return err
	}
	if _, err := os.Stat(o.WriteConfig); o.WriteConfig != "" && err == nil {
		return fmt.Errorf("%s is there already: name another file for the configuration", o.WriteConfig)
	}
	if err := c.place(mayMake); err != nil {
		return err
	}
	p := &Process{config: c, fresh: remember(c.Server.Data)}
	defer func() {
		if p.db != nil { // a restore that was refused, or interrupted, leaves no database
			if ours, err := p.db.Ours(context.WithoutCancel(ctx)); ours || err != nil {
				p.fresh = nil
			}
		}
		p.close()
	}()
	if err := os.MkdirAll(c.Server.Data, 0o700); err != nil {
		return fmt.Errorf("server.data: %w", err)
	}
	if c.embedded() {
		if err := p.lockData(); err != nil {
			return err
		}
	}
	var err error
	if p.obs, err = obs.New(obs.Config{LogLevel: "warn", LogFormat: c.Obs.LogFormat}); err != nil {
		return err
	}
	if p.db, err = openLong(ctx, c); err != nil {
		return err
	}
	r := &restoring{config: c, options: o, db: p.db, rules: map[string]domain.Rule{}}
	var dropped []string
	for _, rule := range restoreRules() {
		r.rules[rule.Table] = rule
		if rule.Do == domain.Dropped {
			dropped = append(dropped, rule.Rows)
		}
	}
	target := backup.Target{
		DB: p.db, Sets: migrations(), ServerName: c.Server.Name, Version: obs.Version, SkipBlobs: probePrefix, Replace: o.Replace,
		Accept: r.accept, Before: r.before, Change: r.change, After: r.after, Log: p.obs.Log,
		Progress: &backup.Progress{Out: out, Terminal: o.Terminal, Now: time.Now},
	}
	if target.Blobs, err = blob.Open(ctx, c.Blob); err != nil {
		return err
	}
	checked, done, err := backup.Restore(ctx, o.Source, target, backup.VerifyOptions{Bases: o.Bases, Peek: []string{"fleet"}})
	if ctx.Err() != nil && err != nil {
		return errors.New("interrupted: the database is as it was before; run the restore again")
	}
	if err != nil {
		return err
	}
	if o.WriteConfig != "" {
		if err := disk.WriteFile(o.WriteConfig, checked.Config, 0o600); err != nil {
			return fmt.Errorf("all is restored, but the configuration could not be written: %w", err)
		}
	}
	describe(out, o.Source, &checked.Manifest)
	fmt.Fprintf(out, "restored: %d rows and %d blobs (%s); %d blobs were there already\ntook:     %s\n",
		done.Rows, done.Blobs, backup.Bytes10(done.Bytes), done.There, time.Since(began).Round(time.Millisecond))
	if done.Dropped > 0 {
		fmt.Fprintf(out, "left out: %d rows that mean nothing in a restored server (%s)\n", done.Dropped, strings.Join(dropped, ", "))
	}
	if done.Cleaned > 0 {
		fmt.Fprintf(out, "WARNING: %d texts had characters that PostgreSQL does not take; they were replaced\n", done.Cleaned)
	}
	return nil
}

// restoring is what a restore knows of fleets.
type restoring struct {
	config  *Config
	options RestoreOptions
	rules   map[string]domain.Rule // by table
	secret  []byte                 // to be kept in the data directory; nil: it is there, or configured
	epochs  map[string]int64       // of the leases in the database that is replaced
	restore map[string]bool        // leases that the backup has
	db      *db.DB
	name    string // of the server in the backup
}

// accept refuses what this configuration could not work with.
func (r *restoring) accept(c *backup.Checked) error {
	r.name = c.Manifest.ServerName
	if r.options.Continue && !c.Manifest.Quiet {
		return errors.New("--continue is for a backup that was made while no process ran: this one was made beside running ones, so what they did later is not in it")
	}
	secret, err := givenSecret(r.config)
	if err != nil {
		return err
	}
	if secret == nil && r.config.embedded() && c.Secret != nil {
		secret, r.secret = c.Secret, c.Secret
	}
	for _, row := range c.Peeked {
		if row.Get("name") != "signing_key" {
			continue
		}
		stored, _ := row.Get("value").(string)
		switch {
		case secret == nil:
			return errors.New("fleet.secret: the backup holds keys that are sealed with the secret of the fleet, and none is configured: set fleet.secret, or put the file named secret of the old data directory into the new one")
		case !opens(secret, "signing_key", stored):
			return errors.New("fleet.secret: the keys in the backup are sealed with another secret: give the one that the server had when the backup was made")
		}
	}
	return nil
}

// opens tells whether a secret opens what sealed has stored.
func opens(secret []byte, name, stored string) bool {
	gcm, err := sealer(secret, name)
	if err != nil {
		return false
	}
	text, err := base64.StdEncoding.DecodeString(stored)
	if err != nil {
		return false
	}
	_, err = gcm.Open(nil, nil, text, []byte(name))
	return err == nil
}

// before refuses to replace what a living fleet uses.
func (r *restoring) before(ctx context.Context, tx *db.Tx, replacing bool) error {
	r.epochs, r.restore = map[string]int64{}, map[string]bool{}
	if !replacing {
		return nil
	}
	if !r.config.embedded() { // over SQLite the lock of the data directory says it
		if _, err := tx.Exec(ctx, "LOCK TABLE machines IN ACCESS EXCLUSIVE MODE"); err != nil {
			return err
		}
		living, err := livingMachines(ctx, tx)
		if err != nil {
			return err
		}
		if len(living) > 0 {
			return fmt.Errorf("processes still run: machines %s: stop them all before you replace their database", strings.Join(living, ", "))
		}
	}
	var err error
	r.epochs, err = db.Map[string, int64](tx.Query(ctx, "SELECT name, epoch FROM leases"))
	return err
}

// change makes the rows of another process's life those of a server that starts.
func (r *restoring) change(row backup.Row) (keep bool) {
	switch r.rules[row.Table.Name].Do {
	case domain.Dropped:
		return r.options.Continue
	case domain.Rewritten:
		return r.rewrite(row)
	default:
		return true
	}
}

// rewrite changes the rows of the fleet's own tables.
func (r *restoring) rewrite(row backup.Row) (keep bool) {
	switch row.Table.Name {
	case "leases":
		// Nobody owns them, and no process of before, paused and woken up, has an epoch that counts.
		name, _ := row.Get("name").(string)
		epoch, _ := row.Get("epoch").(int64)
		row.Set("machine", int64(-1))
		row.Set("incarnation", int64(0))
		row.Set("epoch", max(epoch, r.epochs[name])+1)
		r.restore[name] = true
	case "fleet":
		switch row.Get("name") {
		case "rollout": // an upgrade of other processes
			return false
		case "log_epoch":
			// What happened after the backup is lost and its positions are given again, to other events. Clients
			// that come with a position of then begin afresh.
			if !r.options.Continue {
				row.Set("value", rand.Text())
			}
		}
	}
	return true
}

// after keeps the name of the server, old epochs from coming again, and the secret that opens what was restored.
func (r *restoring) after(ctx context.Context, tx *db.Tx) error {
	var gone [][]any
	for name, epoch := range r.epochs {
		if !r.restore[name] {
			gone = append(gone, []any{name, int64(-1), int64(0), epoch + 1, int64(0)})
		}
	}
	if err := tx.Bulk(ctx, "INSERT INTO leases (name, machine, incarnation, epoch, pos) VALUES ?", gone); err != nil {
		return err
	}
	name, err := storedName(ctx, r.db, tx, r.config.Server.Name)
	if err != nil {
		return err
	}
	// A backup of before the name was kept.
	if _, err := tx.Exec(ctx, "INSERT INTO fleet (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING", nameRow, cmp.Or(name, r.name)); err != nil {
		return err
	}
	if r.secret == nil {
		return nil
	}
	return disk.WriteFile(filepath.Join(r.config.Server.Data, "secret"), append(r.secret, '\n'), 0o600)
}

// file prints the configuration as it is in use, with its secrets or without these keys.
func (c *Config) file(secrets bool) ([]byte, error) {
	var tree yaml.MapSlice
	if err := yaml.UnmarshalWithOptions(conf.Effective(c.Sections()), &tree, yaml.UseOrderedMap()); err != nil {
		return nil, err
	}
	kept := tree[:0]
	for _, s := range c.Sections() {
		for _, item := range tree {
			if item.Key != s.Name {
				continue
			}
			if v := withSecrets(reflect.ValueOf(s.Into).Elem(), item.Value, secrets); v != nil {
				kept = append(kept, yaml.MapItem{Key: item.Key, Value: v})
			}
		}
	}
	text, err := yaml.Marshal(kept)
	return text, err
}

// withSecrets puts the secrets of v into its printed form, or takes their keys out; nil is nothing.
func withSecrets(v reflect.Value, printed any, secrets bool) any {
	if s, ok := v.Interface().(conf.Secret); ok {
		if !secrets || s == "" {
			return nil
		}
		return s.Reveal()
	}
	if v.Kind() == reflect.String { // an address may hold a password
		switch address := v.String(); {
		case conf.Redact(address) == address:
			return printed
		case secrets:
			return address
		default:
			return conf.WithoutPasswords(address)
		}
	}
	items, ok := printed.(yaml.MapSlice)
	switch {
	case v.Kind() == reflect.Pointer && !v.IsNil():
		return withSecrets(v.Elem(), printed, secrets)
	case !ok && v.Kind() == reflect.Slice:
		list, _ := printed.([]any)
		for i := range list {
			if i < v.Len() {
				list[i] = withSecrets(v.Index(i), list[i], secrets)
			}
		}
		return printed
	case !ok:
		return printed
	}
	kept := yaml.MapSlice{}
	for _, item := range items {
		name, _ := item.Key.(string)
		inner := item.Value
		if field := memberOf(v, name); field.IsValid() {
			inner = withSecrets(field, item.Value, secrets)
		}
		if inner != nil {
			kept = append(kept, yaml.MapItem{Key: item.Key, Value: inner})
		}
	}
	return kept
}

// memberOf finds the field or the entry of a map that has a name in the configuration.
func memberOf(v reflect.Value, name string) reflect.Value {
	switch v.Kind() {
	case reflect.Map:
		return v.MapIndex(reflect.ValueOf(name).Convert(v.Type().Key()))
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			key, option, _ := strings.Cut(f.Tag.Get("yaml"), ",")
			switch {
			case option == "inline":
				if found := memberOf(v.Field(i), name); found.IsValid() {
					return found
				}
			case f.IsExported() && (key == name || key == "" && strings.EqualFold(f.Name, name)):
				return v.Field(i)
			}
		}
	}
	return reflect.Value{}
}
