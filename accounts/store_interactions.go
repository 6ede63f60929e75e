package accounts

import (
	"context"
	"errors"
	"slices"
	"strings"

	"lyceum/platform/db"
	"lyceum/platform/role"
)

// saveInteraction stores the passed stages and sets i.passed to all of them, also those that other requests stored meanwhile.
func (a *Accounts) saveInteraction(ctx context.Context, i *interaction) error {
	body, err := i.sealBody()
	if err != nil {
		return err
	}
	if !i.stored {
		err := a.insertInteraction(ctx, a.db, i, "")
		i.stored = err == nil
		return err
	}
	passed := slices.Clone(i.passed)
	return a.db.Tx(ctx, func(tx *db.Tx) error { // never inserted again: another request may have used it
		var text string
		err := tx.QueryRow(ctx, `SELECT done FROM interactive_sessions WHERE id = $1 AND NOT used FOR UPDATE`, i.rowID()).Scan(&text)
		if errors.Is(err, db.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		done := strings.Fields(text)
		for _, stage := range passed {
			if !slices.Contains(done, stage) {
				done = append(done, stage)
			}
		}
		i.passed = done
		if i.op == opRegister && body != "" { // the newest parameters
			_, err = tx.Exec(ctx, `UPDATE interactive_sessions SET done = $2, body = $3 WHERE id = $1`, i.rowID(), strings.Join(done, " "), body)
			return err
		}
		_, err = tx.Exec(ctx, `UPDATE interactive_sessions SET done = $2 WHERE id = $1`, i.rowID(), strings.Join(done, " "))
		return err
	})
}

// insertInteraction stores a new interaction, with the registration token of which it holds a use ("" for none).
func (a *Accounts) insertInteraction(ctx context.Context, q db.Querier, i *interaction, token string) error {
	ways := make([]string, len(i.flows))
	for n, stages := range i.flows {
		ways[n] = strings.Join(stages, " ")
	}
	body, err := i.sealBody()
	if err != nil {
		return err
	}
	_, err = q.Exec(ctx, `INSERT INTO interactive_sessions (id, op, user_id, request, flows, done, token, body, expires_ms)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
		i.rowID(), i.op, i.userID, i.requestHash(), strings.Join(ways, "\n"), strings.Join(i.passed, " "),
		token, body, a.nowMs()+a.config.InteractiveTimeout.D().Milliseconds())
	return err
}

// endInteraction deletes an interaction and releases the use of a registration token that it still holds.
func (a *Accounts) endInteraction(ctx context.Context, i *interaction) error {
	return a.db.Tx(ctx, func(tx *db.Tx) error { return a.finishInteraction(ctx, tx, i, "") })
}

// loadInteraction loads an interaction that is neither used nor expired. Errors: db.ErrNoRows.
func loadInteraction(ctx context.Context, q db.Querier, id string, now int64) (*interaction, error) {
	i := &interaction{id: id, stored: true, clientHasID: true}
	var flows, done string
	err := q.QueryRow(ctx, `SELECT op, user_id, request, flows, done, token, body FROM interactive_sessions
		WHERE id = $1 AND expires_ms > $2 AND NOT used`, i.rowID(), now).
		Scan(&i.op, &i.userID, &i.storedHash, &flows, &done, &i.token, &i.storedBody)
	if err != nil {
		return nil, err
	}
	for _, way := range strings.Split(flows, "\n") {
		i.flows = append(i.flows, strings.Fields(way))
	}
	i.passed = strings.Fields(done)
	return i, nil
}

// expireInteractive deletes expired interactions and releases the uses of registration tokens that they hold.
func (a *Accounts) expireInteractive(ctx context.Context, job *role.Job, now int64) error {
	return job.Tx(ctx, func(tx *db.Tx) error {
		held, err := db.Texts(tx.Query(ctx, `DELETE FROM interactive_sessions WHERE expires_ms <= $1 RETURNING token`, now))
		if err != nil {
			return err
		}
		return releaseTokenUses(ctx, tx, held)
	})
}
