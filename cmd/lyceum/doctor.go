package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"lyceum/fleet"
	"lyceum/ops/connect"
	"lyceum/ops/doctor"
	"lyceum/platform/status"
)

type doctorCommand struct {
	sources  `embed:""`
	JSON     bool          `name:"json" help:"Print JSON."`
	Interval time.Duration `help:"Time between the two looks." default:"10s"`
}

// Help is shown by lyceum doctor --help.
func (doctorCommand) Help() string {
	return "Looks at every process and engine twice, compares with the targets of the scaling guides, " +
		"names the bottleneck and what to change, and checks what is unsafe. " +
		"The exit status is 1 when something is critical. Needs the same --config or --data as lyceum status."
}

func (c *doctorCommand) Run(ctx context.Context) error {
	config, err := c.loadFor()
	if err != nil {
		return err
	}
	return connect.WithStatus(ctx, config, func(ask func(context.Context) (*status.Fleet, error)) error {
		before, err := ask(ctx)
		if err != nil {
			return err
		}
		if !c.JSON {
			fmt.Fprintf(os.Stderr, "looking for %s …\n", c.Interval)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(c.Interval):
		}
		after, err := ask(ctx)
		if err != nil {
			return err
		}
		found := fleet.Examine(config, before, after)
		if c.JSON {
			err = doctor.JSON(os.Stdout, found)
		} else {
			err = doctor.Text(os.Stdout, found, isTerminal(os.Stdout))
		}
		if err == nil && doctor.Failed(found) {
			err = errors.New("something is critical")
		}
		return err
	})
}

// isTerminal tells whether people look at a file.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
