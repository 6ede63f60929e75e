package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"lyceum/fleet"
	"lyceum/ops/connect"
	"lyceum/ops/up"
	"lyceum/ops/users"
	"lyceum/platform/conf"
)

type upCommand struct {
	processSources `embed:""`
	Each           bool `help:"Give each role a process of its own, and each writer two."`
	Detach         bool `short:"d" help:"Go on in the background; lyceum ps, scale, restart, logs, rollout and stop reach it."`
}

// Help is shown by lyceum up --help.
func (upCommand) Help() string {
	return "Starts what the section \"up\" of the configuration names, for example\n\n" +
		"  up:\n    replicas: {router+client+media+push: 1, sync: 2, events: 2, receipts+typing+presence+todevice+accountdata+devicelists: " +
		"2}\n\n" +
		"or, for three processes with all roles each, replicas: {all: 3} (on the command line: --set up.replicas=all=3). " +
		"Each role of lyceum roles is named, but those that others serve as well. " +
		"PostgreSQL and Redis are started from the packages of this machine unless database.url and redis.addresses name others. " +
		"Nothing is installed; what is missing is said. " +
		"Processes that end are started again, and so are this PostgreSQL and this Redis; the logs are in DATA/NAME/log, " +
		"those of the two in DATA/NAME/server.log."
}

