package accounts

import (
	"context"
	"errors"
	"slices"
	"strings"

	"lyceum/platform/db"
	"lyceum/platform/role"
)

// saveInteraction stores what is done, which other requests may have added to; i has all of it then.
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
	return a.db.Tx(ctx, func(tx *db.Tx) error { // it is never made anew: another request may have used it up
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
		if i.op == opRegister && body != "" { // what was sent last
			_, err = tx.Exec(ctx, `UPDATE interactive_sessions SET done = $2, body = $3 WHERE id = $1`, i.rowID(), strings.Join(done, " "), body)
			return err
		}
		_, err = tx.Exec(ctx, `UPDATE interactive_sessions SET done = $2 WHERE id = $1`, i.rowID(), strings.Join(done, " "))
		return err
	})
}

// insertInteraction stores an interaction that is new, with the registration token that is held for it.
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

// endInteraction removes an interaction, and gives back the use of a registration token that it still holds.
func (a *Accounts) endInteraction(ctx context.Context, i *interaction) error {
	return a.db.Tx(ctx, func(tx *db.Tx) error { return a.finishInteraction(ctx, tx, i, "") })
}

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

// expireInteractive ends sessions that nobody finished, and frees the registration tokens they held.
func (a *Accounts) expireInteractive(ctx context.Context, job *role.Job, now int64) error {
	return job.Tx(ctx, func(tx *db.Tx) error {
		held, err := db.Texts(tx.Query(ctx, `DELETE FROM interactive_sessions WHERE expires_ms <= $1 RETURNING token`, now))
		if err != nil {
			return err
		}
		return releaseTokenUses(ctx, tx, held)
	})
}
