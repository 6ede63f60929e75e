package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"lyceum/fleet"
)

type upCommand struct {
	sources `embed:""`
	Each    bool `help:"Give each role a process of its own, and each writer two."`
}

// Help is shown by lyceum up --help.
func (upCommand) Help() string {
	return "Starts what the section \"up\" of the configuration names, for example\n\n" +
		"  up:\n    replicas: {router: 1, client: 1, sync: 2, events: 2, media: 1}\n\n" +
		"PostgreSQL and Redis are started from the packages of this machine unless database.url and redis.addresses name others. Nothing is installed; what is missing is said."
}

func (c *upCommand) Run(ctx context.Context) error {
	config, err := c.load()
	if err != nil {
		return err
	}
	if c.Each {
		config.Up.Replicas = fleet.EachRole()
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	up := &fleet.Up{Program: program, Config: config, File: c.Config}
	start := time.Now()
	fmt.Println("starting; data and logs are in", config.Server.Data)
	if err := up.Start(ctx); err != nil {
		return err
	}
	fmt.Printf("%-60s %8s  %s\n", "PROCESS", "PID", "ADDRESS")
	for _, child := range up.Children() {
		fmt.Printf("%-60s %8d  %s\n", child.Name, child.PID(), child.Address)
	}
	fmt.Printf("serving %s at http://%s after %s; stop with ctrl-c\n", config.Server.Name, config.Server.Listen, time.Since(start).Round(10*time.Millisecond))
	fmt.Println("make an administrator: lyceum user add --admin NAME --config", up.AccessFile())
	<-ctx.Done()
	fmt.Println("stopping")
	return up.Stop(context.WithoutCancel(ctx))
}
