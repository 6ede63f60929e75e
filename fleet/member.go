package fleet

import (
	"context"
	"net"
	"sync"

	"lyceum/accounts"
	"lyceum/platform/role"
	"lyceum/platform/status"
	"lyceum/reports"
	"lyceum/rooms"
)

// AsMember calls fn with a process that is a member of the fleet without a role: it takes no requests and calls the owners. Over
// SQLite, where there can be no other process, it has all roles.
func AsMember(ctx context.Context, c *Config, m Creation, fn func(*Process) error) error {
	return withRoles(ctx, c, m, []string{role.NoRole}, fn)
}

// AsOnlyMember is AsMember with all roles, for work that needs owners while no other process runs.
func AsOnlyMember(ctx context.Context, c *Config, m Creation, fn func(*Process) error) error {
	return withRoles(ctx, c, m, []string{AllRoles}, fn)
}

// withRoles is AsMember with roles, which count where there can be other processes.
func withRoles(ctx context.Context, c *Config, m Creation, roles []string, fn func(*Process) error) error {
	c.Server.Listen = ""
	c.Obs.LogLevel = "warn"
	c.Fleet.Ops = ""
	if !c.Embedded() {
		c.Fleet.Roles, c.Fleet.MachineID = roles, "auto"
		// The process of the configuration has its port, and nobody calls a command.
		if host, _, err := net.SplitHostPort(c.Fleet.Internal); err == nil {
			c.Fleet.Internal, c.Fleet.Advertise = net.JoinHostPort(host, "0"), ""
		}
	}
	p, err := open(ctx, c, m)
	if err != nil {
		return err
	}
	defer p.Close()
	work, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { _ = p.process.Run(work) }) // what fails shows in fn
	defer wg.Wait()
	defer stop()
	if err := p.waitShards(ctx); err != nil {
		return err
	}
	return fn(p)
}

// Accounts are the users of the server.
func (p *Process) Accounts() *accounts.Accounts { return p.domains.accounts }

// Reports are what users reported to the administrators.
func (p *Process) Reports() *reports.Reports { return p.domains.reports }

// Rooms are the rooms of the server.
func (p *Process) Rooms() *rooms.Rooms { return p.domains.rooms }

// Created reports whether this process made the server: there was none in the database before.
func (p *Process) Created() bool { return p.created }

// IsOnlyMember reports whether no other process is registered.
func (p *Process) IsOnlyMember() bool { return len(p.process.Leases.Machines()) == 1 }

// CurrentStatus is Status after the list of processes was read anew.
func (p *Process) CurrentStatus(ctx context.Context) (*status.Fleet, error) {
	if err := p.process.Leases.Refresh(ctx); err != nil {
		return nil, err
	}
	return p.Status(ctx), nil
}

// CheckServerName returns an error when name is not that of this server.
func (p *Process) CheckServerName(name string) error {
	named := *p.config
	named.Server.Name = name
	return named.AdoptName(p.config.Server.Name)
}

// ServerName is the name of the server.
func (p *Process) ServerName() string { return p.config.Server.Name }
