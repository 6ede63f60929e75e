package accounts

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"

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

// interaction is one user-interactive authentication (Client-Server API, "User-Interactive Authentication API"). It is stored once
// it outlives a request, so that any process can serve any step.
type interaction struct {
	id          string     // the session id that the client gets; the database has its hash
	op          string     // the operation: method and path, or opRegister
	userID      string     // the caller; "" for registration
	registered  string     // the user whom a registration made
	params      []byte     // parameters as canonical JSON; nil for registration, where the client may change them
	flows       [][]string // each is a list of stages
	passed      []string   // stages
	token       string     // the registration token of which it holds a use
	from        netip.Addr // address of the present request
	storedHash  string     // requestHash of the request that began it
	proof       Proof      // set when the user gave the password
	stored      bool       // the database has it, or may have it
	clientHasID bool       // the client got the id; else the interaction ends with its first request

	paramsBody  []byte // parameters as JSON, stored for requests that leave them out
	storedBody  string // the same, encrypted, from the database
	requestBody []byte // the whole body of the present request; nil when unknown
	answer      string // encrypted answer that was stored with the operation; "" when it is not stored yet
}

// network is the network that the present request comes from.
func (i *interaction) network() string { return web.AddressKey(i.from) }

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

// name returns the user's name in either of the two forms.
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
		return !slices.ContainsFunc(flow, func(stage string) bool { return !slices.Contains(i.passed, stage) })
	})
}

func (i *interaction) offers(stage string) bool {
	return slices.ContainsFunc(i.flows, func(flow []string) bool { return slices.Contains(flow, stage) })
}

// rowID is the key under which an interaction is stored. It is a hash, so that a reader of the database can not continue the
// session.
func (i *interaction) rowID() string {
	sum := sha256.Sum256([]byte("interactive session\x00" + i.id))
	return matrix.Base64URL(sum[:])
}

// requestHash identifies the operation and its parameters that an interaction was begun for. It is keyed by the session id, which
// is not stored, because the parameters may hold a new password.
func (i *interaction) requestHash() string {
	m := hmac.New(sha256.New, []byte(i.id))
	for _, part := range [][]byte{[]byte(i.op), []byte(i.userID), i.params} {
		fmt.Fprintf(m, "%d:", len(part))
		m.Write(part)
	}
	return matrix.Base64URL(m.Sum(nil))
}

// Proof is the hash of the password with which a user confirmed an operation, "" for an operation that needs no confirmation. The
// operation is refused if the password was changed since.
type Proof string

// Holds reports whether the user's password is still the one of the proof, and locks it until the transaction ends.
func (p Proof) Holds(ctx context.Context, tx *db.Tx, userID string) (bool, error) {
	if p == "" {
		return true, nil
	}
	var held string
	err := tx.QueryRow(ctx, `SELECT password FROM users WHERE user_id = $1 FOR UPDATE`, userID).Scan(&held)
	if errors.Is(err, db.ErrNoRows) {
		return false, nil
	}
	return held == string(p), err
}

var errNoSession = matrix.NewError(
	401,
	matrix.CodeUnknown,
	"The session is unknown, used, has run out or was for something else: begin again with the new one",
)

// errOtherUser is shown when somebody confirms an operation as another user than that of the access token.
var errOtherUser = matrix.Forbidden("Only the user who asks for this may confirm it")

// runInteraction takes one step of an interaction: it checks the stage in auth, asks for the next one with 401, or, when all
// stages of a flow are passed, calls fn. The session ends when fn succeeds. start makes the interaction of this request, and check
// looks at its parameters, if its session is not one that has ended.
func (a *Accounts) runInteraction(
	ctx context.Context,
	start func() *interaction,
	auth json.RawMessage,
	check func() error,
	fn func(*interaction) (any, error),
) (answer any, err error) {
	if len(auth) == 0 || string(auth) == "null" {
		if err := check(); err != nil {
			return nil, err
		}
		return a.challenge(ctx, start(), nil)
	}
	var d authData
	if err := json.Unmarshal(auth, &d); err != nil {
		return nil, matrix.BadJSON("auth must be an object with type and session").With(err)
	}
	i := start()
	defer func() {
		if err == nil || !i.stored || i.clientHasID {
			return
		}
		if endErr := a.endInteraction(context.WithoutCancel(ctx), i); endErr != nil {
			a.log.Warn("an authentication that failed keeps its registration token until it runs out", "error", endErr)
		}
	}()
	if d.Session != "" {
		known, err := a.continueInteraction(ctx, i, d.Session)
		if err != nil {
			return nil, err
		}
		if known == nil {
			return a.challenge(ctx, i, errNoSession)
		}
		i = known
	}
	if err := check(); err != nil {
		return nil, err
	}
	if d.Type != "" {
		refused, err := a.tryStage(ctx, i, &d)
		if err != nil {
			return nil, err
		}
		if refused != nil {
			return a.challenge(ctx, i, refused)
		}
	}
	if !i.complete() {
		return a.challenge(ctx, i, nil)
	}
	if first, err := a.claimInteraction(ctx, i); err != nil {
		return nil, err
	} else if !first {
		return a.challenge(ctx, start(), errNoSession)
	}
	result, err := fn(i)
	a.closeInteraction(context.WithoutCancel(ctx), i, result, err) // also when the client has gone: the session must not stay used
	return result, err
}

