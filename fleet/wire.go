package fleet

import (
	"context"
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"lyceum/accounts"
	"lyceum/admin"
	"lyceum/devices"
	"lyceum/directory"
	"lyceum/doctor"
	"lyceum/matrix"
	"lyceum/media"
	"lyceum/plan"
	"lyceum/platform/blob"
	"lyceum/platform/bus"
	"lyceum/platform/db"
	"lyceum/platform/lease"
	"lyceum/platform/obs"
	"lyceum/platform/role"
	"lyceum/platform/status"
	"lyceum/platform/web"
	"lyceum/presence"
	"lyceum/push"
	"lyceum/receipts"
	"lyceum/rooms"
	"lyceum/sync"
	"lyceum/typing"
)

// domains are all domains of a process.
type domains struct {
	accounts  *accounts.Accounts
	rooms     *rooms.Rooms
	devices   *devices.Devices
	media     *media.Media
	receipts  *receipts.Receipts
	typing    *typing.Typing
	presence  *presence.Presence
	push      *push.Push
	directory *directory.Directory
	sync      *sync.Sync
	admin     *admin.Admin
}

// migrations are the schemas of all domains.
func migrations() []db.Migrations {
	return []db.Migrations{
		lease.Migrations(), accounts.Migrations(), rooms.Migrations(), devices.Migrations(), media.Migrations(),
		receipts.Migrations(), typing.Migrations(), presence.Migrations(), push.Migrations(), directory.Migrations(),
	}
}

// base is what the domains of a process stand on.
type base struct {
	process *role.Process
	blobs   blob.Store
	key     matrix.SigningKey
	metrics *prometheus.Registry
	limits  bus.Limits
	status  func(context.Context) *status.Fleet
}

// wire makes the domains, lowest floor first, and gives each what it needs.
func wire(b base, c *Config) (*domains, error) {
	d, p := &domains{}, b.process
	news := &upward{d}
	var err error
	d.accounts, err = accounts.New(accounts.Deps{
		Process: p, Now: obs.Now, Limits: b.limits, Profile: news, Devices: []accounts.DeviceListener{news}, Users: []accounts.UserListener{news},
	}, c.Accounts)
	if err != nil {
		return nil, err
	}
	d.rooms, err = rooms.New(rooms.Deps{Process: p, Accounts: d.accounts, ServerName: c.Server.Name, Key: b.key}, c.Rooms)
	if err != nil {
		return nil, err
	}
	d.devices, err = devices.New(devices.Deps{
		Process: p, Accounts: d.accounts, Now: obs.Now, RoomMates: d.rooms, Positions: sync.DeviceListPositions,
	}, c.Devices)
	if err != nil {
		return nil, err
	}
	if d.media, err = media.New(media.Deps{Process: p, Blob: b.blobs, ServerName: c.Server.Name, Registry: b.metrics}, c.Media); err != nil {
		return nil, err
	}
	d.receipts = receipts.New(receipts.Deps{Process: p, Accounts: d.accounts, Rooms: d.rooms})
	d.typing = typing.New(typing.Deps{Process: p, Rooms: d.rooms})
	d.presence = presence.New(presence.Deps{Process: p, Rooms: d.rooms}, c.Presence)
	if d.push, err = push.New(push.Deps{Process: p, Accounts: d.accounts, Rooms: d.rooms, Receipts: d.receipts}, c.Push); err != nil {
		return nil, err
	}
	d.directory, err = directory.New(directory.Deps{Process: p, Accounts: d.accounts, Rooms: d.rooms, ServerName: c.Server.Name}, c.Directory)
	if err != nil {
		return nil, err
	}
	d.sync = sync.New(sync.Deps{
		Process: p, Accounts: d.accounts, Devices: d.devices, Rooms: d.rooms, Receipts: d.receipts, Typing: d.typing,
		Presence: d.presence, Push: d.push, Registry: b.metrics,
	}, c.Sync)
	d.admin = admin.New(admin.Deps{
		Status: b.status, Roles: PlanRoles(), Now: obs.Now,
		Doctor: func(before, after *status.Fleet, p *plan.Plan) (headline string, findings any) {
			list := examine(c, before, after, p)
			return doctor.Headline(list), list
		},
	})
	return d, nil
}

// routes are the HTTP surface of all domains.
func (d *domains) routes() []web.Route {
	var all []web.Route
	for _, r := range [][]web.Route{
		d.accounts.Routes(), d.rooms.Routes(), d.devices.Routes(), d.media.Routes(), d.receipts.Routes(), d.typing.Routes(),
		d.presence.Routes(), d.push.Routes(), d.directory.Routes(), d.sync.Routes(), d.admin.Routes(),
	} {
		all = append(all, r...)
	}
	for i, r := range all {
		if r.Auth != web.None { // who asks was seen
			all[i].Handler = d.accounts.Observe(r.Handler)
		}
	}
	return all
}

// upward carries news of lower floors to the domains above them.
type upward struct{ d *domains }

// ProfileChanged implements accounts.ProfileListener.
func (u *upward) ProfileChanged(ctx context.Context, userID, field string) error {
	return u.d.rooms.ProfileChanged(ctx, userID, field)
}

// DeviceAdded implements accounts.DeviceListener.
func (u *upward) DeviceAdded(ctx context.Context, userID, deviceID string) error {
	return u.d.devices.DeviceAdded(ctx, userID, deviceID)
}

// DevicesRemoved implements accounts.DeviceListener.
func (u *upward) DevicesRemoved(ctx context.Context, userID string, deviceIDs []string) error {
	return errors.Join(u.d.devices.DevicesRemoved(ctx, userID, deviceIDs), u.d.push.DevicesRemoved(ctx, userID, deviceIDs))
}

// UserDeactivated implements accounts.UserListener.
func (u *upward) UserDeactivated(ctx context.Context, userID string, erase bool) error {
	return errors.Join(u.d.rooms.UserDeactivated(ctx, userID, erase), u.d.devices.UserDeactivated(ctx, userID, erase))
}
