package fleet

import (
	"context"
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"lyceum/accounts"
	"lyceum/admin"
	"lyceum/devices"
	"lyceum/directory"
	"lyceum/matrix"
	"lyceum/media"
	"lyceum/ops/doctor"
	"lyceum/ops/plan"
	"lyceum/platform/blob"
	"lyceum/platform/bus"
	"lyceum/platform/domain"
	"lyceum/platform/obs"
	"lyceum/platform/role"
	"lyceum/platform/status"
	"lyceum/platform/web"
	"lyceum/presence"
	"lyceum/push"
	"lyceum/receipts"
	"lyceum/reports"
	"lyceum/rooms"
	"lyceum/syncapi"
	"lyceum/typing"
)

// domains are the domains of a process that other domains use, and the routes of all.
type domains struct {
	dependencies
	config   *Config
	accounts *accounts.Accounts
	rooms    *rooms.Rooms
	reports  *reports.Reports
	devices  *devices.Devices
	receipts *receipts.Receipts
	typing   *typing.Typing
	presence *presence.Presence
	push     *push.Push

	routes []web.Route // of all domains
}

// dependencies are what a process gives to its domains.
type dependencies struct {
	process  *role.Process
	blobs    blob.Store
	key      matrix.SigningKey
	metrics  *prometheus.Registry
	limits   bus.Limits
	status   func(context.Context) *status.Fleet
	underWay *web.UnderWay
}

// wire makes the domains in the order of the list.
func wire(deps dependencies, c *Config) (*domains, error) {
	d := &domains{dependencies: deps, config: c}
	for _, declared := range Domains {
		if declared.Name == own.Name {
			continue
		}
		part, err := d.newPart(declared.Name)
		if err != nil {
			return nil, err
		}
		d.routes = append(d.routes, part.Routes()...)
		if m, ok := part.(domain.Measured); ok && deps.metrics != nil {
			for _, metric := range m.Metrics() {
				if err := deps.metrics.Register(metric); err != nil {
					return nil, fmt.Errorf("domain %s: %w", declared.Name, err)
				}
			}
		}
	}
	for i, r := range d.routes {
		if r.Auth != web.None { // the device of the caller is known
			d.routes[i].Handler = d.accounts.RecordDeviceUse(r.Handler)
		}
	}
	return d, nil
}

// newPart calls the constructor of a domain with its dependencies.
func (d *domains) newPart(name string) (part domain.Part, err error) {
	p, c, server := d.process, d.config, d.config.Server.Name
	switch name {
	case accounts.Domain.Name:
		config, listener := *SectionOf[accounts.Config](c), &notifier{d}
		config.ServerName, config.DefaultRoomVersion = server, SectionOf[rooms.Config](c).DefaultVersion
		config.PasswordRates = accounts.PasswordRates{Account: c.HTTP.Rate("password"), Address: c.HTTP.Rate("password_address")}
		d.accounts, err = accounts.New(accounts.Deps{
			Process: p, Now: obs.Now, Limits: d.limits, UnderWay: d.underWay, Profile: listener, Devices: []accounts.DeviceListener{listener},
			Users: []accounts.UserListener{listener},
		}, config)
		return d.accounts, err
	case rooms.Domain.Name:
		d.rooms, err = rooms.New(rooms.Deps{Process: p, Accounts: d.accounts, ServerName: server, Key: d.key}, *SectionOf[rooms.Config](c))
		return d.rooms, err
	case devices.Domain.Name:
		d.devices, err = devices.New(devices.Deps{
			Process: p, Accounts: d.accounts, Now: obs.Now, SharedRooms: d.rooms,
		}, *SectionOf[devices.Config](c))
		return d.devices, err
	case directory.Domain.Name:
		return directory.New(directory.Deps{Process: p, Accounts: d.accounts, Rooms: d.rooms, ServerName: server},
			*SectionOf[directory.Config](c))
	case reports.Domain.Name:
		d.reports = reports.New(reports.Deps{Process: p, Accounts: d.accounts, Rooms: d.rooms, Now: obs.Now})
		return d.reports, nil
	case media.Domain.Name:
		return media.New(media.Deps{Process: p, Blob: d.blobs, ServerName: server}, *SectionOf[media.Config](c))
	case receipts.Domain.Name:
		d.receipts = receipts.New(receipts.Deps{Process: p, Accounts: d.accounts, Rooms: d.rooms})
		return d.receipts, nil
	case typing.Domain.Name:
		d.typing = typing.New(typing.Deps{Process: p, Rooms: d.rooms})
		return d.typing, nil
	case presence.Domain.Name:
		d.presence = presence.New(presence.Deps{Process: p, Rooms: d.rooms}, *SectionOf[presence.Config](c))
		return d.presence, nil
	case push.Domain.Name:
		d.push, err = push.New(push.Deps{Process: p, Accounts: d.accounts, Rooms: d.rooms, Receipts: d.receipts}, *SectionOf[push.Config](c))
		return d.push, err
	case syncapi.Domain.Name:
		return syncapi.New(syncapi.Deps{
			Process: p, Accounts: d.accounts, Devices: d.devices, Rooms: d.rooms, Receipts: d.receipts, Typing: d.typing,
			Presence: d.presence, Push: d.push,
		}, *SectionOf[syncapi.Config](c)), nil
	case admin.Domain.Name:
		return admin.New(admin.Deps{
			Status: d.status, Roles: PlanRoles(), Reports: d.reports, Rooms: d.rooms, Now: obs.Now,
			Doctor: func(before, after *status.Fleet, p *plan.Plan) (headline string, findings any) {
				list := examine(c, before, after, p)
				return doctor.Headline(list), list
			},
		}), nil
	}
	return nil, fmt.Errorf("domain %s is in the list of domains.go and has no constructor in wire.go: add it there", name)
}

// notifier tells domains of changes in the domains that they import.
type notifier struct{ d *domains }

// ProfileChanged implements accounts.ProfileListener.
func (u *notifier) ProfileChanged(ctx context.Context, userID, field string) error {
	return u.d.rooms.ProfileChanged(ctx, userID, field)
}

// DeviceAdded implements accounts.DeviceListener.
func (u *notifier) DeviceAdded(ctx context.Context, userID, deviceID string) error {
	return u.d.devices.DeviceAdded(ctx, userID, deviceID)
}

// DevicesRemoved implements accounts.DeviceListener.
func (u *notifier) DevicesRemoved(ctx context.Context, userID string, deviceIDs []string) error {
	return errors.Join(u.d.devices.DevicesRemoved(ctx, userID, deviceIDs), u.d.push.DevicesRemoved(ctx, userID, deviceIDs))
}

// UserDeactivated implements accounts.UserListener.
func (u *notifier) UserDeactivated(ctx context.Context, userID string, erase bool) error {
	return errors.Join(u.d.rooms.UserDeactivated(ctx, userID, erase), u.d.devices.UserDeactivated(ctx, userID, erase))
}
