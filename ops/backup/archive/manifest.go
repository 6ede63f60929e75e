package archive

import (
	"errors"
	"fmt"
	"time"

	"lyceum/platform/db"
)

// Format is the version of archives that this package writes, and the newest that it reads.
const Format = 1

// Manifest says what an archive holds. It is the last part of it.
type Manifest struct {
	Format     int              `json:"format"`
	ID         string           `json:"id"`      // differs for every backup
	Version    string           `json:"version"` // of the Lyceum that wrote it
	ServerName string           `json:"server_name"`
	Time       time.Time        `json:"time"`      // of the snapshot
	LogEpoch   string           `json:"log_epoch"` // of the history that was copied
	Quiet      bool             `json:"quiet"`     // no process ran
	Engine     string           `json:"engine"`    // it was read from: sqlite or postgres
	Schema     map[string]int64 `json:"schema"`    // newest step of each domain
	Secrets    bool             `json:"secrets"`   // the configuration is there with its secrets
	Tables     []TableInfo      `json:"tables"`
	Blobs      BlobInfo         `json:"blobs"`
}

// TableInfo describes the rows of a table.
type TableInfo struct {
	db.Table
	Rows  int64  `json:"rows"`
	Bytes int64  `json:"bytes"` // of the rows as they are written
	Sum   string `json:"sum"`   // of the SHA-256 of the rows, modulo 2^256, hexadecimal
}

// Where the blobs of a backup are.
const (
	InArchive = "archive" // in it, but for those that the base has
	Beside    = "beside"  // in the directory blobs next to the archive
	LeftOut   = "none"
)

// BlobInfo describes the blobs of a backup; their list stands between them in the archive.
type BlobInfo struct {
	Where   string   `json:"where"`
	Count   int64    `json:"count"`
	Bytes   int64    `json:"bytes"`
	Sum     string   `json:"sum"`   // of the lines of the list, as for tables
	Added   int64    `json:"added"` // that this backup copied
	AddedB  int64    `json:"added_bytes"`
	Base    string   `json:"base,omitempty"`      // id of the backup that has the others
	BaseAt  string   `json:"base_file,omitempty"` // its name when this one was made
	Missing []string `json:"missing,omitempty"`   // keys that rows name and the store did not have, at most 1,000
	Lost    int64    `json:"missing_count,omitempty"`
	Gone    int64    `json:"gone,omitempty"`    // that rows of the snapshot name, and that were deleted with their rows while the backup ran
	Damaged []string `json:"damaged,omitempty"` // keys whose bytes do not have the SHA-256 in their name, at most 1,000
}

// ErrIncomplete says that the blob store lacked what a whole backup has.
var ErrIncomplete = errors.New("not whole")

// Whole is ErrIncomplete, with what is missing, unless all blobs that rows name are there as they were stored.
func (b *BlobInfo) Whole() error {
	switch {
	case b.Lost > 0:
		name := "unknown"
		if len(b.Missing) > 0 {
			name = b.Missing[0]
		}
		return fmt.Errorf("%w: the blob store does not have %d blobs that rows name, the first is %s", ErrIncomplete, b.Lost, name)
	case len(b.Damaged) > 0:
		return fmt.Errorf("%w: the bytes of %d blobs in the store are damaged, the first is %s", ErrIncomplete, len(b.Damaged), b.Damaged[0])
	}
	return nil
}

// Entry is a line of the list of blobs.
type Entry struct {
	Key    string `json:"key"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
	Base   bool   `json:"base,omitempty"` // the bytes are in the base
}

func (m *Manifest) rows() (n int64) {
	for _, t := range m.Tables {
		n += t.Rows
	}
	return n
}

func (m *Manifest) check() error {
	switch {
	case m.Format < 1 || m.Format > Format:
		return fmt.Errorf("the backup has format %d and this version reads up to %d: use a newer version", m.Format, Format)
	case m.ID == "" || m.ServerName == "" || len(m.Schema) == 0 || len(m.Tables) == 0:
		return fmt.Errorf("%w: the manifest lacks the id, the server name, the schema or the tables", ErrDamaged)
	case m.Blobs.Where != InArchive && m.Blobs.Where != Beside && m.Blobs.Where != LeftOut:
		return fmt.Errorf("%w: the manifest says that blobs are in %q", ErrDamaged, m.Blobs.Where)
	}
	var tables []db.Table
	for _, t := range m.Tables {
		tables = append(tables, t.Table)
	}
	return checkTables(tables)
}

func checkTables(tables []db.Table) error {
	seen := map[string]bool{}
	for _, t := range tables {
		if seen[t.Name] || len(t.Columns) == 0 {
			return fmt.Errorf("%w: table %q stands twice or has no columns", ErrDamaged, t.Name)
		}
		seen[t.Name] = true
		for _, c := range t.Columns {
			if c.Kind == "" {
				return fmt.Errorf("table %s: the type of column %s is not one that backups know", t.Name, c.Name)
			}
		}
	}
	return nil
}
