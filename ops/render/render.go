package render

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"lyceum/fleet"
	"lyceum/ops/deploy"
	"lyceum/ops/plan"
	"lyceum/platform/blob"
	"lyceum/platform/bus"
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

// LiveBackends are the public listeners of the processes that live now, by role.
func LiveBackends(ctx context.Context, c *fleet.Config) (map[string]deploy.Backend, error) {
	out := map[string]deploy.Backend{}
	err := fleet.AsMember(ctx, c, fleet.MustExist, func(p *fleet.Process) error {
		addresses, err := p.PublicAddresses(ctx)
		for role, servers := range addresses {
			slices.Sort(servers)
			out[role] = deploy.Backend{Servers: servers}
		}
		return err
	})
	if err == nil && len(out) == 0 {
		err = errors.New("no process of the fleet lives: start it, or give backends with --backend")
	}
	return out, err
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
