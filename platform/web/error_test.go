package web

import (
	"context"
	"fmt"
	"io"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"lyceum/platform/db"
)

// What passes by itself is told from what is broken; retry_after_ms is for what was refused and changed nothing.
func TestAnswersOfADatabase(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
	}{
		{&pgconn.PgError{Code: "53300"}, 503}, // too many connections
		{&pgconn.PgError{Code: "57P01"}, 503}, // it stops
		{&pgconn.PgError{Code: "57P02"}, 503},
		{&pgconn.PgError{Code: "57P03"}, 503},
		{&pgconn.PgError{Code: "57P04"}, 503},
		{&pgconn.PgError{Code: "57P05"}, 503},
		{&pgconn.PgError{Code: "08006"}, 503},
		{&pgconn.PgError{Code: "25006"}, 503}, // it is read-only: another took over
		{&pgconn.PgError{Code: "57014"}, 503}, // the statement was cancelled, or took too long
		{&pgconn.PgError{Code: "55P03"}, 503}, // a lock can not be had
		{&pgconn.PgError{Code: "40001"}, 503}, // others came in between, again and again
		{&pgconn.PgError{Code: "40P01"}, 503},
		{&pgconn.PgError{Code: "53000"}, 503},
		{&pgconn.PgError{Code: "53200"}, 503}, // no memory
		{&pgconn.PgError{Code: "53400"}, 503},
		{&pgconn.PgError{Code: "58030"}, 503}, // a disk can not be read
		{&db.CommitError{Err: &pgconn.PgError{Code: "40001"}}, 503},
		{&db.CommitError{Err: io.ErrUnexpectedEOF}, 503},
		{context.DeadlineExceeded, 503},
		{&pgconn.PgError{Code: "53100"}, 507}, // the disk is full
		{&pgconn.PgError{Code: "23514"}, 500},
	} {
		answer := AnswerOf(fmt.Errorf("a statement: %w", c.err))
		body, err := answer.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		if answer.HTTPStatus() != c.status {
			t.Errorf("%v: expected %d, found %d %s", c.err, c.status, answer.HTTPStatus(), body)
		}
	}
}
