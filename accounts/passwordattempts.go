package accounts

import (
	"context"
	"net/netip"
	"strings"
	"time"

	"lyceum/matrix"
	"lyceum/platform/db"
	"lyceum/platform/web"
)

// PasswordRates say how many wrong passwords are let through; the zero value of one is no limit.
type PasswordRates struct {
	Account web.RateLimit // for one account from one address
	Address web.RateLimit // from one address, for all accounts
}

// How many times the rate of one address an account takes from a network and from all networks together, where its owner never
// logged in. So it takes several networks to shut out an owner who was nowhere yet.
const (
	networkFactor  = 2
	anywhereFactor = 4
)

// Of the addresses at which a user's devices that are gone logged in, the last ones are remembered for a while.
const (
	maxLoginAddresses = 20
	loginAddressLife  = 90 * 24 * time.Hour
)

// passwordAttempt is one password that is being checked: it counts in all buckets before the check, so that many at
// once do not slip through, and is given back when it was right.
//
// Wrong passwords count for the account, wherever one can be tried, so a token does not help to guess. That
// nobody shuts the owner out from elsewhere: each address has a bucket of its own for the account, what strangers try
// together counts in another, and an address at which one of the account's devices logged in, also one that is gone, is no stranger.
type passwordAttempt struct {
	accounts *Accounts
	taken    []bucket
	own      bucket // of the account and the address
}

type bucket struct {
	key  string
	rate web.RateLimit
}

// takePasswordAttempt takes place for one check of the password of an account. u is nil when there is no such user: the
// name then stands for the account, so that the answer tells nothing. Errors: M_LIMIT_EXCEEDED.
func (a *Accounts) takePasswordAttempt(ctx context.Context, u *user, name string, from netip.Addr) (*passwordAttempt, error) {
	account, address := "?"+strings.ToLower(name[:min(len(name), matrix.MaxIDBytes)]), web.AddressKey(from)
	known := false
	if u != nil {
		account = u.id
		err := a.db.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM user_devices WHERE user_id = $1 AND login_ip = $2)
			OR EXISTS (SELECT 1 FROM login_addresses WHERE user_id = $1 AND address = $2)`, u.id, address).Scan(&known)
		if err != nil {
			return nil, err
		}
	}
	rate := a.config.PasswordRates.Account
	g := &passwordAttempt{accounts: a, own: bucket{"password:" + account + " " + address, rate}}
	buckets := []bucket{g.own}
	if !known {
		buckets = append(buckets,
			bucket{"password:" + account + " " + networkOf(from), rate.Times(networkFactor)},
			bucket{"password:" + account, rate.Times(anywhereFactor)})
	}
	if from.IsValid() {
		buckets = append(buckets, bucket{"password_address:" + address, a.config.PasswordRates.Address})
	}
	for _, b := range buckets {
		wait, err := a.deps.Limits.Take(ctx, b.key, b.rate.PerSecond, b.rate.Burst)
		if err == nil && wait > 0 {
			err = matrix.LimitExceeded(max(wait, time.Millisecond))
			g.refund(ctx) // it was not checked, so it counts nowhere
		}
		if err != nil {
			return nil, err
		}
		g.taken = append(g.taken, b)
	}
	return g, nil
}

// networkOf is the network that one customer may have: a /24, or a /48 of IPv6.
func networkOf(addr netip.Addr) string {
	addr = addr.Unmap().WithZone("")
	bits := 24
	if addr.Is6() {
		bits = 48
	}
	prefix, _ := addr.Prefix(bits) // the zero Prefix for the zero Addr
	return prefix.String()
}

// rememberAddresses keeps where devices that end now logged in.
func rememberAddresses(ctx context.Context, tx *db.Tx, userID string, deviceIDs []string, now int64) error {
	_, err := tx.Exec(ctx, `INSERT INTO login_addresses (user_id, address, used_ms)
		SELECT DISTINCT user_id, login_ip, CAST($3 AS BIGINT) FROM user_devices WHERE user_id = $1 AND device_id = ANY($2) AND login_ip <> ''
		ON CONFLICT (user_id, address) DO UPDATE SET used_ms = excluded.used_ms`, userID, deviceIDs, now)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `DELETE FROM login_addresses WHERE user_id = $1 AND address NOT IN
		(SELECT address FROM login_addresses WHERE user_id = $1 ORDER BY used_ms DESC, address LIMIT $2)`, userID, maxLoginAddresses)
	return err
}

// succeed is called when the password was right: the address begins anew with this account.
func (g *passwordAttempt) succeed(ctx context.Context) {
	g.refund(ctx)
	g.refundBucket(ctx, g.own, g.own.rate.Burst+1)
}

// refund undoes the guess.
func (g *passwordAttempt) refund(ctx context.Context) {
	for _, b := range g.taken {
		g.refundBucket(ctx, b, 1)
	}
	g.taken = nil
}

func (g *passwordAttempt) refundBucket(ctx context.Context, b bucket, uses int) {
	if err := g.accounts.deps.Limits.Refund(context.WithoutCancel(ctx), b.key, b.rate.PerSecond, uses); err != nil {
		g.accounts.log.Debug("a limit of passwords was not given back; it runs out by itself", "error", err)
	}
}
