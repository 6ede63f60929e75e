package accounts

import (
	"context"
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // the protocol of shared-secret registration
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"time"

	"lyceum/matrix"
	"lyceum/platform/db"
)

// registration is the body of POST /register.
type registration struct {
	Auth          json.RawMessage `json:"auth"`
	Type          string          `json:"type"` // m.login.application_service
	Username      string          `json:"username"`
	Password      string          `json:"password"`
	DeviceID      string          `json:"device_id"`
	DeviceName    string          `json:"initial_device_display_name"`
	InhibitLogin  bool            `json:"inhibit_login"`
	RefreshTokens bool            `json:"refresh_token"`
	GuestToken    string          `json:"guest_access_token"` // of the guest who becomes the user
}

const opRegister = "register"

// registrationFlows returns the flows of a registration, by the configuration.
func (a *Accounts) registrationFlows() [][]string {
	var flows [][]string
	if a.config.Registration == OpenRegistration {
		flows = append(flows, []string{stageDummy})
	}
	flows = append(flows, []string{stageToken})
	if len(a.config.Terms) > 0 {
		for n := range flows {
			if flows[n][0] == stageDummy {
				flows[n] = []string{stageTerms}
			} else {
				flows[n] = append(flows[n], stageTerms)
			}
		}
	}
	return flows
}

// checkAvailable returns the user id of a name that can be registered. Errors: M_INVALID_USERNAME, M_USER_IN_USE, M_EXCLUSIVE.
func (a *Accounts) checkAvailable(ctx context.Context, name string) (userID string, err error) {
	userID, err = a.userID(strings.ToLower(name))
	if err != nil {
		return "", err
	}
	if a.deps.Appservices != nil && a.deps.Appservices.Exclusive(userID) {
		return "", matrix.Exclusive("This user name is reserved for an application service")
	}
	taken, err := a.Exists(ctx, userID)
	if err != nil {
		return "", err
	}
	if taken {
		return "", matrix.UserInUse("This user name is taken")
	}
	return userID, nil
}

// register creates the user of a complete interaction.
func (a *Accounts) register(ctx context.Context, body *registration, d loginDevice, i *interaction) (*Credentials, error) {
	if body.Username == "" {
		body.Username = newName()
	}
	if body.GuestToken != "" {
		return a.upgradeToUser(ctx, body, d, i)
	}
	userID, err := a.checkAvailable(ctx, body.Username)
	if err != nil {
		return nil, err
	}
	hash := ""
	if body.Password != "" {
		if hash, err = a.hasher.hash(ctx, body.Password); err != nil {
			return nil, err
		}
	}
	return a.insertRegistered(ctx, NewUser{Name: userID}, hash, d, registerOptions{interaction: i, inhibitLogin: body.InhibitLogin})
}

type registerOptions struct {
	interaction  *interaction // whose registration token is used; nil for none
	nonce        string       // of registerBySecret, which can be used once; "" for none
	nonceExpires int64
	inhibitLogin bool
}

// insertRegistered stores user, device and tokens in one transaction.
func (a *Accounts) insertRegistered(ctx context.Context, n NewUser, hash string, d loginDevice, o registerOptions) (*Credentials, error) {
	if err := d.check(); err != nil {
		return nil, err
	}
	if d.ID == "" {
		d.ID = newDeviceID()
	}
	p, creds, err := a.newTokenPair(ctx, n.Name, d.ID, d.Refresh)
	if err != nil {
		return nil, err
	}
	if o.inhibitLogin {
		creds = &Credentials{UserID: n.Name, HomeServer: a.config.ServerName}
	}
	if i := o.interaction; i != nil {
		i.registered = n.Name
		if i.answer, err = i.sealAnswer(creds); err != nil {
			return nil, err
		}
	}
	// If this fails although the user was stored, the client finds the name taken, or registers a second user.
	err = a.db.Settle(ctx, func(tx *db.Tx) error {
		n := n
		if i := o.interaction; i != nil && i.token != "" {
			admin, err := a.completeReservedToken(ctx, tx, i)
			if err != nil {
				return err
			}
			n.Admin = n.Admin || admin
		} else if i != nil && i.answer != "" {
			if err := a.finishInteraction(ctx, tx, i, i.answer); err != nil {
				return err
			}
		}
		if o.nonce != "" {
			_, err := tx.Exec(ctx, `INSERT INTO used_nonces (nonce, expires_ms) VALUES ($1, $2)`, o.nonce, o.nonceExpires)
			if db.IsUnique(err) {
				return errNonce
			}
			if err != nil {
				return err
			}
		}
		if err := a.insertUser(ctx, tx, n, hash, p.Created); err != nil || o.inhibitLogin {
			return err
		}
		return (&newLogin{Device: d, Tokens: p}).insert(ctx, tx)
	}, userStored(n.Name, hash, p.Created))
	if err != nil {
		return nil, err
	}
	return creds, nil
}

const nonceLife = time.Minute

