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
