package accounts

import (
	"cmp"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"lyceum/matrix"
	"lyceum/platform/db"
	"lyceum/platform/web"
)

const (
	// answerLife is how long the answer of a finished interaction is kept for a client that did not get it.
	answerLife = 2 * time.Minute
	// answerWait is how long a repeated request waits for the first one, if that is still running: as long as hashing a password
	// and ending sessions take on a machine that has much to do.
	answerWait = 15 * time.Second
	// answerInterval is how often a request that waits looks for the answer of the first one.
	answerInterval = 100 * time.Millisecond
	// maxStoredBody is up to how many bytes of parameters an interaction stores. A client with more sends them with each request.
	maxStoredBody = 64 << 10
)

// sealer returns a cipher for data of an interaction, which may hold a new password or an access token. Its key is derived from
// the session id, which only the client has, from the purpose and from the parts.
func (i *interaction) sealer(purpose string, parts ...[]byte) (cipher.AEAD, error) {
	m := hmac.New(sha256.New, []byte(i.id))
	fmt.Fprintf(m, "seal %s\x00", purpose)
	for _, part := range parts {
		fmt.Fprintf(m, "%d:", len(part))
		m.Write(part)
	}
	block, err := aes.NewCipher(m.Sum(nil))
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// seal encrypts text under a random nonce, as base64.
func seal(to cipher.AEAD, text []byte) string {
	nonce := randomBytes(to.NonceSize())
	return base64.RawStdEncoding.EncodeToString(to.Seal(nonce, nonce, text, nil))
}

// open decrypts what seal made. ok is false when the key is another one.
func open(from cipher.AEAD, sealed string) (text []byte, ok bool) {
	raw, err := base64.RawStdEncoding.DecodeString(sealed)
	if err != nil || len(raw) < from.NonceSize() {
		return nil, false
	}
	text, err = from.Open(nil, raw[:from.NonceSize()], raw[from.NonceSize():], nil)
	return text, err == nil
}

// sealBody returns the encrypted parameters, as they are stored; "" for none.
func (i *interaction) sealBody() (string, error) {
	if len(i.paramsBody) == 0 || len(i.paramsBody) > maxStoredBody {
		return "", nil
	}
	to, err := i.sealer("body")
	if err != nil {
		return "", err
	}
	return seal(to, i.paramsBody), nil
}

// answerSealer is the cipher for the answer. Its key depends on the session, the whole request as it was sent and the network it
// came from. So somebody who learns of a session, as from the address of a fallback page, can not get the access token in its
// answer.
func (i *interaction) answerSealer() (cipher.AEAD, error) {
	return i.sealer("answer", []byte(i.op), []byte(i.userID), i.requestBody, []byte(i.network()))
}

// sealAnswer encrypts the answer of a finished interaction for a repeated request; "" when the request can not be repeated.
func (i *interaction) sealAnswer(result any) (string, error) {
	if !i.clientHasID || len(i.requestBody) == 0 {
		return "", nil
	}
	if result == nil {
		result = struct{}{}
	}
	text, err := json.Marshal(result)
	if err != nil {
		return "", err
	}
	to, err := i.answerSealer()
	if err != nil {
		return "", err
	}
	return seal(to, text), nil
}

// finishInteraction ends an interaction and releases a use of a registration token that it holds. With an answer ("" for none) the
// row stays for answerLife, else it is deleted.
func (a *Accounts) finishInteraction(ctx context.Context, tx *db.Tx, i *interaction, answer string) error {
	var held string
	err := tx.QueryRow(ctx, `SELECT token FROM interactive_sessions WHERE id = $1 FOR UPDATE`, i.rowID()).Scan(&held)
	if errors.Is(err, db.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	if answer == "" {
		_, err = tx.Exec(ctx, `DELETE FROM interactive_sessions WHERE id = $1`, i.rowID())
	} else {
		err = a.saveAnswer(ctx, tx, i, answer)
	}
	if err != nil {
		return err
	}
	return releaseTokenUses(ctx, tx, []string{held})
}

// saveAnswer marks an interaction as used and stores its answer, as one of the user whom it is about.
func (a *Accounts) saveAnswer(ctx context.Context, tx *db.Tx, i *interaction, answer string) error {
	_, err := tx.Exec(ctx, `UPDATE interactive_sessions SET used = TRUE, token = '', body = '', answer = $2, expires_ms = $3, user_id = $4
		WHERE id = $1`, i.rowID(), answer, a.nowMs()+answerLife.Milliseconds(), cmp.Or(i.registered, i.userID))
	return err
}

// endAnswers deletes what is stored of a user's registration: its answer has tokens, which a repeated request must not get after
// the password or the rights of the user changed. Tokens that ended are not given anyway, see answerHolds.
func endAnswers(ctx context.Context, tx *db.Tx, userID string) error {
	// The condition user_id <> '' repeats that of the partial index, which is not used without it.
	_, err := tx.Exec(ctx, `DELETE FROM interactive_sessions WHERE user_id = $1 AND user_id <> '' AND op = $2`, userID, opRegister)
	return err
}

// answerHolds reports whether a stored answer may be given again: the access token in it, if it has one, is still valid. A token
// that expired and can be refreshed is.
func (a *Accounts) answerHolds(ctx context.Context, i *interaction, answer []byte) (bool, error) {
	if i.op != opRegister {
		return true, nil // it has no token
	}
	var given Credentials
	if err := json.Unmarshal(answer, &given); err != nil {
		return false, err
	}
	if given.AccessToken == "" {
		return true, nil
	}
	s, err := loadSession(ctx, a.db, hashToken(given.AccessToken))
	if errors.Is(err, db.ErrNoRows) {
		return false, nil
	}
	return err == nil && !s.locked && (s.refreshable || !s.expired(a.nowMs())), err
}

// storedAnswer returns the answer that this very request got when it was sent before; nil for none. running says that the request
// with this session that came first has not ended yet.
func (a *Accounts) storedAnswer(ctx context.Context, i *interaction) (answer json.RawMessage, running bool, err error) {
	var used bool
	var sealed string
	err = a.db.QueryRow(ctx, `SELECT used, answer FROM interactive_sessions WHERE id = $1 AND expires_ms > $2`, i.rowID(), a.nowMs()).
		Scan(&used, &sealed)
	if errors.Is(err, db.ErrNoRows) || err == nil && !used {
		return nil, false, nil
	}
	if err != nil || sealed == "" {
		return nil, err == nil, err
	}
	from, err := i.answerSealer()
	if err != nil {
		return nil, false, err
	}
	text, ok := open(from, sealed)
	if !ok {
		return nil, false, nil
	}
	if holds, err := a.answerHolds(ctx, i, text); err != nil || !holds {
		return nil, false, err
	}
	return text, false, nil
}

// awaitAnswer waits until the request with this session that came first has ended, but not longer than until, and returns its
// answer as storedAnswer does. waited says that there was such a request. Meanwhile r counts as no request under way: the first one
// may be waiting for those.
func (a *Accounts) awaitAnswer(r *web.Request, i *interaction, until time.Time) (answer json.RawMessage, waited bool, err error) {
	ctx := r.Context()
	for {
		answer, running, err := a.storedAnswer(ctx, i)
		if err != nil || answer != nil {
			return answer, waited, err
		}
		if !running || !a.now().Before(until) {
			if waited {
				err = r.RecheckAccess()
			}
			return nil, waited && !running, err
		}
		waited = true
		r.LendPlace()
		select {
		case <-ctx.Done():
			return nil, waited, ctx.Err()
		case <-time.After(answerInterval):
		}
	}
}

// storedParams returns the parameters that an interaction was begun with; nil when they are not stored. known is false when there
// is no such interaction, or when it was begun for another operation or by another user.
func (a *Accounts) storedParams(ctx context.Context, i *interaction) (params []byte, known bool, err error) {
	begun, err := loadInteraction(ctx, a.db, i.id, a.nowMs())
	if errors.Is(err, db.ErrNoRows) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	if begun.storedBody == "" { // there were too many
		return nil, begun.op == i.op && begun.userID == i.userID, nil
	}
	from, err := i.sealer("body")
	if err != nil {
		return nil, false, err
	}
	body, ok := open(from, begun.storedBody)
	if !ok {
		return nil, false, nil
	}
	hash := begun.storedHash
	begun.op, begun.userID = i.op, i.userID
	if i.op != opRegister {
		begun.params = body
	}
	if begun.requestHash() != hash {
		return nil, false, nil
	}
	return body, true, nil
}

// resumption is what a request says of an interaction: its session, and whether it repeats the parameters.
type resumption struct {
	session  string
	authOnly bool // the body has no other member than auth
}

func readResumption(body []byte) (resumption, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(body, &members); err != nil {
		return resumption{}, matrix.BadJSON("The body must be a JSON object").With(err)
	}
	var auth struct {
		Session string `json:"session"`
	}
	if len(members["auth"]) > 0 && json.Unmarshal(members["auth"], &auth) != nil {
		return resumption{}, matrix.BadJSON("auth must be an object with type and session")
	}
	return resumption{session: auth.Session, authOnly: len(members) == 1 && auth.Session != ""}, nil
}
