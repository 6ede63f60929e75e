package accounts

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"lyceum/matrix"
	"lyceum/platform/db"
)

// The kinds of users. Ordinary users have none.
const (
	kindGuest      = "guest"
	kindAppservice = "appservice"
)

// NewUser describes a user to create.
type NewUser struct {
	Name       string // localpart, or a whole user id of this server; upper case is lowered
	Password   string // "" for a user who can not log in with a password
	Admin      bool
	Appservice string // id of the application service that owns the user, "" for none
	Kind       string // "" for people, else a word such as "bot" or "support"

	DisplayName string // "" is the local part, if accounts.default_display_name is set
}

// CreateUser creates a user for an operator. Of the rules for people who register themselves, only those of names and passwords
// apply. Errors: M_INVALID_USERNAME, M_USER_IN_USE, M_WEAK_PASSWORD.
func (a *Accounts) CreateUser(ctx context.Context, n NewUser) (userID string, err error) {
	if userID, err = a.parseUserName(n.Name); err != nil {
		return "", err
	}
	hash := ""
	if n.Password != "" {
		if hash, err = a.newHash(ctx, n.Password); err != nil {
			return "", err
		}
	}
	n.Name = userID
	at := a.nowMs()
	err = a.db.Settle(ctx, func(tx *db.Tx) error { return a.insertUser(ctx, tx, n, hash, at) }, userStored(userID, hash, at))
	return userID, err
}

// parseUserName turns a localpart or user id, as a person writes it, into a user id of this server.
func (a *Accounts) parseUserName(name string) (string, error) {
	if rest, ok := strings.CutPrefix(name, "@"); ok {
		local, server, _ := strings.Cut(rest, ":")
		if server != a.config.ServerName {
			return "", matrix.InvalidUsername("The user id belongs to another server")
		}
		name = local
	}
	return a.userID(strings.ToLower(name))
}

// insertUser stores a user; at is the time of creation in ms. Errors: M_USER_IN_USE.
func (a *Accounts) insertUser(ctx context.Context, tx *db.Tx, n NewUser, hash string, at int64) error {
	_, err := tx.Exec(ctx, `INSERT INTO users (user_id, password, kind, appservice, admin, created_ms) VALUES ($1, $2, $3, $4, $5, $6)`,
		n.Name, hash, n.Kind, n.Appservice, n.Admin, at)
	if db.IsUnique(err) {
		return matrix.UserInUse("This user name is taken").With(err)
	}
	if err == nil && n.Admin {
		err = voidFirstToken(ctx, tx, at)
	}
	if err != nil {
		return err
	}
	return a.insertName(ctx, tx, n)
}

// insertName stores the display name of a new user. The user is in no room yet, so no listener is notified.
func (a *Accounts) insertName(ctx context.Context, tx *db.Tx, n NewUser) error {
	if n.DisplayName == "" && a.config.DefaultDisplayName && n.Kind != kindGuest {
		n.DisplayName = matrix.LocalpartOf(n.Name)
	}
	if n.DisplayName == "" {
		return nil
	}
	value := string(matrix.AppendString(nil, n.DisplayName))
	_, err := tx.Exec(ctx, `INSERT INTO profile_fields (user_id, name, value) VALUES ($1, $2, $3)
		ON CONFLICT (user_id, name) DO UPDATE SET value = excluded.value`, n.Name, fieldName, value)
	if err == nil {
		err = tx.Bulk(ctx, insertNames, [][]any{nameRow(n.Name, value)})
	}
	return err
}