// continueInteraction loads the stored interaction of a session and gives it the present request, now. It returns nil when the
// session is unknown, or was begun for another operation.
func (a *Accounts) continueInteraction(ctx context.Context, now *interaction, session string) (*interaction, error) {
	known, err := loadInteraction(ctx, a.db, session, a.nowMs())
	if errors.Is(err, db.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	begun := known.storedHash
	known.op, known.userID, known.params, known.from = now.op, now.userID, now.params, now.from
	known.paramsBody, known.requestBody = now.paramsBody, now.requestBody
	if known.requestHash() != begun {
		return nil, nil
	}
	return known, nil
}

// tryStage checks a stage and stores that it was passed. refused is the error to show with the next challenge, nil when the
// stage was passed; err ends the request.
func (a *Accounts) tryStage(ctx context.Context, i *interaction, d *authData) (refused *matrix.Error, err error) {
	err = a.passStage(ctx, i, d)
	switch {
	case err == nil && i.clientHasID: // another request may have passed another stage meanwhile
		return nil, a.saveInteraction(ctx, i)
	case errors.Is(err, errOtherUser):
		return nil, err
	case errors.As(err, &refused) && refused.Status < 500 && refused.Status != 429:
		return refused, nil
	}
	return nil, err
}

// claimInteraction marks a complete interaction as used. first is false when another request with the session came before.
func (a *Accounts) claimInteraction(ctx context.Context, i *interaction) (first bool, err error) {
	if i.userID != "" && i.proof == "" { // confirmed by an earlier request: a new password since then ends the session
		u, err := loadUser(ctx, a.db, i.userID)
		if err != nil {
			return false, err
		}
		i.proof = Proof(u.password)
	}
	if !i.clientHasID {
		return true, nil
	}
	n, err := a.db.Exec(ctx, `UPDATE interactive_sessions SET used = TRUE WHERE id = $1 AND NOT used`, i.rowID())
	return n > 0, err
}

// closeInteraction ends the session after its operation, or makes it usable again when the operation failed.
func (a *Accounts) closeInteraction(ctx context.Context, i *interaction, result any, failed error) {
	var err error
	switch {
	case failed != nil && i.clientHasID:
		// The passed stages stay: the client may repeat the request with, for example, another name.
		_, err = a.db.Exec(ctx, `UPDATE interactive_sessions SET used = FALSE WHERE id = $1 AND answer = ''`, i.rowID())
	case failed != nil || !i.stored || i.answer != "":
	default: // succeeded: only the answer stays, until it expires
		var answer string
		if answer, err = i.sealAnswer(result); err == nil {
			err = a.db.Tx(ctx, func(tx *db.Tx) error { return a.finishInteraction(ctx, tx, i, answer) })
		}
	}
	if err != nil {
		a.log.Warn("the session of an authentication stays as it is until it runs out", "error", err)
	}
}

// passStage checks one stage and adds it to i.passed. A *matrix.Error with a status below 500 says that the stage was not passed.
func (a *Accounts) passStage(ctx context.Context, i *interaction, d *authData) error {
	if !i.offers(d.Type) {
		return matrix.NewError(401, matrix.CodeUnrecognized, "This authentication type is not offered here")
	}
	if slices.Contains(i.passed, d.Type) {
		return nil
	}
	switch d.Type {
	case stageDummy, stageTerms:
	case stagePassword:
		name := d.name()
		if name == "" {
			name = i.userID
		}
		// This endpoint can not be used to try passwords of other accounts.
		if u, err := a.findUser(ctx, name); errors.Is(err, db.ErrNoRows) || err == nil && u.id != i.userID {
			return errOtherUser
		} else if err != nil {
			return err
		}
		u, err := a.checkPassword(ctx, i.userID, d.Password, i.from)
		if err != nil {
			return err
		}
		i.proof = Proof(u.password)
	case stageToken:
		if i.token == "" {
			if err := a.reserveToken(ctx, i, d.Token); err != nil {
				return err
			}
		}
	default:
		return matrix.NewError(401, matrix.CodeUnrecognized, "This authentication type is not known")
	}
	i.passed = append(i.passed, d.Type)
	return nil
}

// challenge stores the session and returns the 401 that asks for the next stage. refused says why the last one was not passed, nil
// when nothing was wrong.
func (a *Accounts) challenge(ctx context.Context, i *interaction, refused *matrix.Error) (any, error) {
	if err := a.saveInteraction(ctx, i); err != nil {
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
	if body["completed"] = i.passed; i.passed == nil {
		body["completed"] = []string{}
	}
	if refused != nil {
		body["errcode"], body["error"] = refused.Code, refused.Message
	}
	return &web.Reply{Status: 401, Value: body}, nil
}

// termsParams returns the params of the stage m.login.terms.
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
