package db

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"net"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

// postgresEngine keeps one pool; SQL is taken as it is written.
type postgresEngine struct{ pool *sql.DB }

// unheard is how long the network to the database may be silent about something sent before the connection counts as
// broken. A database that is busy or paused is not meant: its machine confirms what it gets.
const unheard = 4 * time.Second

func openPostgres(url string, o Options) (engine, error) {
	c, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("database address: %w", err)
	}
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = 5 * time.Second
	}
	// A database that can not be reached any more is found out within seconds: else a statement waits for as long as the
	// kernel repeats it, and a new connection is not tried before.
	c.DialFunc = (&net.Dialer{
		Control:         giveUpAfter(unheard),
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: unheard, Interval: time.Second, Count: 3},
	}).DialContext
	c.StatementCacheCapacity = 512
	c.RuntimeParams["application_name"] = "lyceum"
	c.RuntimeParams["statement_timeout"] = fmt.Sprint(o.Timeout.Milliseconds())
	// A paused process must not hold the row locks that fence its successor out.
	c.RuntimeParams["idle_in_transaction_session_timeout"] = "3000"
	if o.Schema != "" {
		c.RuntimeParams["search_path"] = o.Schema
	}
	for k, v := range o.Params {
		c.RuntimeParams[k] = v
	}
	pool := stdlib.OpenDB(*c)
	n := o.Readers
	if n == 0 {
		n = 16
	}
	pool.SetMaxOpenConns(n)
	pool.SetMaxIdleConns(n)
	pool.SetConnMaxIdleTime(5 * time.Minute)
	pool.SetConnMaxLifetime(time.Hour)
	return &postgresEngine{pool}, nil
}

func (e *postgresEngine) readPool() *sql.DB         { return e.pool }
func (e *postgresEngine) writePool() *sql.DB        { return e.pool }
func (e *postgresEngine) name() string              { return "postgres" }
func (e *postgresEngine) maxParams() int            { return 16000 }
func (e *postgresEngine) translate(q string) string { return q }
func (e *postgresEngine) close() error              { return e.pool.Close() }

func (e *postgresEngine) args(args []any) []any {
	for i, a := range args {
		// A raw message would be taken for the json type; the columns are BYTEA or TEXT.
		if v, ok := a.(json.RawMessage); ok {
			args = replaced(args, i, []byte(v))
		}
	}
	return args
}
