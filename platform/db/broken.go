package db

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"lyceum/platform/backoff"
)

// A session of PostgreSQL may outlive its connection: a statement that was sent may run later, for example when a lock becomes free. By
// then the client may have got an error, repeated its request and got an answer. A group commit is fenced by its leases. Every other write
// ends the session before it returns the error.

// backend identifies a session of the server.
type backend struct {
	pid   uint32
	began int64 // microseconds of Unix time; process ids are reused
}

// broken holds the session whose connection broke during a statement. When a context ends, package sql rolls back in a
// goroutine of its own, which may write it at any time.
type broken struct{ session atomic.Pointer[backend] }

type brokenKey struct{}

const backendBegan = "(extract(epoch FROM backend_start) * 1000000)::bigint"

// sessionKey is the name under which a connection keeps its *backend.
const sessionKey = "lyceum.session"

// rememberSession stores the session of a new connection in it. Behind a pooler a connection has no session of its own.
func rememberSession(ctx context.Context, c *pgx.Conn) error {
	var s backend
	err := c.QueryRow(ctx, "SELECT pid, "+backendBegan+" FROM pg_stat_activity WHERE pid = pg_backend_pid()",
		pgx.QueryExecModeExec).Scan(&s.pid, &s.began)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err == nil && s.pid == c.PgConn().PID() {
		c.PgConn().CustomData()[sessionKey] = &s
	}
	return err
}

// watch is a pgx.QueryTracer that records the session of a statement in the *broken of its context when the connection breaks.
type watch struct{}

// TraceQueryStart is part of pgx.QueryTracer.
func (watch) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}

// TraceQueryEnd is part of pgx.QueryTracer.
func (watch) TraceQueryEnd(ctx context.Context, c *pgx.Conn, data pgx.TraceQueryEndData) {
	if data.Err == nil || !c.IsClosed() {
		return
	}
	if b, ok := ctx.Value(brokenKey{}).(*broken); ok {
		s, _ := c.PgConn().CustomData()[sessionKey].(*backend)
		b.session.Store(s)
	}
}

// maxNoAnswer is how long endSessionOnBreak waits for a database that does not answer.
const maxNoAnswer = 5 * time.Second

// endSessionOnBreak runs write. When the connection of write breaks, it ends the session, so that what was sent is done before
// endSessionOnBreak returns, or never. It gives up when ctx ends, or after maxNoAnswer without an answer of the database.
func (d *DB) endSessionOnBreak(ctx context.Context, write func(ctx context.Context) error) error {
	if !d.Postgres() {
		return write(ctx)
	}
	var b broken
	err := write(context.WithValue(ctx, brokenKey{}, &b))
	session := b.session.Load()
	if session == nil {
		return err
	}
	asked := time.Now()
	pause := backoff.Backoff{First: 10 * time.Millisecond, Max: 500 * time.Millisecond}
	for time.Since(asked) < maxNoAnswer {
		var told bool
		endErr := d.QueryRow(ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND "+backendBegan+" = $2",
			int64(session.pid), session.began).Scan(&told)
		switch {
		case endErr == nil:
			asked = time.Now()
		case !IsTemporary(endErr): // it is gone, or can not be ended
			return err
		}
		if pause.Wait(ctx) != nil {
			return err
		}
	}
	return err
}
