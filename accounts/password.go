package accounts

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"

	"lyceum/matrix"
	"lyceum/platform/db"
)

const maxPassword = 512 // bytes; hashing more costs time and adds no security

// hasher computes and verifies password hashes, a bounded number at a time, so that log-ins do not use up the processor and the
// memory of the process.
type hasher struct {
	config  PasswordConfig
	slots   chan struct{}
	waiting atomic.Int64
	dummy   string // verified when the user does not exist, so that the answer takes the same time
}

func newHasher(c PasswordConfig) *hasher {
	workers := c.Workers
	if workers <= 0 {
		workers = max(1, runtime.GOMAXPROCS(0)/2)
	}
	h := &hasher{config: c, slots: make(chan struct{}, workers)}
	h.dummy = h.encode(make([]byte, 16), make([]byte, 32))
	return h
}

// run calls fn in one of the slots. Errors: M_LIMIT_EXCEEDED at once when too many calls wait, the error of ctx when it ends.
func (h *hasher) run(ctx context.Context, fn func()) error {
	if h.waiting.Add(1) > int64(h.config.Waiting) {
		h.waiting.Add(-1)
		return matrix.LimitExceeded(2 * time.Second)
	}
	defer h.waiting.Add(-1)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case h.slots <- struct{}{}:
	}
	defer func() { <-h.slots }()
	fn()
	return nil
}

// hash returns the encoded argon2id hash of a new password, in the PHC string format.
func (h *hasher) hash(ctx context.Context, password string) (encoded string, err error) {
	err = h.run(ctx, func() {
		salt := randomBytes(16)
		encoded = h.encode(salt, argon2.IDKey([]byte(password), salt, h.config.Passes, h.config.MemoryKiB, 1, 32))
	})
	return encoded, err
}

func (h *hasher) encode(salt, sum []byte) string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf(
		"$argon2id$v=%d$m=%d,t=%d,p=1$%s$%s", argon2.Version, h.config.MemoryKiB, h.config.Passes, b64.EncodeToString(salt),
		b64.EncodeToString(sum),
	)
}

// verify compares a password with an encoded hash. An empty hash matches no password, after the time of a real check. stale
// says that the hash was made with another algorithm or other costs than this process uses.
func (h *hasher) verify(ctx context.Context, encoded, password string) (ok, stale bool, err error) {
	if len(password) > maxPassword {
		return false, false, nil
	}
	absent := encoded == ""
	if absent {
		encoded = h.dummy
	}
	if strings.HasPrefix(encoded, "$2") {
		err = h.run(ctx, func() { ok = bcrypt.CompareHashAndPassword([]byte(encoded), []byte(password)) == nil })
		return ok, true, err
	}
	p, err := parseArgon2(encoded)
	if err != nil {
		return false, false, err
	}
	err = h.run(ctx, func() {
		sum := argon2.IDKey([]byte(password), p.salt, p.passes, p.memory, p.threads, uint32(len(p.sum)))
		ok = subtle.ConstantTimeCompare(sum, p.sum) == 1
	})
	return ok && !absent, p.passes != h.config.Passes || p.memory != h.config.MemoryKiB, err
}

type argon2Hash struct {
	memory, passes uint32
	threads        uint8
	salt, sum      []byte
}

var errHash = errors.New("password hash: expected argon2id or bcrypt")

// parseArgon2 parses $argon2id$v=19$m=…,t=…,p=…$salt$sum. Its limits keep a damaged row from using up the memory of the
// process.
func parseArgon2(encoded string) (argon2Hash, error) {
	var p argon2Hash
	parts := strings.Split(encoded, "$")
	if len(parts) != 6 || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return p, errHash
	}
	if n, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &p.memory, &p.passes, &p.threads); n != 3 || err != nil {
		return p, errHash
	}
	var err1, err2 error
	p.salt, err1 = base64.RawStdEncoding.DecodeString(parts[4])
	p.sum, err2 = base64.RawStdEncoding.DecodeString(parts[5])
	if err1 != nil || err2 != nil || len(p.sum) < 16 || len(p.sum) > 128 || p.passes == 0 || p.passes > 100 || p.threads == 0 ||
		p.memory > 4<<20 {
		return p, errHash
	}
	return p, nil
}

