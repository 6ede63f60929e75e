package db

import (
	"context"
	"database/sql/driver"
	"errors"

	"github.com/jackc/pgx/v5/stdlib"
)

// ErrPooled says that a pooler shares the connections to the database between its clients, so that none of them is one
// session.
var ErrPooled = errors.New("a pooler stands before the database: no session is this process's own")

// Session takes a connection for itself, runs begin on it and returns when the connection breaks or ctx ends: what belongs to the session,
// such as an advisory lock, ends with this process, however it ends. PostgreSQL only.
func (d *DB) Session(ctx context.Context, begin func(ctx context.Context, s Session) error) error {
	turn, err := d.writers.enter(ctx)
	if err != nil {
		return err
	}
	defer turn.leave()
	conn, err := d.write.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return conn.Raw(func(raw any) error {
		c := raw.(*stdlib.Conn).Conn()
		var pid uint32
		for range 3 { // a pooler gives out other sessions
			if err := c.QueryRow(ctx, "SELECT pg_backend_pid()").Scan(&pid); err != nil {
				return errors.Join(err, driver.ErrBadConn)
			}
			if pid != c.PgConn().PID() {
				return ErrPooled
			}
		}
		err := begin(ctx, Session{func(query string, args ...any) error {
			_, err := c.Exec(ctx, query, args...)
			return err
		}})
		if err == nil {
			_, err = c.WaitForNotification(ctx) // there is none: it fails when the connection does
		}
		return errors.Join(err, driver.ErrBadConn) // the pool must not give the session to others
	})
}

// Session is a connection that nobody else uses.
type Session struct {
	Exec func(query string, args ...any) error
}
