package db

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// openError is why a database could not be opened, without what the driver says twice.
type openError struct {
	text string
	err  error
}

func (e *openError) Error() string { return e.text }

// Unwrap gives the driver's error.
func (e *openError) Unwrap() error { return e.err }

// notOpened tells each cause once, or why the file of SQLite can not be used. When the address allows connections without TLS, the missing
// TLS of a server is left out: the cause is its answer without TLS.
func notOpened(file string, err error) error {
	var lite *sqlite.Error
	if errors.As(err, &lite) {
		if access := syscall.Access(file, readAndWrite); access != nil && lite.Code()&0xff == sqlite3.SQLITE_CANTOPEN {
			err = access
		}
		return fmt.Errorf("open the database %s: %w", file, err)
	}
	var dial *pgconn.ConnectError
	if !errors.As(err, &dial) {
		return fmt.Errorf("open the database: %w", err)
	}
	var said []string
	for _, cause := range parts(dial.Unwrap()) {
		if text := cause.Error(); !slices.Contains(said, text) {
			said = append(said, text)
		}
	}
	refusedTLS := func(text string) bool { return strings.Contains(text, "server refused TLS connection") }
	if others := slices.DeleteFunc(slices.Clone(said), refusedTLS); len(others) > 0 {
		said = others
	}
	return &openError{fmt.Sprintf("open the database: PostgreSQL, user %s, database %s: %s", dial.Config.User, dial.Config.Database,
		strings.Join(said, "; ")), err}
}

const readAndWrite = 4 | 2 // of access(2)

// parts are the errors that were joined to one.
func parts(err error) []error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var out []error
	for _, e := range joined.Unwrap() {
		out = append(out, parts(e)...)
	}
	return out
}

// UniqueError says that a row with the same unique key is there. The constraint has the same name with both engines:
// that of the index, or the table's name with _pkey.
type UniqueError struct {
	Table, Constraint string
	Err               error // the engine's
}

func (e *UniqueError) Error() string {
	return "the unique key " + e.Constraint + " is taken: " + e.Err.Error()
}

// Unwrap gives the engine's error.
func (e *UniqueError) Unwrap() error { return e.Err }

// IsUniqueOn tells that a row with the same key of the named constraint is there.
func IsUniqueOn(err error, constraint string) bool {
	var u *UniqueError
	return errors.As(err, &u) && u.Constraint == constraint
}

// named says which unique key an error of the engine is about.
func (d *DB) named(err error) error {
	if err != nil && d.failed != nil {
		d.failed(err)
	}
	if err == nil || !IsUnique(err) {
		return err
	}
	var known *UniqueError
	if errors.As(err, &known) {
		return err
	}
	if u, ok := d.unique(d, err); ok {
		return u
	}
	return err
}

// IsUnique tells that a statement failed because a row with the same unique key is there.
func IsUnique(err error) bool {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code == "23505"
	}
	var lite *sqlite.Error
	if errors.As(err, &lite) {
		return lite.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE || lite.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY
	}
	return false
}

// IsUnavailable tells that the database could not be reached, is going away or has become a standby: the work may be tried
// again later.
func IsUnavailable(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) {
		return false
	}
	var dial *pgconn.ConnectError
	if errors.As(err, &dial) { // whatever the server says against a connection, such as that it can not start a session on a full disk
		return true
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		switch {
		case strings.HasPrefix(pg.Code, "08"), strings.HasPrefix(pg.Code, "57P"), pg.Code == "53300", IsReadOnly(err),
			pg.Code == "25P03": // the session was ended because this process was paused in a transaction
			return true
		}
		return false
	}
	var network net.Error
	return errors.As(err, &network) || errors.Is(err, driver.ErrBadConn) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || strings.Contains(err.Error(), "conn closed")
}

// IsAway tells that a database could not be opened because its server does not answer, or does not take connections yet. One that answers
// that the user, the password or the database is wrong is there, and an error of a file is none of it.
func IsAway(err error) bool {
	var file *fs.PathError
	var link *os.LinkError
	if errors.As(err, &file) || errors.As(err, &link) { // whose cause, an Errno, is a net.Error
		return false
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) && (strings.HasPrefix(pg.Code, "28") || strings.HasPrefix(pg.Code, "3D") || IsReadOnly(err)) {
		return false
	}
	return IsUnavailable(err)
}

// IsTemporary tells that the database did not do the work for a cause that passes by itself: IsUnavailable, or a statement that was
// cancelled or took too long, a lock that others hold, a conflict with others, too little memory, a disk that can not be read or written.
// Work that is always too much for the database counts as well, so automatic repetition must be bounded.
func IsTemporary(err error) bool {
	if IsUnavailable(err) || isRetryable(err) {
		return true
	}
	if IsFull(err) {
		return false
	}
	var lite *sqlite.Error
	if errors.As(err, &lite) {
		return lite.Code()&0xff == sqlite3.SQLITE_IOERR
	}
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return false
	}
	return pg.Code == "57014" || pg.Code == "55P03" || pg.Code == "58030" || strings.HasPrefix(pg.Code, "53")
}

// IsReadOnly tells that a connection takes no writes: its server is a standby, such as one that another has replaced.
func IsReadOnly(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "25006"
}

// IsForbidden tells that the role of the connection has not the right to do what it was asked.
func IsForbidden(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "42501"
}

// IsFull tells that the disk of the database has no room.
func IsFull(err error) bool {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code == "53100"
	}
	var lite *sqlite.Error
	return errors.As(err, &lite) && isFullCode(lite.Code())
}

// isFullCode is IsFull for a code of SQLite: the file, or the index of the log beside it, could not grow.
func isFullCode(code int) bool {
	return code&0xff == sqlite3.SQLITE_FULL || code == sqlite3.SQLITE_IOERR_SHMSIZE
}

// isRetryable tells that the engine undid the work and asks to run it again.
func isRetryable(err error) bool {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code == "40001" || pg.Code == "40P01"
	}
	var lite *sqlite.Error
	if errors.As(err, &lite) {
		return lite.Code()&0xff == sqlite3.SQLITE_BUSY
	}
	return false
}

// refused tells that the engine answered a commit with an error and so undid the transaction.
func refused(err error) bool {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return !IsUnavailable(err)
	}
	var lite *sqlite.Error
	return errors.As(err, &lite) || errors.Is(err, pgx.ErrTxCommitRollback)
}
