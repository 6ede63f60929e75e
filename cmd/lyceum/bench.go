package main

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"lyceum/ops/bench"
)

type benchCommands struct {
	Send    benchSend    `cmd:"" help:"Closed loop: senders send as fast as they are answered; every message is read back by the members, at most 16 of each room."`
	CCU     benchCCU     `cmd:"" name:"ccu" help:"Many clients wait in /sync while messages are sent at a fixed rate."`
	Initial benchInitial `cmd:"" help:"First sync of a user in many rooms."`
	Rooms   benchRooms   `cmd:"" help:"Make rooms, or join them, as fast as answers come."`

	Calibrate benchCalibrate `cmd:"" help:"Measure what each kind of work costs on this machine, for lyceum plan."`
}

type benchCalibrate struct {
	URL     string `help:"Server that runs already; empty: a private fleet is started and removed." placeholder:"URL"`
	PID     []int  `name:"pid" help:"Processes of that server."`
	Secret  string `name:"shared-secret" help:"File with its registration secret." placeholder:"FILE" type:"existingfile"`
	Out     string `help:"File to write." default:"capacities.json" placeholder:"FILE"`
	Alone   bool   `help:"Measure one process over SQLite instead of a fleet."`
	Quick   bool   `help:"Take seconds instead of minutes; the figures are rough."`
	Clients int    `help:"Clients that wait in /sync; 0: 1,000."`
}

func (c *benchCalibrate) Run(ctx context.Context) error {
	o := bench.CalibrateOptions{Alone: c.Alone, Quick: c.Quick, Clients: c.Clients, Command: commandLine()}
	if c.URL != "" {
		o.Target = &bench.Target{URL: c.URL, PIDs: c.PID}
		if c.Secret != "" {
			text, err := os.ReadFile(c.Secret)
			if err != nil {
				return err
			}
			o.Target.SharedSecret = trimLine(text)
		}
	}
	capacities, err := bench.Calibrate(ctx, o, os.Stderr)
	if err != nil {
		return err
	}
	return write(c.Out, capacities.Write)
}

type benchFlags struct {
	URL          string `help:"Base URL of the homeserver; several with commas are used in turn." default:"http://127.0.0.1:8008"`
	SharedSecret string `help:"File with the secret of the shared-secret registration; without it registration must be open." placeholder:"FILE" type:"existingfile"`
	PID          []int  `name:"pid" help:"Processes of the server whose CPU and memory are measured."`
	JSON         string `name:"json" help:"Write the result as JSON to a file, - for standard output." placeholder:"FILE"`
	SVG          string `name:"svg" help:"Draw the run into an SVG file." placeholder:"FILE"`
}

// run does a load, shows it and fails when its check failed.
func (f *benchFlags) run(ctx context.Context, load interface {
	Run(context.Context, *bench.Target, io.Writer) (*bench.Result, error)
},
) error {
	t := &bench.Target{URL: f.URL, PIDs: f.PID}
	if f.SharedSecret != "" {
		text, err := os.ReadFile(f.SharedSecret)
		if err != nil {
			return err
		}
		t.SharedSecret = trimLine(text)
	}
	r, err := load.Run(ctx, t, os.Stderr)
	if err != nil {
		return err
	}
	r.Text(os.Stderr)
	if err := write(f.JSON, r.JSON); err != nil {
		return err
	}
	if err := write(f.SVG, r.SVG); err != nil {
		return err
	}
	if r.Check != "ok" {
		return errors.New("the check failed: " + r.Check)
	}
	if r.Errors > 0 {
		return errors.New("requests failed; see errors above")
	}
	return nil
}

func write(path string, fn func(io.Writer) error) error {
	switch path {
	case "":
		return nil
	case "-":
		return fn(os.Stdout)
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(fn(f), f.Close())
}

func trimLine(text []byte) string {
	for len(text) > 0 && (text[len(text)-1] == '\n' || text[len(text)-1] == '\r') {
		text = text[:len(text)-1]
	}
	return string(text)
}

type benchSend struct {
	benchFlags `embed:""`
	Senders    int           `help:"Users who send." default:"16"`
	Rooms      int           `help:"Rooms; every sender is in all of them." default:"20"`
	Duration   time.Duration `help:"How long to send." default:"15s"`
}

func (c *benchSend) Run(ctx context.Context) error {
	return c.run(ctx, bench.Send{Senders: c.Senders, Rooms: c.Rooms, Duration: c.Duration})
}

type benchCCU struct {
	benchFlags `embed:""`
	Clients    int           `help:"Clients that wait." default:"1000"`
	RoomSize   int           `help:"Members of each room." default:"100"`
	Rate       float64       `help:"Messages per second in all." default:"50"`
	Duration   time.Duration `help:"How long to send." default:"30s"`
}

func (c *benchCCU) Run(ctx context.Context) error {
	return c.run(ctx, bench.CCU{Clients: c.Clients, RoomSize: c.RoomSize, Rate: c.Rate, Duration: c.Duration})
}

type benchInitial struct {
	benchFlags `embed:""`
	Rooms      int  `help:"Rooms of the user." default:"50"`
	Messages   int  `help:"Messages in each room." default:"20"`
	Times      int  `help:"How often the first sync is measured." default:"10"`
	Lazy       bool `help:"Ask for lazy-loaded members."`
}

func (c *benchInitial) Run(ctx context.Context) error {
	return c.run(ctx, bench.Initial{Rooms: c.Rooms, Messages: c.Messages, Times: c.Times, Lazy: c.Lazy})
}

type benchRooms struct {
	benchFlags `embed:""`
	Users      int           `help:"Users at the same time." default:"8"`
	Duration   time.Duration `help:"How long." default:"10s"`
	Join       bool          `help:"Join rooms instead of making them."`
}

func (c *benchRooms) Run(ctx context.Context) error {
	return c.run(ctx, bench.Rooms{Users: c.Users, Duration: c.Duration, Join: c.Join})
}
