package fleet

import (
	"context"

	"lyceum/accounts"
	"lyceum/matrix"
	"lyceum/platform/db"
	"lyceum/platform/lease"
	"lyceum/platform/obs"
	"lyceum/platform/role"
	"lyceum/platform/web"
	"lyceum/rooms"
)

// domains are all domains of a process.
type domains struct {
	accounts *accounts.Accounts
	rooms    *rooms.Rooms
}

// migrations are the schemas of all domains.
func migrations() []db.Migrations {
	return []db.Migrations{lease.Migrations(), accounts.Migrations(), rooms.Migrations()}
}

// wire makes the domains, lowest floor first, and gives each what it needs.
func wire(p *role.Process, c *Config, key matrix.SigningKey) (*domains, error) {
	d := &domains{}
	news := &upward{d}
	var err error
	d.accounts, err = accounts.New(accounts.Deps{Process: p, Now: obs.Now, Profile: news, Users: []accounts.UserListener{news}}, c.Accounts)
	if err != nil {
		return nil, err
	}
	d.rooms, err = rooms.New(rooms.Deps{Process: p, Accounts: d.accounts, ServerName: c.Server.Name, Key: key}, c.Rooms)
	if err != nil {
		return nil, err
	}
	return d, nil
}

// routes are the HTTP surface of all domains.
func (d *domains) routes() []web.Route {
	var all []web.Route
	for _, r := range [][]web.Route{d.accounts.Routes(), d.rooms.Routes()} {
		all = append(all, r...)
	}
	return all
}

// upward carries news of lower floors to the domains above them.
type upward struct{ d *domains }

// ProfileChanged implements accounts.ProfileListener.
func (u *upward) ProfileChanged(ctx context.Context, userID, field string) error {
	return u.d.rooms.ProfileChanged(ctx, userID, field)
}

// UserDeactivated implements accounts.UserListener.
func (u *upward) UserDeactivated(ctx context.Context, userID string, erase bool) error {
	return u.d.rooms.UserDeactivated(ctx, userID, erase)
}