var errNonce = matrix.NewError(400, matrix.CodeUnknown, "unrecognised nonce")

// newNonce returns a nonce that every process of the fleet recognises: its expiry with a keyed checksum.
func (a *Accounts) newNonce(ctx context.Context) (string, error) {
	text := strconv.FormatInt(a.nowMs()+nonceLife.Milliseconds(), 36) + "." + base64.RawURLEncoding.EncodeToString(randomBytes(12))
	sum, err := a.secret.mac(ctx, "nonce", text)
	return text + "." + base64.RawURLEncoding.EncodeToString(sum[:min(len(sum), 16)]), err
}

// checkNonce returns the time (ms) at which a nonce of this fleet expires. Errors: errNonce.
func (a *Accounts) checkNonce(ctx context.Context, nonce string) (expires int64, err error) {
	cut := strings.LastIndexByte(nonce, '.')
	if cut < 0 {
		return 0, errNonce
	}
	sum, err := a.secret.mac(ctx, "nonce", nonce[:cut])
	if err != nil {
		return 0, err
	}
	when, _, _ := strings.Cut(nonce, ".")
	expires, parseErr := strconv.ParseInt(when, 36, 64)
	if !hmac.Equal([]byte(base64.RawURLEncoding.EncodeToString(sum[:16])), []byte(nonce[cut+1:])) || parseErr != nil || expires <= a.nowMs() {
		return 0, errNonce
	}
	return expires, nil
}

// secretRegistration is the body of POST /_synapse/admin/v1/register.
type secretRegistration struct {
	Nonce       string `json:"nonce"`
	Username    string `json:"username"`
	DisplayName string `json:"displayname"`
	Password    string `json:"password"`
	Admin       bool   `json:"admin"`
	UserType    string `json:"user_type"`
	MAC         string `json:"mac"`
}

// registerBySecret creates a user for a caller who knows the shared secret: mac is HMAC-SHA1 with the secret as key over nonce,
// user, password, "admin" or "notadmin" and, where given, user type, with NUL between.
func (a *Accounts) registerBySecret(ctx context.Context, body *secretRegistration, d loginDevice) (*Credentials, error) {
	expires, err := a.checkNonce(ctx, body.Nonce)
	if err != nil {
		return nil, err
	}
	if body.Username == "" || body.Password == "" || len(body.Password) > maxPassword ||
		strings.Contains(body.Username+body.Password+body.UserType+body.DisplayName, "\x00") {
		return nil, matrix.InvalidParam("username and password are needed, at most 512 bytes and without NUL")
	}
	if body.UserType != "" && body.UserType != "support" && body.UserType != "bot" {
		return nil, matrix.InvalidParam("user_type is support, bot or missing")
	}
	if err := checkField(fieldName, matrix.AppendString(nil, body.DisplayName)); err != nil {
		return nil, err
	}
	role := "notadmin"
	if body.Admin {
		role = "admin"
	}
	parts := []string{body.Nonce, body.Username, body.Password, role}
	if body.UserType != "" {
		parts = append(parts, body.UserType)
	}
	m := hmac.New(sha1.New, []byte(a.config.SharedSecret.Reveal()))
	m.Write([]byte(strings.Join(parts, "\x00")))
	given, err := hex.DecodeString(body.MAC)
	if err != nil || !hmac.Equal(given, m.Sum(nil)) {
		return nil, matrix.Forbidden("HMAC incorrect")
	}
	userID, err := a.parseUserName(body.Username)
	if err != nil {
		return nil, err
	}
	hash, err := a.hasher.hash(ctx, body.Password)
	if err != nil {
		return nil, err
	}
	n := NewUser{Name: userID, Admin: body.Admin, Kind: body.UserType, DisplayName: body.DisplayName}
	return a.insertRegistered(ctx, n, hash, d, registerOptions{nonce: body.Nonce, nonceExpires: expires})
}

var errNotAppservice = errors.New("no application service")

// appservice returns the id of the application service that a token belongs to. Errors: errNotAppservice.
func (a *Accounts) appservice(token string) (id string, err error) {
	if a.deps.Appservices != nil && token != "" {
		if id, ok := a.deps.Appservices.ByToken(token); ok {
			return id, nil
		}
	}
	return "", errNotAppservice
}

// registerForAppservice creates a user in the namespaces of an application service (Application Service API, "Server admin style
// permissions").
func (a *Accounts) registerForAppservice(ctx context.Context, id string, body *registration, d loginDevice) (*Credentials, error) {
	if body.Username == "" {
		return nil, matrix.MissingParam("username is needed")
	}
	userID, err := a.userID(strings.ToLower(body.Username))
	if err != nil {
		return nil, err
	}
	if !a.deps.Appservices.Owns(id, userID) {
		return nil, matrix.Exclusive("The user is not in the namespaces of the application service")
	}
	return a.insertRegistered(
		ctx, NewUser{Name: userID, Kind: kindAppservice, Appservice: id}, "", d, registerOptions{inhibitLogin: body.InhibitLogin},
	)
}
