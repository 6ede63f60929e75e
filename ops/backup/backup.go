package backup

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"lyceum/fleet"
	"lyceum/ops/backup/archive"
	"lyceum/ops/connect"
	"lyceum/ops/up"
	"lyceum/platform/blob"
	"lyceum/platform/db"
	"lyceum/platform/disk"
	"lyceum/platform/domain"
	"lyceum/platform/obs"
)

// Options say what a backup takes and where it goes.
type Options struct {
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
	NewSecret   bool     // the secret of the backup is lost: its signing key is left out, and the server makes another one
	Fleet       string   // the directory of the lyceum up whose fleet is restored; "": none
	WriteConfig string   // file for the configuration in the backup; "": none
	Terminal    bool
}

// Make writes all that the server keeps, as it is at one moment, while processes run or not.
// The PostgreSQL of a fleet of lyceum up that is stopped runs meanwhile.
func Make(ctx context.Context, c *fleet.Config, o Options, out io.Writer) error {
	return connect.WithEngines(ctx, c, func() error { return writeBackup(ctx, c, o, out) })
}

func writeBackup(ctx context.Context, c *fleet.Config, o Options, out io.Writer) error {
	began := time.Now()
	d, err := c.OpenExistingDatabase(ctx)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := c.AdoptStoredName(ctx, d); err != nil {
		return err
	}
	c.Server.Name = cmp.Or(c.Server.Name, fleet.DefaultName)
	s := archive.Source{
		DB: d, Sets: fleet.Migrations(), ServerName: c.Server.Name, Version: obs.Version, SkipBlobs: fleet.ProbePrefix,
		References: fleet.Collect(func(d domain.Domain) []domain.Blob { return d.Blobs }),
		Inspect:    func(ctx context.Context, q db.Querier, m *archive.Manifest) error { return inspect(ctx, c, q, m) },
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
	if s.Config, err = c.YAML(o.WithSecrets); err != nil {
		return err
	}
	s.Config = append([]byte("# The configuration of the server when it was backed up.\n"), s.Config...)
	if o.WithSecrets {
		if s.Secret, err = c.ExistingSecret(); err != nil {
			return err
		}
	}
	m, err := archive.Write(ctx, s, archive.Options{
		Target: o.Target, Since: o.Since, Incomplete: o.Incomplete, ID: rand.Text(), Now: time.Now,
		Progress: &archive.Progress{Out: out, Terminal: o.Terminal, Now: time.Now},
	})
	if ctx.Err() != nil {
		return errors.New("interrupted: no backup was made, and nothing is left of it")
	}
	if errors.Is(err, archive.ErrIncomplete) {
		return fmt.Errorf("%w: are the keys of blob in this configuration those of the processes? If the files are lost, "+
			"--incomplete makes a backup of what is there", err)
	}
	if err != nil {
		return err
	}
	describe(out, o.Target, m)
	if m.Blobs.Where != archive.LeftOut {
		before := ""
		if n := m.Blobs.Count - m.Blobs.Added; n > 0 {
			before = fmt.Sprintf("; %d others were copied before", n)
		}
		fmt.Fprintf(out, "copied:   %d blobs, %s%s\n", m.Blobs.Added, archive.Bytes10(m.Blobs.AddedB), before)
	}
	fmt.Fprintf(out, "took:     %s\n", time.Since(began).Round(time.Millisecond))
	if !o.WithSecrets {
		fmt.Fprintln(out, "secret:   not in it, and a restore needs it:", whereSecret(c))
	}
	if o.WithSecrets {
		fmt.Fprintln(out, "WARNING: the backup holds every secret of the server in clear: who can read it can act as the server. "+
			"Keep it encrypted.")
	}
	if err := m.Blobs.Whole(); err != nil {
		return fmt.Errorf("the backup was made, but it is %w", err)
	}
	return nil
}

// whereSecret returns where the secret is that a restore needs, and what to do with it.
func whereSecret(c *fleet.Config) string {
	of := *c
	of.Server.Data = connect.UpDirectory(c)
	if path := of.SecretFile(); !disk.Absent(path) {
		return "keep a copy of " + path + " in another place than the backups"
	}
	return "keep a copy of fleet.secret (or of its file) in another place than the backups"
}

// inspect adds the log epoch of the database to the manifest, and whether no process writes to it.
func inspect(ctx context.Context, c *fleet.Config, q db.Querier, m *archive.Manifest) error {
	err := q.QueryRow(ctx, "SELECT value FROM fleet WHERE name = 'log_epoch'").Scan(&m.LogEpoch)
	if err != nil && !errors.Is(err, db.ErrNoRows) {
		return err
	}
	if c.Embedded() {
		m.Quiet = !c.DataInUse()
		return nil
	}
	living, err := livingMachines(ctx, q)
	m.Quiet = len(living) == 0
	return err
}

// livingMachines returns id and host of the processes that run.
func livingMachines(ctx context.Context, q db.Querier) ([]string, error) {
	return db.List(func(row db.Row) (string, error) {
		var id int64
		var host string
		err := row.Scan(&id, &host)
		return fmt.Sprintf("%d (%s)", id, host), err
	})(q.Query(ctx, "SELECT id, host FROM machines WHERE expires_ms > (EXTRACT(EPOCH FROM clock_timestamp()) * 1000)::bigint ORDER BY id"))
}

func describe(out io.Writer, name string, m *archive.Manifest) {
	rows := int64(0)
	for _, t := range m.Tables {
		rows += t.Rows
	}
	fmt.Fprintf(out, "backup:   %s\nserver:   %s, version %s, database %s\nmoment:   %s\nrows:     %d in %d tables\n",
		name, m.ServerName, m.Version, m.Engine, m.Age(), rows, len(m.Tables))
	b := m.Blobs
	if b.Where == archive.LeftOut {
		fmt.Fprintln(out, "blobs:    left out: back the blob store up by itself")
		return
	}
	fmt.Fprintf(out, "blobs:    %d, %s\n", b.Count, archive.Bytes10(b.Bytes))
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

// Verify reads a backup to its end and checks every hash.
func Verify(ctx context.Context, source string, bases []string, terminal bool, out io.Writer) error {
	c, err := archive.Verify(ctx, source, archive.VerifyOptions{
		Bases:    bases,
		Progress: &archive.Progress{Out: out, Terminal: terminal, Now: time.Now},
	})
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
func Restore(ctx context.Context, c *fleet.Config, o RestoreOptions, out io.Writer) error {
	began := time.Now()
	if err := o.check(); err != nil {
		return err
	}
	data, err := c.OpenDataDirectory(fleet.MayCreate)
	if err != nil {
		return err
	}
	defer data.Close()
	if c.Embedded() {
		if err := data.Lock(); err != nil {
			return err
		}
	}
	telemetry, err := obs.New(obs.Config{LogLevel: "warn", LogFormat: c.Obs.LogFormat})
	if err != nil {
		return err
	}
	d, err := c.OpenDatabaseForLong(ctx)
	if err != nil {
		return err
	}
	defer func() { // a restore that was refused, or interrupted, leaves no database
		if ours, err := d.Ours(context.WithoutCancel(ctx)); ours || err != nil {
			data.Keep()
		}
		if err := d.Close(); err != nil {
			slog.Warn("the database did not close well", "error", err)
		}
	}()
	r := &restoring{config: c, options: o, db: d, rules: map[string]domain.Rule{}}
	var dropped []string
	for _, rule := range restoreRules() {
		r.rules[rule.Table] = rule
		if rule.Do == domain.Dropped {
			dropped = append(dropped, rule.Rows)
		}
	}
	target := archive.Target{
		DB: d, Sets: fleet.Migrations(), ServerName: c.Server.Name, Version: obs.Version, SkipBlobs: fleet.ProbePrefix, Replace: o.Replace,
		Accept: r.accept, Before: r.before, Change: r.change, After: r.after, Log: telemetry.Log,
		Progress: &archive.Progress{Out: out, Terminal: o.Terminal, Now: time.Now},
	}
	if target.Blobs, err = blob.Open(ctx, c.Blob); err != nil {
		return err
	}
	checked, done, err := archive.Restore(ctx, o.Source, target, archive.VerifyOptions{Bases: o.Bases, Peek: []string{"fleet"}})
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
		done.Rows, done.Blobs, archive.Bytes10(done.Bytes), done.There, time.Since(began).Round(time.Millisecond))
	if r.keyLeft {
		done.Dropped--
	}
	warnOfChanges(out, done, dropped)
	if r.keyLeft {
		fmt.Fprintln(out, "left out: the signing key, which the lost secret opens; the server makes another one at its next start")
	}
	return r.finish(out)
}

// finish writes the secret and the engine of the server into the data directory, and prints how the server is started.
func (r *restoring) finish(out io.Writer) error {
	c, fleetDir := r.config, r.options.Fleet
	start := "lyceum serve"
	if fleetDir != "" {
		start = "lyceum up"
	}
	var err error
	switch {
	case fleetDir != "" && r.secret != nil:
		err = up.StoreSecret(fleetDir, r.secret)
	case r.secret != nil:
		err = disk.WriteFile(c.SecretFile(), append(r.secret, '\n'), 0o600)
	}
	if err == nil && !c.Embedded() && (!c.HasUpPostgres() || fleet.IsOverPostgres(c.Server.Data)) {
		err = fleet.StoreEngine(c.Server.Data, cmp.Or(c.Server.Name, r.name))
	}
	if err != nil {
		return fmt.Errorf("all is restored, but the data directory is not complete: mend this and run the restore again with --replace: %w", err)
	}
	if c.Embedded() || fleetDir != "" {
		fmt.Fprintf(out, "start it: %s --data %s\n", start, c.Server.Data)
	}
	if c.Embedded() {
		fmt.Fprintln(out, "          (one process over SQLite; for a fleet of lyceum up restore with --up into another directory)")
	}
	return nil
}

// check refuses options that can not be followed, before anything is made.
func (o RestoreOptions) check() error {
	if _, err := os.Stat(o.Source); err != nil {
		return err
	}
	if _, err := os.Stat(o.WriteConfig); o.WriteConfig != "" && err == nil {
		return fmt.Errorf("%s is there already: name another file for the configuration", o.WriteConfig)
	}
	return nil
}

// warnOfChanges prints what was left out or changed.
func warnOfChanges(out io.Writer, done *archive.Restored, dropped []string) {
	if done.Dropped > 0 {
		fmt.Fprintf(out, "left out: %d rows that mean nothing in a restored server (%s)\n", done.Dropped, strings.Join(dropped, ", "))
	}
	if done.Cleaned > 0 {
		fmt.Fprintf(out, "WARNING: %d texts had characters that PostgreSQL does not take; they were replaced\n", done.Cleaned)
	}
}

// restoring is a restore under way: what package archive, which knows only tables and blobs, leaves to this package.
type restoring struct {
	config  *fleet.Config
	options RestoreOptions
	rules   map[string]domain.Rule // by table
	secret  []byte                 // to be kept in the data directory; nil: it is there, or configured
	epochs  map[string]int64       // of the leases in the database that is replaced
	restore map[string]bool        // leases that the backup has
	db      *db.DB
	name    string // of the server in the backup
	keyLeft bool   // the signing key was left out
}

// accept refuses a backup that this configuration or the options do not fit.
func (r *restoring) accept(ctx context.Context, c *archive.Checked) error {
	r.name = c.Manifest.ServerName
	if err := r.checkReplaced(ctx); err != nil {
		return err
	}
	if r.options.Continue && !c.Manifest.Quiet {
		return errors.New("--continue is for a backup that was made while no process ran: this one was made beside running ones, " +
			"so what they did later is not in it")
	}
	if r.options.NewSecret {
		return nil
	}
	secrets, err := r.secrets(c)
	if err != nil {
		return err
	}
	for _, row := range c.Peeked {
		if row.Get("name") != "signing_key" {
			continue
		}
		stored, _ := row.Get("value").(string)
		i := slices.IndexFunc(secrets, func(s knownSecret) bool { return fleet.OpensSigningKey(s.text, stored) })
		switch {
		case len(secrets) == 0:
			return fmt.Errorf("fleet.secret: the backup holds keys that are sealed with the secret of the fleet, and none is configured: "+
				"set fleet.secret, or put the file named secret of the old data directory into the new one, as %s; "+
				"if it is lost, --new-secret goes on without those keys", r.config.SecretFile())
		case i < 0:
			return errors.New("fleet.secret: the keys in the backup are sealed with another secret: give the one that the server had when the " +
				"backup was made; if it is lost, --new-secret goes on without those keys")
		case !secrets[i].inPlace:
			r.secret = secrets[i].text
		}
	}
	return nil
}

// checkReplaced refuses to put the server of the backup in the place of another one: with it would go all that it has, and its secret. An
// empty database says nothing, but a data directory may say whose it is. A server that nobody gave a name was for a try.
func (r *restoring) checkReplaced(ctx context.Context) error {
	c := r.config
	where := "the database at database.url"
	if c.Embedded() {
		where = c.Server.Data
	}
	there, err := "", error(nil)
	if r.options.Replace {
		there, err = fleet.StoredName(ctx, r.db, r.db, r.name)
	}
	if there == "" {
		there, where = fleet.ServerOf(c.Server.Data), "the directory "+c.Server.Data
	}
	if err != nil || there == "" || there == r.name || there == fleet.DefaultName {
		return err
	}
	return fmt.Errorf("%s is that of the server %s, and this is a backup of %s: name another one; nothing was changed. "+
		"If %s is given up, remove it by hand first", where, there, r.name, there)
}

// knownSecret is a secret that may be that of a backup; inPlace says that the server will find it where it is.
type knownSecret struct {
	text    []byte
	inPlace bool
}

// secrets returns the secrets that the restored server could have.
func (r *restoring) secrets(c *archive.Checked) (out []knownSecret, err error) {
	inFile, configured := *r.config, r.config.Fleet.Secret.Reveal()
	inFile.Fleet.Secret = ""
	kept, err := inFile.ExistingSecret()
	if err != nil {
		return nil, err
	}
	if configured != "" && r.options.Fleet == "" {
		return []knownSecret{{[]byte(configured), true}}, nil
	}
	if kept != nil { // lyceum up prefers it to that of its last start; commands do not
		out = append(out, knownSecret{kept, configured == "" || configured == string(kept)})
	}
	if configured != "" {
		out = append(out, knownSecret{[]byte(configured), false})
	}
	if c.Secret != nil && (r.options.Fleet != "" || len(r.config.Redis.Addresses) == 0) {
		out = append(out, knownSecret{c.Secret, false})
	}
	return out, nil
}

// before refuses to replace the database of a fleet that runs.
func (r *restoring) before(ctx context.Context, tx *db.Tx, replacing bool) error {
	r.epochs, r.restore = map[string]int64{}, map[string]bool{}
	if !replacing {
		return nil
	}
	if !r.config.Embedded() { // over SQLite the lock of the data directory says it
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

// change returns a row as the restored server needs it.
func (r *restoring) change(row archive.Row) (keep bool) {
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
func (r *restoring) rewrite(row archive.Row) (keep bool) {
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
		case "signing_key":
			r.keyLeft = r.options.NewSecret
			return !r.keyLeft
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

// after stores the name of the server, and keeps old epochs from being used again.
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
	return fleet.StoreRestoredName(ctx, r.db, tx, r.config.Server.Name, r.name)
}

// restoreRules returns the rules for the tables that are not restored as they were.
func restoreRules() []domain.Rule {
	return fleet.Collect(func(d domain.Domain) []domain.Rule { return d.Restore })
}
