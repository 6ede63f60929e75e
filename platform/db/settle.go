package db

import (
	"context"
	"errors"
	"time"

	"lyceum/platform/backoff"
)

// Settle is Tx for callers that must know the outcome. After a commit that was not confirmed, it calls stored as soon as the database
// answers; when the rows are not there, it runs fn again. Ids and tokens that fn writes must be made before Settle, so that stored can look
// for them. The unconfirmed commit may still arrive between stored and fn. Then the locks and unique keys of the rows make fn write the
// same again or fail, and stored is called once more. Settle returns a *CommitError when ctx ends before the outcome is known.
func (d *DB) Settle(ctx context.Context, fn func(tx *Tx) error, stored func(ctx context.Context, q Querier) (bool, error)) error {
	err := d.Tx(ctx, fn)
	var unknown *CommitError
	if !errors.As(err, &unknown) {
		return err
	}
	pause := backoff.Backoff{First: 20 * time.Millisecond, Max: 500 * time.Millisecond}
	for {
		if pause.Wait(ctx) != nil {
			return unknown
		}
		done, err := stored(ctx, d)
		if err == nil && !done {
			if err = d.Tx(ctx, fn); err == nil {
				return nil
			}
			if isOpen(err) {
				continue
			}
			refused := err
			if done, err = stored(ctx, d); err == nil && !done {
				return refused
			}
		}
		switch {
		case err == nil:
			return nil
		case !isOpen(err):
			return unknown
		}
	}
}

// isOpen reports whether an error leaves the outcome of a transaction unknown.
func isOpen(err error) bool {
	var unknown *CommitError
	return errors.As(err, &unknown) || IsTemporary(err)
}
