package accounts

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"lyceum/matrix"
	"lyceum/platform/db"
	"lyceum/platform/web"
)

// The stages of user-interactive authentication that this server knows.
const (
	stagePassword = "m.login.password"
	stageDummy    = "m.login.dummy"
	stageToken    = "m.login.registration_token"
	stageTerms    = "m.login.terms"
)

// interaction is one user-interactive authentication (Client-Server API, "User-Interactive Authentication
// API"). It is stored once it has to outlive a request, so that any process serves any step.
type interaction struct {
	id     string
	op     string     // what it is for
	userID string     // whose it is; "" for registration
	flows  [][]string // each is a way through
	done   []string   // stages that were passed
	token  string     // the registration token that is held for it
	stored bool
}

// authData is the auth member of a request.
type authData struct {
	Type       string          `json:"type"`
	Session    string          `json:"session"`
	Identifier *userIdentifier `json:"identifier"`
	User       string          `json:"user"`
	Password   string          `json:"password"`
	Token      string          `json:"token"`
}

type userIdentifier struct {
	Type string `json:"type"`
	User string `json:"user"`
}

// name is the user's name in either of the two shapes.
func (d *authData) name() string {
	if d.Identifier != nil {
		if d.Identifier.Type != "m.id.user" {
			return ""
		}
		return d.Identifier.User
	}
	return d.User
}

func (i *interaction) complete() bool {
	return slices.ContainsFunc(i.flows, func(flow []string) bool {
		return !slices.ContainsFunc(flow, func(stage string) bool { return !slices.Contains(i.done, stage) })
	})
}

func (i *interaction) offers(stage string) bool {
	return slices.ContainsFunc(i.flows, func(flow []string) bool { return slices.Contains(flow, stage) })
}

// Interactive asks the caller for a password before fn runs, as the endpoints for deleting devices,
// replacing cross-signing keys, changing the password and deactivating do. op names the operation: an
// authentication for one is not taken for another. auth is the auth member of the body, nil when there is
// none. Until the caller has proved who they are the answer is 401 with the flows and a session.
func (a *Accounts) Interactive(r *web.Request, op string, auth json.RawMessage, fn func() (any, error)) (any, error) {
	start := func() *interaction {
		return &interaction{id: newSessionID(), op: op, userID: r.UserID(), flows: [][]string{{stagePassword}}}
	}
	return a.interact(r.Context(), start, auth, func(*interaction) (any, error) { return fn() })
}

// interact takes one step. fn runs when all stages of a flow are passed; the session ends when it succeeds.
func (a *Accounts) interact(ctx context.Context, start func() *interaction, auth json.RawMessage, fn func(*interaction) (any, error)) (any, error) {
	if len(auth) == 0 || string(auth) == "null" {
		i := start()
		return a.challenge(ctx, i, nil)
	}
	var d authData
	if err := json.Unmarshal(auth, &d); err != nil {
		return nil, matrix.BadJSON("auth must be an object with type and session").With(err)
	}
	i := start()
	if d.Session != "" {
		known, err := loadInteraction(ctx, a.db, d.Session, a.nowMs())
		if errors.Is(err, db.ErrNoRows) || err == nil && (known.op != i.op || known.userID != i.userID) {
			return a.challenge(ctx, i, matrix.NewError(401, matrix.CodeUnknown, "The session is unknown, has run out or was for something else: begin again with the new one"))
		}
		if err != nil {
			return nil, err
		}
		i = known
	}
	if d.Type != "" {
		if err := a.pass(ctx, i, &d); err != nil {
			var refused *matrix.Error
			if errors.As(err, &refused) && refused.Status < 500 && refused.Status != 429 {
				return a.challenge(ctx, i, refused)
			}
			return nil, err
		}
	}
	if !i.complete() {
		return a.challenge(ctx, i, nil)
	}
	result, err := fn(i)
	if err != nil {
		// What was proved stays proved: the client may repeat the request with, say, another name.
		var keepErr error
		if i.stored {
			keepErr = a.keepInteraction(ctx, i)
		} else if i.token != "" {
			keepErr = a.releaseToken(ctx, i.token)
		}
		if keepErr != nil {
			a.log.Warn("a step of an authentication was not kept", "error", keepErr)
		}
		return nil, err
	}
	if i.stored {
		_, err = a.db.Exec(ctx, `DELETE FROM interactive_sessions WHERE id = $1`, i.id)
	}
	return result, err
}

