package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

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
	config, err := c.loadFor()
	if err != nil {
		return err
	}
	return connect.WithStatus(ctx, config, func(ask func(context.Context) (*status.Fleet, error)) error {
		before, err := ask(ctx)
		if err != nil {
			return err
		}
		if c.JSON {
			e := json.NewEncoder(os.Stdout)
			e.SetIndent("", "  ")
			return e.Encode(before)
		}
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(c.Interval):
			}
			now, err := ask(ctx)
			if err != nil {
				return err
			}
			if c.Watch {
				fmt.Print("\x1b[H\x1b[2J")
			}
			if err := now.Text(os.Stdout, before); err != nil || !c.Watch {
				return err
			}
			before = now
		}
	})
}
