package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"lyceum/fleet"
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
	return c.observe(ctx, c.Interval, func(config *fleet.Config, before, now *status.Fleet) (done bool, err error) {
		if before == nil {
			if !c.JSON {
				fmt.Fprintf(os.Stderr, "looking for %s …\n", c.Interval)
			}
			return false, nil
		}
		found := fleet.Examine(config, before, now)
		if c.JSON {
			err = doctor.JSON(os.Stdout, found)
		} else {
			err = doctor.Text(os.Stdout, found, terminal(os.Stdout))
		}
		if err == nil && doctor.Failed(found) {
			err = errors.New("something is critical")
		}
		return true, err
	})
}