// checkNewPassword applies the rules for new passwords. Errors: M_MISSING_PARAM, M_WEAK_PASSWORD, M_INVALID_PARAM.
func (a *Accounts) checkNewPassword(password string) error {
	switch n := utf8.RuneCountInString(password); {
	case password == "":
		return matrix.MissingParam("A password is needed")
	case n < a.config.Password.MinLength:
		return matrix.WeakPassword(fmt.Sprintf("The password has %d characters; at least %d are needed", n, a.config.Password.MinLength))
	case len(password) > maxPassword:
		return matrix.InvalidParam(fmt.Sprintf("The password is longer than %d bytes", maxPassword))
	}
	return nil
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails: the runtime ends the process instead
	return b
}

// ErrWrongPassword is M_FORBIDDEN: the password of the user was not given.
var ErrWrongPassword = matrix.Forbidden("The user name or the password is wrong")

// checkPassword loads the user of a name (localpart or user id) and verifies the password, which counts as an attempt from the
// address. It takes the same time whether or not the user exists. Every check of a password goes through here. Errors:
// M_FORBIDDEN, M_USER_DEACTIVATED, M_LIMIT_EXCEEDED.
func (a *Accounts) checkPassword(ctx context.Context, name, password string, from netip.Addr) (*user, error) {
	u, err := a.findUser(ctx, name)
	if err != nil && !errors.Is(err, db.ErrNoRows) {
		return nil, err
	}
	attempt, err := a.takePasswordAttempt(ctx, u, name, from)
	if err != nil {
		return nil, err
	}
	if u == nil {
		u = &user{}
	}
	if u.deactivatedAt != 0 {
		return nil, matrix.UserDeactivated("This account was deactivated")
	}
	ok, stale, err := a.hasher.verify(ctx, u.password, password)
	if err != nil {
		attempt.refund(ctx)
		return nil, err
	}
	if !ok {
		return nil, ErrWrongPassword
	}
	attempt.succeed(ctx)
	if stale {
		a.rehash(ctx, u, password)
	}
	return u, nil
}

// rehash replaces a hash that has other costs or comes from another server. It does nothing if the password changed meanwhile.
func (a *Accounts) rehash(ctx context.Context, u *user, password string) {
	encoded, err := a.hasher.hash(ctx, password)
	if err == nil {
		var n int64
		n, err = a.db.Exec(ctx, `UPDATE users SET password = $3 WHERE user_id = $1 AND password = $2`, u.id, u.password, encoded)
		if n == 1 {
			u.password = encoded
		}
	}
	if err != nil {
		a.log.Warn("a password hash could not be renewed", "user", u.id, "error", err)
	}
}

// newHash checks a new password and hashes it.
func (a *Accounts) newHash(ctx context.Context, password string) (string, error) {
	if err := a.checkNewPassword(password); err != nil {
		return "", err
	}
	return a.hasher.hash(ctx, password)
}

// SetPassword sets a new password and, with logout, ends all devices except one ("" for no exception). Errors: errGuest for a guest.
func (a *Accounts) SetPassword(ctx context.Context, userID, password string, logout bool, except string) error {
	if err := a.refuseGuest(ctx, userID); err != nil {
		return err
	}
	return a.setPassword(ctx, userID, passwordChange{Password: password, Logout: logout, Except: except})
}

// passwordChange is a new password for a user.
type passwordChange struct {
	Password string
	Logout   bool   // also end all devices
	Except   string // but this one
	Proof    Proof  // "" where the old password was not asked for
}

func (a *Accounts) setPassword(ctx context.Context, userID string, c passwordChange) error {
	hash, err := a.newHash(ctx, c.Password)
	if err != nil {
		return err
	}
	res, err := a.removeDevices(ctx, userID, sessionChange{
		Kind: changePassword, Proof: c.Proof, Password: hash, All: c.Logout, Except: c.Except,
	})
	if err == nil && !res.Found {
		return noUser(userID)
	}
	return err
}
