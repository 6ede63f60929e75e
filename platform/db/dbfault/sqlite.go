package dbfault

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	_ "modernc.org/sqlite" // registers the driver that this one stands around
)

// SQLite stands between one process and a SQLite file.
type SQLite struct {
	Gate
	slot *slot
}

// slot is a registered driver. As the names of drivers stay, slots are used again.
type slot struct {
	name string
	mu   sync.Mutex
	user *SQLite // whose the next connections are
}

var (
	slotsMu sync.Mutex
	free    []*slot
	made    int
)

// NewSQLite gives a driver to one process, until Close.
func NewSQLite() *SQLite {
	slotsMu.Lock()
	defer slotsMu.Unlock()
	s := &SQLite{}
	if n := len(free); n > 0 {
		s.slot, free = free[n-1], free[:n-1]
	} else {
		s.slot = &slot{name: fmt.Sprint("sqlite-fault-", made)}
		made++
		sql.Register(s.slot.name, s.slot)
	}
	s.slot.mu.Lock()
	s.slot.user = s
	s.slot.mu.Unlock()
	return s
}

// Driver is the name for db.Options.
func (s *SQLite) Driver() string { return s.slot.name }

// Close gives the driver back. What is written over connections that are left is not stored.
func (s *SQLite) Close() {
	s.End()
	slotsMu.Lock()
	defer slotsMu.Unlock()
	free = append(free, s.slot)
}

// engine is the engine's driver as it was registered.
var engine = sync.OnceValue(func() driver.Driver {
	d, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		panic(err) // the name is registered by the import
	}
	defer d.Close()
	return d.Driver()
})

// Open implements driver.Driver.
func (s *slot) Open(name string) (driver.Conn, error) {
	c, err := engine().Open(name)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return &conn{engineConn: c.(engineConn), of: s.user}, nil
}

// engineConn is what the engine's connections can do and package sql asks for.
type engineConn interface {
	driver.Conn
	driver.ConnPrepareContext
	driver.ConnBeginTx
	driver.ExecerContext
	driver.QueryerContext
	driver.Pinger
	driver.SessionResetter
	driver.Validator
}

type conn struct {
	engineConn
	of    *SQLite
	group bool // a statement of the open transaction moved leases
	dead  bool
}

func (c *conn) IsValid() bool { return !c.dead && c.engineConn.IsValid() }

// run counts a statement while the engine works on it.
func (c *conn) run(query string) func() {
	c.group = c.group || c.of.guards(query)
	c.of.active.Add(1)
	return func() {
		c.of.active.Add(-1)
		c.of.counter.Add(1)
	}
}

func (c *conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	defer c.run(query)()
	return c.engineConn.ExecContext(ctx, query, args)
}

func (c *conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	defer c.run(query)()
	return c.engineConn.QueryContext(ctx, query, args)
}

func (c *conn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	s, err := c.engineConn.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	return &stmt{engineStmt: s.(engineStmt), of: c, query: query}, nil
}

func (c *conn) Prepare(query string) (driver.Stmt, error) {
	return c.PrepareContext(context.Background(), query)
}

func (c *conn) BeginTx(ctx context.Context, o driver.TxOptions) (driver.Tx, error) {
	defer c.run("")()
	t, err := c.engineConn.BeginTx(ctx, o)
	if err != nil {
		return nil, err
	}
	c.group = false
	return &tx{t, c}, nil
}

func (c *conn) Begin() (driver.Tx, error) {
	return c.BeginTx(context.Background(), driver.TxOptions{})
}

type engineStmt interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

type stmt struct {
	engineStmt
	of    *conn
	query string
}

func (s *stmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	defer s.of.run(s.query)()
	return s.engineStmt.ExecContext(ctx, args)
}

func (s *stmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	defer s.of.run(s.query)()
	return s.engineStmt.QueryContext(ctx, args)
}

type tx struct {
	driver.Tx
	of *conn
}

var (
	errCut  = fmt.Errorf("the disk is gone: %w", driver.ErrBadConn)
	errLost = fmt.Errorf("the disk is gone: %w", io.ErrUnexpectedEOF)
	errFull = errors.New("database or disk is full (13)")
)

// Commit ends a transaction, as the test decides when it is a group commit. SQLite has no commit that comes late:
// Late and LateEnd are After.
func (t *tx) Commit() error {
	c := t.of
	f := Pass
	if c.group {
		c.group = false
		if h := c.of.hold(); h != nil {
			f = <-h.decide
		}
	}
	defer c.run("")()
	switch f {
	case Before:
		_ = t.Tx.Rollback()
		c.dead = true
		return errCut
	case After, Late, LateEnd:
		err := t.Tx.Commit()
		c.dead = true
		if err == nil {
			err = errLost
		}
		return err
	case Refuse, Again:
		_ = t.Tx.Rollback()
		return errFull
	case Slow:
		time.Sleep(SlowBy)
	}
	return t.Tx.Commit()
}
