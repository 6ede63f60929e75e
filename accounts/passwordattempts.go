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

// PasswordRates limit wrong passwords. The zero value of a rate is no limit.
type PasswordRates struct {
	Account web.RateLimit // for one account from one address
	Address web.RateLimit // from one address, for all accounts
}

// networkFactor and anywhereFactor are how many times the rate of one address an account accepts from a network, and from all
// networks together, where its owner never logged in. So it takes several networks to lock out an owner who comes from a new address.
const (
	networkFactor  = 2
	anywhereFactor = 4
)

// The newest maxLoginAddresses addresses from which removed devices of a user had logged in are remembered for loginAddressLife.
const (
	maxLoginAddresses = 20
	loginAddressLife  = 90 * 24 * time.Hour
)

// passwordAttempt is one check of a password. It is counted in token buckets before the check, so that many attempts at once do
// not exceed the limit, and refunded when the password was right.
//
// Wrong passwords count for the account, whichever endpoint checks them, so an access token does not help to guess. Each address has
// its own bucket for the account, so that an attacker elsewhere does not lock out the owner. Addresses from which the owner never
// logged in share two more buckets: one for their network, twice as large, and one for all of them, four times as large. An address is
// known when a device of the account logged in from it, also one that was removed since.
type passwordAttempt struct {
	accounts *Accounts
	taken    []bucket
	own      bucket // the bucket of this account and this address
}

type bucket struct {
	key  string
	rate web.RateLimit
}

// takePasswordAttempt counts one check of the password of an account. u is nil when the user does not exist: the name then stands
// for the account, so that the answer does not reveal it. Errors: M_LIMIT_EXCEEDED.
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
			g.refund(ctx) // the password was not checked, so the attempt does not count
		}
		if err != nil {
			return nil, err
		}
		g.taken = append(g.taken, b)
	}
	return g, nil
}

// networkOf is the network that one customer of a provider may have: a /24 of IPv4, a /48 of IPv6.
func networkOf(addr netip.Addr) string {
	addr = addr.Unmap().WithZone("")
	bits := 24
	if addr.Is6() {
		bits = 48
	}
	prefix, _ := addr.Prefix(bits) // the zero Prefix for the zero Addr
	return prefix.String()
}

// rememberAddresses stores the addresses from which devices had logged in that are being removed. now is in ms.
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

// succeed is called when the password was right: it refunds the attempt and fills the address's own bucket for the account.
func (g *passwordAttempt) succeed(ctx context.Context) {
	g.refund(ctx)
	g.refundBucket(ctx, g.own, g.own.rate.Burst+1)
}

// refund takes the attempt back from all buckets.
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