func (c *upCommand) Run(ctx context.Context) error {
	if _, given := c.flags()["fleet.roles"]; given {
		return up.ErrRoles
	}
	config, err := c.load()
	if err != nil {
		return err
	}
	if c.Each {
		config.Up.Replicas = up.EachRole()
	}
	switch _, err := up.FindSupervisor(config.Server.Data); {
	case err == nil:
		return fmt.Errorf("lyceum up runs over %s already: lyceum ps shows its processes", config.Server.Data)
	case errors.Is(err, os.ErrPermission):
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	supervisor := &up.Supervisor{Program: program, Config: config, File: c.file(), Flags: c.flags()}
	if err := supervisor.Check(ctx); err != nil { // before anything is said or made
		return err
	}
	if c.Detach {
		return c.detach(ctx, program, config)
	}
	start := time.Now()
	fmt.Println("starting; data and logs are in", config.Server.Data)
	if missing := up.MissingRoles(&config.Up); len(missing) > 0 && config.Database.URL.Reveal() != "" {
		fmt.Println("no process of this machine has", strings.Join(missing, ", ")+": other machines must have them")
	}
	if err := supervisor.Start(ctx); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	end, err := supervisor.Supervise(stop)
	if err != nil {
		return errors.Join(err, supervisor.Stop(context.WithoutCancel(ctx)))
	}
	defer end()
	states := supervisor.Servers()
	for _, child := range supervisor.Children() {
		states = append(states, child.State())
	}
	printChildren(states)
	name, err := fleet.ServerName(ctx, config)
	if err != nil {
		return errors.Join(err, supervisor.Stop(context.WithoutCancel(ctx)))
	}
	fmt.Printf("serving %s at http://%s after %s; stop with ctrl-c or lyceum stop --data %s\n",
		name, config.Server.Listen, time.Since(start).Round(10*time.Millisecond), config.Server.Data)
	for _, what := range config.Exposed() {
		fmt.Println("WARNING:", what)
	}
	if supervisor.Unnamed {
		fmt.Println("WARNING:", fleet.Unnamed("remove "+config.Server.Data, "lyceum up"))
	}
	c.invite(ctx, supervisor.AccessFile())
	fmt.Println(upServes+" lyceum user add NAME, with --admin an administrator, --data", config.Server.Data)
	<-ctx.Done()
	fmt.Println("stopping:", fleet.WhyStopped(ctx))
	if err := supervisor.Stop(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	fmt.Println("stopped")
	return nil
}

// upServes begins the last line that lyceum up prints when it serves.
const upServes = "make users:"

// invite prints the token of the first administrator, if it was not used yet. file is the configuration of commands.
func (c *upCommand) invite(ctx context.Context, file string) {
	config, err := fleet.Load(conf.Sources{Environ: []string{}, File: file})
	if err == nil {
		err = users.WithUsers(ctx, config, false, func(u *users.Users) error {
			token, err := u.Invitation(ctx)
			if token != "" {
				fmt.Println("the first administrator registers with this token:", token)
			}
			return err
		})
	}
	if err != nil { // the fleet serves all the same
		fmt.Println("the token of the first administrator is not known:", err)
	}
}

// detach starts the same command in the background and tells how it goes until it serves.
func (c *upCommand) detach(ctx context.Context, program string, config *fleet.Config) error {
	if err := os.MkdirAll(config.Server.Data, 0o755); err != nil {
		return err
	}
	var args []string
	for _, arg := range os.Args[1:] {
		if arg != "--detach" && arg != "-d" {
			args = append(args, arg)
		}
	}
	log := filepath.Join(config.Server.Data, "up.log")
	pid, err := up.Detach(program, log, args...)
	if err != nil {
		return err
	}
	shown := 0
	for {
		text, _ := os.ReadFile(log)
		fmt.Print(string(text[min(shown, len(text)):]))
		shown = len(text)
		if _, err := up.FindSupervisor(config.Server.Data); err == nil && strings.Contains(string(text), upServes) {
			fmt.Printf("in the background as process %d; its output is in %s\n", pid, log)
			return nil
		}
		if syscall.Kill(pid, 0) != nil || ended(pid) {
			return errors.New("the fleet did not start; see above")
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), syscall.Kill(pid, syscall.SIGTERM))
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// ended tells that a child is a zombie: it ended and nobody has asked how.
func ended(pid int) bool {
	var status syscall.WaitStatus
	got, err := syscall.Wait4(pid, &status, syscall.WNOHANG, nil)
	return err == nil && got == pid
}

// overUp finds the running lyceum up.
type overUp struct {
	Data   string `help:"Data directory of the running lyceum up." placeholder:"DIR"`
	Config string `help:"Configuration file, if it names the data directory." placeholder:"FILE"`
}

func (o *overUp) find() (*up.Client, error) {
	s := sources{Config: o.Config, Data: o.Data}
	config, err := s.load()
	if err != nil {
		return nil, err
	}
	return up.FindSupervisor(config.Server.Data)
}

// mend mends what an older version left for other commands.
func (o *overUp) mend() error {
	s := sources{Config: o.Config, Data: o.Data}
	config, err := s.load()
	if err != nil {
		return err
	}
	return up.MendAccess(connect.UpDirectory(config))
}

type psCommand struct {
	overUp `embed:""`
}

func (c *psCommand) Run(ctx context.Context) error {
	s, err := c.find()
	if err != nil {
		return err
	}
	children, err := s.Children(ctx)
	if err != nil {
		return err
	}
	servers, err := s.Servers(ctx)
	if err != nil {
		return err
	}
	printChildren(append(servers, children...))
	return nil
}

func printChildren(children []up.ChildState) {
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tPID\tSTATE\tMACHINE\tVERSION\tADDRESS\tUP\tRESTARTS\tLOG")
	for _, c := range children {
		machine := "-"
		if c.Machine >= 0 {
			machine = strconv.Itoa(c.Machine)
		}
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\t%s\t%s\t%d\t%s\n", c.Name, c.PID, c.State, machine, c.Version, c.Address,
			time.Since(c.Since).Round(time.Second), c.Restarts, c.Log)
	}
	_ = t.Flush() // to the terminal
}

type scaleCommand struct {
	overUp `embed:""`
	Groups []string `arg:"" help:"ROLE=N, or a group such as receipts+typing=3." placeholder:"ROLE=N"`
}

// Help is shown by lyceum scale --help.
func (scaleCommand) Help() string {
	return "Starts or stops processes of a running lyceum up. Nothing else restarts and no file changes: " +
		"shards of writers move by themselves. " +
		"To keep the numbers over the next start, put them into up.replicas. In Kubernetes: kubectl scale deployment lyceum-ROLE --replicas N."
}

func (c *scaleCommand) Run(ctx context.Context) error {
	s, err := c.find()
	if err != nil {
		return err
	}
	for _, g := range c.Groups {
		group, number, ok := strings.Cut(g, "=")
		n, err := strconv.Atoi(number)
		if !ok || err != nil {
			return fmt.Errorf("expected ROLE=N, found %q", g)
		}
		start := time.Now()
		said, err := s.Scale(ctx, group, n)
		if err != nil {
			return err
		}
		fmt.Printf("%s; serving after %s\n", said, time.Since(start).Round(time.Millisecond))
	}
	return nil
}

type restartCommand struct {
	overUp `embed:""`
	Target string `arg:"" optional:"" default:"all" help:"A role, a machine id, the name of a process, or all." placeholder:"ROLE|MACHINE|NAME"`
}

// Help is shown by lyceum restart --help.
func (restartCommand) Help() string {
	return "Replaces processes one after the other: each new one serves before the old one stops, so that nobody notices."
}

func (c *restartCommand) Run(ctx context.Context) error {
	s, err := c.find()
	if err != nil {
		return err
	}
	if err := c.mend(); err != nil {
		return err
	}
	children, err := s.Find(ctx, c.Target)
	if err != nil {
		return err
	}
	for i, child := range children {
		start := time.Now()
		now, err := s.Restart(ctx, child.Name, "")
		if err != nil {
			return err
		}
		fmt.Printf("%d of %d: %s is process %d now, machine %d, after %s\n", i+1, len(children), now.Name, now.PID, now.Machine,
			time.Since(start).Round(time.Millisecond))
	}
	return nil
}

type stopCommand struct {
	overUp `embed:""`
}

func (c *stopCommand) Run(ctx context.Context) error {
	s, err := c.find()
	if err != nil {
		return err
	}
	fmt.Println("stopping")
	if err := s.Stop(ctx); err != nil {
		return err
	}
	fmt.Println("stopped")
	return nil
}

type logsCommand struct {
	overUp `embed:""`
	Target string `arg:"" optional:"" default:"all" help:"A role, a machine id, the name of a process, or all." placeholder:"ROLE|MACHINE|NAME"`
	Follow bool   `short:"f" help:"Go on with what is written from now on."`
	Lines  int    `short:"n" help:"Lines from the end of each log." default:"20"`
}

func (c *logsCommand) Run(ctx context.Context) error {
	s, err := c.find()
	if err != nil {
		return err
	}
	children, err := s.Find(ctx, c.Target)
	if err != nil {
		return err
	}
	ends := map[string]int64{}
	for _, child := range children {
		text, end, err := up.LastLines(child.Log, c.Lines)
		if err != nil {
			return err
		}
		ends[child.Log] = end
		printLog(child.Name, text, len(children) > 1)
	}
	for c.Follow {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(200 * time.Millisecond):
		}
		for _, child := range children {
			text, end, err := up.LinesFrom(child.Log, ends[child.Log])
			if err != nil {
				return err
			}
			ends[child.Log] = end
			printLog(child.Name, text, len(children) > 1)
		}
	}
	return nil
}

// printLog prints lines, each behind the name of its process where there are several.
func printLog(name, text string, named bool) {
	for line := range strings.Lines(text) {
		if named {
			fmt.Print(name, " | ")
		}
		fmt.Print(line)
	}
}

type rolloutCommand struct {
	overUp    `embed:""`
	Program   string        `arg:"" optional:"" help:"The new binary; this one when left out." placeholder:"FILE" type:"path"`
	Watch     time.Duration `help:"How long the fleet must be well after each process." default:"3s"`
	MaxBehind int64         `help:"Rows that a process may be behind." default:"1000"`
	MaxErrors float64       `help:"Share of requests that may fail with 5xx." default:"0.01"`
}

// Help is shown by lyceum rollout --help.
func (rolloutCommand) Help() string {
	return "Upgrades a fleet that lyceum up runs: owners of shards first, one process at a time. " +
		"Each new process serves before its old one stops, and the next one waits until all " +
		"are ready, every shard has an owner, nobody is behind and few requests fail. On trouble all go back to the old binary. " +
		"In X.Y.Z another X needs the fleet stopped; Y is upgraded quickly; Z slowly. " +
		"Elsewhere: kubectl rollout, or systemctl restart lyceum@0 and then the others."
}

func (c *rolloutCommand) Run(ctx context.Context) error {
	if _, err := os.Stat(c.Program); c.Program != "" && err != nil {
		return fmt.Errorf("the new binary: %w", err)
	}
	s, err := c.find()
	if err != nil {
		return err
	}
	program := c.Program
	if program == "" {
		if program, err = os.Executable(); err != nil {
			return err
		}
	}
	of := sources{Config: c.Config, Data: c.Data}
	config, err := of.load()
	if err != nil {
		return err
	}
	data := connect.UpDirectory(config)
	if err := up.MendAccess(data); err != nil {
		return err
	}
	access := sources{Config: fleet.AccessFile(data)} // how commands reach the fleet
	if config, err = access.load(); err != nil {
		return err
	}
	r := up.Rollout{
		Supervisor: s, Program: program, Keep: data, Watch: c.Watch, MaxBehind: c.MaxBehind, MaxErrors: c.MaxErrors,
		Out: os.Stdout,
	}
	return r.Run(ctx, config)
}
