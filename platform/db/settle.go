package db

import (
	"context"
	"errors"
	"time"

	"lyceum/platform/backoff"
)

// Settle is Tx for those who must know what became of it, as they would do it again otherwise: after a commit that was not
// confirmed it asks, as soon as the database answers, whether it is stored, and where it is not, runs fn again. What fn makes, such as
// ids and tokens, is made before Settle, and stored looks for it. The commit may still come, between the question and
// fn: fn meets it by the
// locks and unique keys of its rows, and then stores the same again or is refused, and then stored is asked once more. A
// *CommitError comes back when ctx ends before it is known.
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

// isOpen tells that an error leaves open what became of work.
func isOpen(err error) bool {
	var unknown *CommitError
	return errors.As(err, &unknown) || IsTemporary(err)
}