// pass checks one stage. An error that is a *matrix.Error below 500 means that it was not passed.
func (a *Accounts) pass(ctx context.Context, i *interaction, d *authData) error {
	if !i.offers(d.Type) {
		return matrix.NewError(401, matrix.CodeUnrecognized, "This authentication type is not offered here")
	}
	if slices.Contains(i.done, d.Type) {
		return nil
	}
	switch d.Type {
	case stageDummy, stageTerms:
	case stagePassword:
		name := d.name()
		if name == "" {
			name = i.userID
		}
		u, err := a.checkPassword(ctx, name, d.Password)
		if err != nil {
			return err
		}
		if u.id != i.userID {
			return errWrongPassword
		}
	case stageToken:
		if i.token == "" {
			if err := a.holdToken(ctx, i, d.Token); err != nil {
				return err
			}
		}
	default:
		return matrix.NewError(401, matrix.CodeUnrecognized, "This authentication type is not known")
	}
	i.done = append(i.done, d.Type)
	return nil
}

// challenge stores the session and makes the 401 that asks for the next stage. refused says why the last
// one was not passed, nil when nothing was wrong.
func (a *Accounts) challenge(ctx context.Context, i *interaction, refused *matrix.Error) (any, error) {
	if err := a.keepInteraction(ctx, i); err != nil {
		return nil, err
	}
	type flow struct {
		Stages []string `json:"stages"`
	}
	body := map[string]any{"session": i.id, "params": map[string]any{}}
	flows := make([]flow, 0, len(i.flows))
	for _, stages := range i.flows {
		flows = append(flows, flow{stages})
	}
	body["flows"] = flows
	if i.offers(stageTerms) {
		body["params"] = map[string]any{stageTerms: a.termsParams()}
	}
	if len(i.done) > 0 {
		body["completed"] = i.done
	}
	if refused != nil {
		body["errcode"], body["error"] = refused.Code, refused.Message
	}
	return &web.Reply{Status: 401, Value: body}, nil
}

func (a *Accounts) termsParams() any {
	policies := map[string]any{}
	for id, term := range a.config.Terms {
		policy := map[string]any{"version": term.Version}
		for language, text := range term.Texts {
			policy[language] = text
		}
		policies[id] = policy
	}
	return map[string]any{"policies": policies}
}

func (a *Accounts) keepInteraction(ctx context.Context, i *interaction) error {
	expires := a.nowMs() + a.config.InteractiveTimeout.D().Milliseconds()
	ways := make([]string, len(i.flows))
	for n, stages := range i.flows {
		ways[n] = strings.Join(stages, " ")
	}
	if i.stored { // never made anew: another request may have used it up
		_, err := a.db.Exec(ctx, `UPDATE interactive_sessions SET done = $2 WHERE id = $1`, i.id, strings.Join(i.done, " "))
		return err
	}
	_, err := a.db.Exec(ctx, `INSERT INTO interactive_sessions (id, op, user_id, flows, done, token, expires_ms) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		i.id, i.op, i.userID, strings.Join(ways, "\n"), strings.Join(i.done, " "), i.token, expires)
	i.stored = err == nil
	return err
}

func loadInteraction(ctx context.Context, q db.Querier, id string, now int64) (*interaction, error) {
	i := &interaction{id: id, stored: true}
	var flows, done string
	if strings.Contains(id, "\x00") {
		return nil, db.ErrNoRows
	}
	err := q.QueryRow(ctx, `SELECT op, user_id, flows, done, token FROM interactive_sessions WHERE id = $1 AND expires_ms > $2`, id, now).
		Scan(&i.op, &i.userID, &flows, &done, &i.token)
	if err != nil {
		return nil, err
	}
	for _, way := range strings.Split(flows, "\n") {
		i.flows = append(i.flows, strings.Fields(way))
	}
	i.done = strings.Fields(done)
	return i, nil
}

// expireInteractive ends sessions that nobody finished, and frees the registration tokens they held.
func (a *Accounts) expireInteractive(ctx context.Context, now int64) error {
	return a.db.Tx(ctx, func(tx *db.Tx) error {
		held, err := db.Texts(tx.Query(ctx, `DELETE FROM interactive_sessions WHERE expires_ms <= $1 RETURNING token`, now))
		if err != nil {
			return err
		}
		for _, token := range held {
			if token == "" {
				continue
			}
			if _, err := tx.Exec(ctx, `UPDATE registration_tokens SET pending = pending - 1 WHERE token = $1 AND pending > 0`, token); err != nil {
				return err
			}
		}
		return nil
	})
}
