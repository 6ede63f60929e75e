package render

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"lyceum/fleet"
	"lyceum/ops/connect"
	"lyceum/ops/deploy"
	"lyceum/ops/plan"
	"lyceum/platform/blob"
	"lyceum/platform/bus"
	"lyceum/platform/status"
	"lyceum/platform/web"
)

// RouteTable is the table of all routes under a configuration, with their paths in older versions of the specification. It comes
// from a process that is wired and never run, over SQLite in a temporary directory.
func RouteTable(ctx context.Context, c *fleet.Config) ([]web.Route, error) {
	dir, err := os.MkdirTemp("", "lyceum-routes-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	alone := *c
	alone.Server.Data, alone.Server.Listen, alone.Obs.LogLevel = dir, "", "error"
	alone.Database, alone.Redis = fleet.DatabaseConfig{}, bus.Config{}
	alone.Fleet = fleet.ProcessConfig{Roles: []string{fleet.AllRoles}, MachineID: "auto", Internal: c.Fleet.Internal}
	alone.Blob = blob.Config{Directory: filepath.Join(dir, "blobs")}
	p, err := fleet.Open(ctx, &alone)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	return p.AllRoutes(), nil
}

// ParseBackends reads backends as ROLE=HOST:PORT,HOST:PORT or ROLE=dns:NAME:PORT.
func ParseBackends(list []string) (map[string]deploy.Backend, error) {
	out := map[string]deploy.Backend{}
	for _, text := range list {
		role, places, ok := strings.Cut(text, "=")
		if !ok {
			return nil, fmt.Errorf("backend: expected ROLE=HOST:PORT,… or ROLE=dns:NAME:PORT, found %q", text)
		}
		if _, err := fleet.ParseRoles([]string{role}); err != nil {
			return nil, err
		}
		if name, ok := strings.CutPrefix(places, "dns:"); ok {
			host, port, _ := strings.Cut(name, ":")
			n, err := strconv.Atoi(port)
			if err != nil {
				return nil, fmt.Errorf("backend: expected dns:NAME:PORT, found %q", places)
			}
			out[role] = deploy.Backend{DNS: host, Port: n}
			continue
		}
		out[role] = deploy.Backend{Servers: strings.Split(places, ",")}
	}
	return out, nil
}

// LiveBackends are the public listeners of the processes that live now, by role. The process that runs over the data directory is asked
// where there can be only that one.
func LiveBackends(ctx context.Context, c *fleet.Config) (map[string]deploy.Backend, error) {
	out := map[string]deploy.Backend{}
	take := func(addresses map[string][]string) {
		for role, servers := range addresses {
			slices.Sort(servers)
			out[role] = deploy.Backend{Servers: servers}
		}
	}
	var err error
	if c.Embedded() || len(c.Redis.Addresses) == 0 && connect.RefuseStopped(c) == nil { // no other process can be beside that one
		err = connect.WithStatus(ctx, c, func(ask func(context.Context) (*status.Fleet, error)) error {
			f, err := ask(ctx)
			if err == nil {
				take(listeners(f))
			}
			return err
		})
	} else if err = connect.RefuseStopped(c); err == nil {
		err = fleet.AsMember(ctx, c, fleet.MustExist, func(p *fleet.Process) error {
			addresses, err := p.PublicAddresses(ctx)
			take(addresses)
			return err
		})
	}
	if err == nil && len(out) == 0 {
		err = errors.New("no process of the server lives: start it, or give backends with --backend")
	}
	return out, err
}

// listeners are the public listeners of processes by role. One on all addresses is reached on this machine, where the command runs too.
func listeners(f *status.Fleet) map[string][]string {
	out := map[string][]string{}
	for _, p := range f.Processes {
		host, port, err := net.SplitHostPort(p.Public)
		if p.Error != "" || p.Draining || err != nil {
			continue
		}
		if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
			host = "127.0.0.1"
		}
		for _, role := range p.Roles {
			out[role] = append(out[role], net.JoinHostPort(host, port))
		}
	}
	return out
}

// Sizes are what a plan gives to each role, for manifests.
func Sizes(p *plan.Plan) map[string]deploy.Size {
	out := map[string]deploy.Size{}
	for _, r := range p.Roles {
		if r.Replicas == 0 {
			continue
		}
		size := deploy.Size{Min: max(2, r.Replicas), CPU: int(r.CPU * 1000), Memory: int64(r.Memory)}
		size.Max = 3 * size.Min
		for _, known := range fleet.PlanRoles() { // more processes than shards would have nothing to own
			if known.Name == r.Role && known.Shards > 0 {
				size.Max = max(size.Min, min(size.Max, known.Shards))
			}
		}
		out[r.Role] = size
	}
	return out
}
