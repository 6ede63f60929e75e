package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"lyceum/fleet"
	"lyceum/ops/connect"
	"lyceum/platform/status"
)

type statusCommand struct {
	sources  `embed:""`
	JSON     bool          `name:"json" help:"Print JSON: one look, with counters since the start of each process."`
	Watch    bool          `help:"Go on until interrupted."`
	Interval time.Duration `help:"Time between two looks, from which rates are made." default:"2s"`
}

// Help is shown by lyceum status --help.
func (statusCommand) Help() string {
	return "Asks every process of the fleet, and the database, Redis and the blob store. Give it the same --config or --data as the " +
		"processes have; " +
		"for a fleet that lyceum up started, --config DATA/fleet.yaml. In a browser: /_lyceum/status on any process, for administrators."
}

func (c *statusCommand) Run(ctx context.Context) error {
	return c.observe(ctx, c.Interval, func(_ *fleet.Config, before, now *status.Fleet) (done bool, err error) {
		if c.JSON {
			e := json.NewEncoder(os.Stdout)
			e.SetIndent("", "  ")
			return true, e.Encode(now)
		}
		if before == nil {
			return false, nil
		}
		if c.Watch {
			fmt.Print("\x1b[H\x1b[2J")
		}
		return !c.Watch, now.Text(os.Stdout, before)
	})
}

// observe asks a fleet how it is, again after each interval, until fn is done or ctx ends. fn gets an answer and the one before it, which
// is nil at first.
func (s *sources) observe(
	ctx context.Context, interval time.Duration, fn func(config *fleet.Config, before, now *status.Fleet) (done bool, err error),
) error {
	config, err := s.loadFor()
	if err != nil {
		return err
	}
	return connect.WithStatus(ctx, config, func(ask func(context.Context) (*status.Fleet, error)) error {
		for before := (*status.Fleet)(nil); ; {
			now, err := ask(ctx)
			if err != nil {
				return err
			}
			if done, err := fn(config, before, now); done || err != nil {
				return err
			}
			before = now
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(interval):
			}
		}
	})
}
