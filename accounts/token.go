package accounts

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/base64"
	"encoding/binary"
	"strings"
	"sync/atomic"

	"lyceum/platform/db"
)

// A token is a prefix, 43 characters of 256 random bits, "_" and 8 characters of a keyed checksum. By the checksum every process
// refuses an invented token without a database statement.
const (
	accessPrefix  = "lyt_"
	refreshPrefix = "lyr_"
	openIDPrefix  = "lyo_"
	randomChars   = 43
	checksumChars = 8
	tokenChars    = len(accessPrefix) + randomChars + 1 + checksumChars
)

type tokenHash [sha256.Size]byte

func hashToken(token string) tokenHash { return sha256.Sum256([]byte(token)) }

// secretKey is the secret that the processes of a fleet share through the database.
type secretKey struct {
	db  *db.DB
	key atomic.Pointer[[]byte]
}

// get loads the secret, and creates it when the database has none.
func (k *secretKey) get(ctx context.Context) ([]byte, error) {
	if key := k.key.Load(); key != nil {
		return *key, nil
	}
	if _, err := k.db.Exec(ctx, `INSERT INTO secrets (name, value) VALUES ($1, $2)
		ON CONFLICT (name) DO NOTHING`, "accounts", randomBytes(32)); err != nil {
		return nil, err
	}
	var key []byte
	if err := k.db.QueryRow(ctx, `SELECT value FROM secrets WHERE name = $1`, "accounts").Scan(&key); err != nil {
		return nil, err
	}
	k.key.Store(&key)
	return key, nil
}

// mac returns a keyed checksum of text. purpose separates the uses of the key.
func (k *secretKey) mac(ctx context.Context, purpose, text string) ([]byte, error) {
	key, err := k.get(ctx)
	if err != nil {
		return nil, err
	}
	m := hmac.New(sha256.New, key)
	m.Write([]byte(purpose + "\x00" + text))
	return m.Sum(nil), nil
}

// newToken returns a new random token.
func (k *secretKey) newToken(ctx context.Context, prefix string) (string, error) {
	body := prefix + base64.RawURLEncoding.EncodeToString(randomBytes(32))
	sum, err := k.mac(ctx, "token", body)
	if err != nil {
		return "", err
	}
	return body + "_" + base64.RawURLEncoding.EncodeToString(sum)[:checksumChars], nil
}

// hasChecksum reports whether this fleet made the token. The token may have expired or been revoked since.
func (k *secretKey) hasChecksum(ctx context.Context, prefix, token string) (bool, error) {
	if len(token) != tokenChars || !strings.HasPrefix(token, prefix) || token[tokenChars-checksumChars-1] != '_' {
		return false, nil
	}
	body, given := token[:tokenChars-checksumChars-1], token[tokenChars-checksumChars:]
	sum, err := k.mac(ctx, "token", body)
	if err != nil {
		return false, err
	}
	want := base64.RawURLEncoding.EncodeToString(sum)[:checksumChars]
	return subtle.ConstantTimeCompare([]byte(want), []byte(given)) == 1, nil
}

func newTokenID() int64 {
	for {
		if id := int64(binary.LittleEndian.Uint64(randomBytes(8)) >> 1); id != 0 {
			return id
		}
	}
}

var base32Letters = base32.StdEncoding.WithPadding(base32.NoPadding)

// newDeviceID returns ten capital letters and digits, the usual form of device ids.
func newDeviceID() string { return base32Letters.EncodeToString(randomBytes(7))[:10] }

func newName() string {
	return "u" + strings.ToLower(base32Letters.EncodeToString(randomBytes(8)))[:12]
}

// newTokenName returns the text of a registration token. It does not begin with "-", as the command line takes it as an argument.
func newTokenName() string {
	for {
		if name := newSessionID(); name[0] != '-' {
			return name
		}
	}
}

func newSessionID() string { return base64.RawURLEncoding.EncodeToString(randomBytes(18)) }
