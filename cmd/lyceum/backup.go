package main

import (
	"context"
	"os"

	"lyceum/fleet"
	"lyceum/ops/backup"
	"lyceum/ops/connect"
	"lyceum/platform/conf"
)

type backupCommand struct {
	sources     `embed:""`
	Target      string   `arg:"" help:"File for the backup, or a directory (one that exists, or a name that ends in /), in which the next backup copies new blobs only."`
	Since       string   `help:"An earlier backup: blobs that it has are not copied again, and a restore needs it too." placeholder:"BACKUP"`
	NoBlobs     bool     `help:"Leave the blobs out: the blob store has backups of its own."`
	Incomplete  bool     `help:"Make the backup also when the blob store lacks files that rows name; the exit status is not 0."`
	WithSecrets bool     `help:"Put all secrets into the backup, in clear."`
	Verify      bool     `help:"Make nothing: read the backup to its end and check every hash."`
	Base        []string `help:"With --verify: where a backup is on which this one stands, when it is not beside it." placeholder:"BACKUP"`
}

// Help is shown by lyceum backup --help.
func (backupCommand) Help() string {
	return "Give it the same --config or --data as the processes have. It may run while they do. " +
		"The exit status is 0 when the backup is whole; " +
		"without that nothing is left of it."
}

func (c *backupCommand) Run(ctx context.Context) error {
	if c.Verify {
		return backup.Verify(ctx, c.Target, c.Base, terminal(os.Stderr), os.Stderr)
	}
	config, err := c.loadFor()
	if err != nil {
		return err
	}
	return backup.Make(ctx, config, backup.Options{
		Target: c.Target, Since: c.Since, NoBlobs: c.NoBlobs, Incomplete: c.Incomplete, WithSecrets: c.WithSecrets, Terminal: terminal(os.Stderr),
	}, os.Stderr)
}

type restoreCommand struct {
	sources     `embed:""`
	Source      string   `arg:"" help:"The backup: a file or a directory."`
	Base        []string `help:"Where a backup is on which this one stands, when it is not beside it." placeholder:"BACKUP"`
	Replace     bool     `help:"Throw away what the database holds. No process may run."`
	Continue    bool     `help:"The backup was the last act of a stopped server and nothing was written since: clients go on where they were."`
	Up          bool     `help:"Make the data directory that of a fleet for lyceum up, with a PostgreSQL of its own there."`
	NewSecret   bool     `help:"The secret that the backup was sealed with is lost: go on without its signing key; the server makes another at its next start."`
	WriteConfig string   `help:"Also write the configuration in the backup to this file." placeholder:"FILE"`
}

// Help is shown by lyceum restore --help.
func (restoreCommand) Help() string {
	return "The configuration says where to: a data directory, a PostgreSQL database and a blob store, or the directory of a stopped " +
		"lyceum up, whose PostgreSQL is started for as long. " +
		"The backup is checked before anything is changed."
}

func (c *restoreCommand) Run(ctx context.Context) error {
	return connect.WithRestoreTarget(ctx, conf.Sources{File: c.file(), Flags: c.flags()}, c.Up, func(config *fleet.Config, of string) error {
		return backup.Restore(ctx, config, backup.RestoreOptions{
			Source: c.Source, Bases: c.Base, Replace: c.Replace, Continue: c.Continue, NewSecret: c.NewSecret, WriteConfig: c.WriteConfig,
			Fleet: of, Terminal: terminal(os.Stderr),
		}, os.Stderr)
	})
}

// terminal tells whether a person sees what is written.
func terminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