// userStored returns a check whether insertUser stored this user, and not another one of the same name.
func userStored(userID, hash string, at int64) func(ctx context.Context, q db.Querier) (bool, error) {
	return func(ctx context.Context, q db.Querier) (there bool, err error) {
		err = q.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM users WHERE user_id = $1 AND password = $2 AND created_ms = $3)`, userID, hash, at).
			Scan(&there)
		return there, err
	}
}

// errGuest refuses what makes no sense for a guest, who has no password and may be anyone.
var errGuest = errors.New("this is a guest: a guest becomes a user by registering, in the client")

// refuseGuest returns errGuest for a guest. A user never becomes a guest, so a user who was none is none later.
func (a *Accounts) refuseGuest(ctx context.Context, userID string) error {
	u, err := loadUser(ctx, a.db, userID)
	if errors.Is(err, db.ErrNoRows) {
		return noUser(userID)
	}
	if err == nil && u.kind == kindGuest {
		err = fmt.Errorf("%s: %w", userID, errGuest)
	}
	return err
}

// Administrators is how many users are administrators who are let in: neither deactivated nor locked.
func (a *Accounts) Administrators(ctx context.Context) (n int, err error) {
	err = a.db.QueryRow(ctx, `SELECT COUNT(*) FROM users WHERE admin AND deactivated_ms = 0 AND NOT locked`).Scan(&n)
	return n, err
}

// Exists reports whether the user was registered here. Deactivated users count.
func (a *Accounts) Exists(ctx context.Context, userID string) (bool, error) {
	_, err := loadUser(ctx, a.db, userID)
	if errors.Is(err, db.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// Active returns which of the users exist here and are not deactivated.
func (a *Accounts) Active(ctx context.Context, userIDs []string) (map[string]bool, error) {
	ids, err := db.Texts(a.db.Query(ctx, `SELECT user_id FROM users WHERE user_id = ANY($1) AND deactivated_ms = 0`, userIDs))
	active := make(map[string]bool, len(ids))
	for _, id := range ids {
		active[id] = true
	}
	return active, err
}

// Erased returns which of the users deactivated their account and asked that their messages be hidden. It makes no database
// statement for users whom this process remembers: the stream "sessions" says when a user is erased.
func (a *Accounts) Erased(ctx context.Context, userIDs []string) (map[string]bool, error) {
	erased := map[string]bool{}
	var ask []string
	a.sessions.mu.RLock()
	changes := a.sessions.rowsSeen
	for _, id := range userIDs {
		if yes, known := a.sessions.erased.get(id); !known {
			ask = append(ask, id)
		} else if yes {
			erased[id] = true
		}
	}
	a.sessions.mu.RUnlock()
	if len(ask) == 0 {
		return erased, nil
	}
	ids, err := db.Texts(a.db.Query(ctx, `SELECT user_id FROM users WHERE user_id = ANY($1) AND erased`, ask))
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		erased[id] = true
	}
	a.sessions.mu.Lock()
	defer a.sessions.mu.Unlock()
	if a.sessions.rowsSeen == changes { // else a user may have been erased since the query
		for _, id := range ask {
			a.sessions.erased.put(id, erased[id])
		}
	}
	return erased, nil
}

// User is what an operator sees of a user.
type User struct {
	UserID      string `json:"user_id"`
	DisplayName string `json:"displayname,omitempty"`
	Kind        string `json:"kind,omitempty"`
	Appservice  string `json:"appservice,omitempty"`
	Admin       bool   `json:"admin"`
	Guest       bool   `json:"guest"`
	Locked      bool   `json:"locked"`
	Suspended   bool   `json:"suspended"`
	Deactivated bool   `json:"deactivated"`
	Erased      bool   `json:"erased"`
	Created     int64  `json:"created_ts"` // ms
	LastLogin   int64  `json:"last_login_ts,omitempty"`
}

const userColumns = `SELECT u.user_id, u.kind, u.appservice, u.admin, u.locked, u.suspended, u.deactivated_ms <> 0, u.erased,
	u.created_ms, u.login_ms, COALESCE(f.value, '')
	FROM users u LEFT JOIN profile_fields f ON f.user_id = u.user_id AND f.name = 'displayname' `

func scanUser(row db.Row) (u User, err error) {
	var name string
	err = row.Scan(
		&u.UserID, &u.Kind, &u.Appservice, &u.Admin, &u.Locked, &u.Suspended, &u.Deactivated, &u.Erased, &u.Created, &u.LastLogin, &name,
	)
	u.Guest = u.Kind == kindGuest
	_ = json.Unmarshal([]byte(name), &u.DisplayName) // it was checked when it was set
	return u, err
}

// Users lists at most limit users in the order of their ids, from behind the id after ("" for the first page).
func (a *Accounts) Users(ctx context.Context, after string, limit int) ([]User, error) {
	return db.List(scanUser)(a.db.Query(ctx, userColumns+`WHERE u.user_id > $1 ORDER BY u.user_id LIMIT $2`, after, limit))
}

// User returns one user by localpart or user id. Errors: M_NOT_FOUND.
func (a *Accounts) User(ctx context.Context, name string) (User, error) {
	found, err := a.findUser(ctx, name)
	if errors.Is(err, db.ErrNoRows) {
		return User{}, matrix.NotFound("There is no such user")
	}
	if err != nil {
		return User{}, err
	}
	return scanUser(a.db.QueryRow(ctx, userColumns+`WHERE u.user_id = $1`, found.id))
}

// Rights are what an operator may set of a user; nil leaves one as it is.
type Rights struct{ Admin, Locked, Suspended *bool }

// takesAway reports whether the user may do less than before.
func (r Rights) takesAway() bool {
	return r.Locked != nil && *r.Locked || r.Suspended != nil && *r.Suspended || r.Admin != nil && !*r.Admin
}

// SetRights changes what a user may do, at once in all processes. Errors: errGuest for a guest who is to be an administrator.
func (a *Accounts) SetRights(ctx context.Context, userID string, r Rights) error {
	if r.Admin != nil && *r.Admin {
		if err := a.refuseGuest(ctx, userID); err != nil {
			return err
		}
	}
	res, err := a.change(
		ctx,
		userID,
		sessionChange{Kind: changeRights, Admin: r.Admin, Locked: r.Locked, Suspended: r.Suspended, At: a.nowMs()},
	)
	if err == nil && !res.Found {
		return noUser(userID)
	}
	if err == nil && r.takesAway() {
		a.awaitUnderWay(ctx, userID)
	}
	return err
}

// user is a row of users.
type user struct {
	id, password, kind, appservice           string
	admin, locked, suspended, pendingCleanup bool
	erased                                   bool
	createdAt, deactivatedAt                 int64
}

func loadUser(ctx context.Context, q db.Querier, userID string) (*user, error) {
	u := &user{id: userID}
	err := q.QueryRow(ctx, `SELECT password, kind, appservice, admin, locked, suspended, `+cleanupColumn+`, erased, created_ms, deactivated_ms
		FROM users WHERE user_id = $1`, userID).
		Scan(&u.password, &u.kind, &u.appservice, &u.admin, &u.locked, &u.suspended, &u.pendingCleanup, &u.erased, &u.createdAt, &u.deactivatedAt)
	return u, err
}

// findUser loads a user by localpart or user id of this server, as written or in lower case. Errors: db.ErrNoRows.
func (a *Accounts) findUser(ctx context.Context, name string) (*user, error) {
	if local, ok := strings.CutPrefix(name, "@"); ok {
		local, server, _ := strings.Cut(local, ":")
		if server != a.config.ServerName {
			return nil, db.ErrNoRows
		}
		name = local
	}
	if name == "" || len(name) > matrix.MaxIDBytes || strings.Contains(name, "\x00") {
		return nil, db.ErrNoRows
	}
	exact := "@" + name + ":" + a.config.ServerName
	u, err := loadUser(ctx, a.db, exact)
	if lower := "@" + strings.ToLower(name) + ":" + a.config.ServerName; errors.Is(err, db.ErrNoRows) && lower != exact {
		u, err = loadUser(ctx, a.db, lower)
	}
	if err != nil {
		return nil, err
	}
	return u, nil
}
