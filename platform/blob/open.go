package blob

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// Config is the section "blob": a directory, or an S3-compatible store.
type Config struct {
	Directory string   `yaml:"directory" own:"true" help:"directory for blobs; for one process, or, with directory_shared, a file system that all machines share"`
	Shared    bool     `yaml:"directory_shared" own:"true" default:"false" help:"The directory is a file system that all machines of the fleet share. Each process proves it at its start."`
	S3        S3Config `yaml:"s3"`
	Scratch   string   `yaml:"-"` // directory for files on their way to S3; "" is the system's. It is made.
}

// Validate names the key that is wrong and what to write instead.
func (c *Config) Validate() error {
	if c.Directory != "" && c.S3.Bucket != "" {
		return errors.New("directory: expected either a directory or s3, found both: remove one")
	}
	return nil
}

// Open opens the store that the configuration names.
func Open(ctx context.Context, c Config) (Store, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.S3.Bucket != "" || c.S3.Endpoint != "" {
		if c.Scratch != "" {
			if err := os.MkdirAll(c.Scratch, 0o700); err != nil {
				return nil, fmt.Errorf("blob: a directory for files on their way to S3: %w", err)
			}
		}
		s, err := OpenS3(ctx, c.S3)
		if err != nil {
			return nil, err
		}
		s.scratch = c.Scratch
		return s, nil
	}
	if c.Directory == "" {
		return nil, errors.New("blob: expected a directory or an S3 store, found neither: " +
			"set blob.directory or blob.s3.endpoint and blob.s3.bucket")
	}
	return OpenDirectory(c.Directory)
}
