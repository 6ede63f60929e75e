// Command lyceum is a Matrix homeserver for one machine or many: see lyceum --help.
package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"lyceum/fleet"
	"lyceum/media"
	"lyceum/ops/connect"
	"lyceum/ops/users"
	"lyceum/platform/conf"
	"lyceum/platform/db"
	"lyceum/platform/obs"
)

type cli struct {
	Serve      serveCommand      `cmd:"" help:"Start a process: the whole product over SQLite, or some roles of a fleet."`
	Up         upCommand         `cmd:"" help:"Start a whole fleet on this machine and keep it running."`
	Doctor     doctorCommand     `cmd:"" help:"Name the bottleneck of a fleet and what is unsafe, and say what to change."`
	Plan       planCommand       `cmd:"" help:"Size a fleet for a load, beside what the guides of other systems say."`
	Render     renderCommands    `cmd:"" help:"Write configurations of load balancers, Kubernetes, compose, systemd, Prometheus and Grafana."`
	Ps         psCommand         `cmd:"" help:"List the processes of a running lyceum up."`
	Scale      scaleCommand      `cmd:"" help:"Change how many processes a running lyceum up has of a role."`
	Restart    restartCommand    `cmd:"" help:"Replace processes of a running lyceum up, without a request lost."`
	Rollout    rolloutCommand    `cmd:"" help:"Upgrade a running lyceum up, process by process, and go back on trouble."`
	Logs       logsCommand       `cmd:"" help:"Show the logs of a running lyceum up."`
	Stop       stopCommand       `cmd:"" help:"Stop a running lyceum up."`
	Roles      rolesCommand      `cmd:"" help:"Print the table of roles."`
	Config     configCommand     `cmd:"" help:"Print the effective configuration (secrets hidden), or the reference of all keys."`
	Status     statusCommand     `cmd:"" help:"Show every process, stream, shard and engine of the fleet."`
	Backup     backupCommand     `cmd:"" help:"Copy database, blobs and configuration at one moment, while the fleet runs."`
	Restore    restoreCommand    `cmd:"" help:"Fill an empty server from a backup, over the same or the other database engine."`
	User       userCommands      `cmd:"" help:"Make, list, lock, promote and deactivate users, set passwords, give out access tokens."`
	Token      tokenCommands     `cmd:"" help:"Make, list and revoke registration tokens, with which people register."`
	Reports    reportsCommands   `cmd:"" help:"Show what users reported to the operators."`
	Bench      benchCommands     `cmd:"" help:"Put load on any Matrix homeserver and check what it does."`
	Completion completionCommand `cmd:"" help:"Print the completion script of a shell, for example: source <(lyceum completion bash)."`
	Version    versionCommand    `cmd:"" help:"Print the version."`

	VersionFlag kong.VersionFlag `name:"version" help:"Print the version."`
}

// sources are the flags that say where the configuration is; every command that needs it has them.
type sources struct {
	Config     string            `help:"Configuration file (YAML). Environment and flags override it." placeholder:"FILE"`
	Data       string            `help:"Data directory of the server." placeholder:"DIR"`
	ServerName string            `help:"Server name, the part of user ids after the colon." placeholder:"NAME"`
	Set        map[string]string `help:"Override any key, as section.key=value." placeholder:"KEY=VALUE" mapsep:"none"`
}

// processSources are sources and what only a process has that serves.
type processSources struct {
	sources   `embed:""`
	Listen    string `help:"Address of the public listener." placeholder:"ADDR:PORT"`
	Roles     string `help:"Roles of this process, separated by commas." placeholder:"LIST"`
	MachineID string `help:"Machine id, 0 to 1023, or auto." placeholder:"N"`
}

func (s *processSources) load() (*fleet.Config, error) {
	return fleet.Load(conf.Sources{File: s.file(), Flags: s.flags()})
}

// flags are the keys that the command line gives, and their values.
func (s *processSources) flags() map[string]string {
	flags := map[string]string{}
	for key, value := range map[string]string{"server.listen": s.Listen, "fleet.roles": s.Roles, "fleet.machine_id": s.MachineID} {
		if value != "" {
			flags[key] = value
		}
	}
	maps.Copy(flags, s.sources.flags())
	return flags
}

func (s *sources) load() (*fleet.Config, error) {
	return fleet.Load(conf.Sources{File: s.file(), Flags: s.flags()})
}

// loadFor is load for a command that speaks to a server: the data directory may be that of a fleet.
func (s *sources) loadFor() (*fleet.Config, error) {
	return connect.Load(conf.Sources{File: s.file(), Flags: s.flags()})
}

// flags are the keys that the command line gives, and their values.
func (s *sources) flags() map[string]string {
	flags := map[string]string{}
	for key, value := range map[string]string{"server.data": s.Data, "server.name": s.ServerName} {
		if value != "" {
			flags[key] = value
		}
	}
	for key, value := range s.Set {
		flags[key] = value
	}
	return flags
}

// file is the configuration file, "" for none.
func (s *sources) file() string {
	if s.Config == "" {
		if _, err := os.Stat("lyceum.yaml"); err == nil {
			return "lyceum.yaml"
		}
	}
	return s.Config
}

type serveCommand struct {
	processSources `embed:""`
}

func (c *serveCommand) Run(ctx context.Context) error {
	config, err := c.load()
	if err != nil {
		return err
	}
	process, err := fleet.Open(ctx, config)
	if err != nil {
		return err
	}
	users.Serve(process)
	return process.Run(ctx)
}

type rolesCommand struct{}

func (rolesCommand) Run() error {
	_, err := os.Stdout.Write(fleet.RolesMarkdown())
	return err
}

type configCommand struct {
	processSources `embed:""`
	Reference      bool `help:"Print all keys with their defaults and meanings, as Markdown."`
}

func (c *configCommand) Run() error {
	config, err := c.load()
	if c.Reference {
		config, err = &fleet.Config{}, nil
	}
	if err != nil {
		return err
	}
	text := conf.Effective(config.Sections())
	if c.Reference {
		text = conf.Reference(config.Sections())
	}
	_, err = os.Stdout.Write(text)
	return err
}

type versionCommand struct{}

func (versionCommand) Run() error {
	fmt.Println("lyceum", obs.Version)
	return nil
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == media.WorkerCommand { // a confined child of a serving process
		if err := media.WorkerMain(os.Stdin, os.Stdout); err != nil {
			fail(err)
		}
		return
	}
	var c cli
	parser, err := kong.New(&c, kong.Name("lyceum"), kong.Vars{"version": "lyceum " + obs.Version},
		kong.Description("Lyceum is a Matrix homeserver that grows from a laptop to a fleet. `lyceum serve` starts all of it."),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}))
	if err != nil {
		fail(err)
	}
	nameNumbers(parser.Model.Node)
	args := os.Args[1:]
	switch {
	case len(args) == 0:
		args = []string{"--help"}
	case args[0] == "help":
		args = append(slices.Clone(args[1:]), "--help")
	}
	if args[0] == "__complete" { // asked by the completion scripts
		fmt.Println(strings.Join(words(parser.Model.Node, args[1:]), "\n"))
		return
	}
	k, err := parser.Parse(args)
	if err != nil {
		misused(err)
	}
	ctx := context.Background()
	if takesContext(k) { // another command ends at a signal by itself
		ctx = untilSignal(ctx)
	}
	k.BindTo(ctx, (*context.Context)(nil))
	if err := k.Run(); err != nil && !errors.Is(err, context.Canceled) {
		fail(err)
	}
}

// stopSignal is why a command ends.
type stopSignal struct{ os.Signal }

func (s stopSignal) Error() string {
	if s.Signal == syscall.SIGTERM {
		return "SIGTERM"
	}
	return "SIGINT"
}

// untilSignal is a context that ends with the first SIGTERM or SIGINT, which is its cause. A second one ends the program at once.
func untilSignal(ctx context.Context) context.Context {
	ctx, end := context.WithCancelCause(ctx)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, os.Interrupt)
	go func() {
		end(stopSignal{<-signals})
		signal.Stop(signals)
	}()
	return ctx
}

// nameNumbers makes the help show a number as N, where kong shows its type in Go.
func nameNumbers(n *kong.Node) {
	for _, f := range n.Flags {
		if kind := f.Target.Kind(); f.PlaceHolder == "" && kind >= reflect.Int && kind <= reflect.Float64 {
			f.PlaceHolder = "N"
			if f.HasDefault && f.Default != "" && f.Default != "0" {
				f.PlaceHolder = f.Default
			}
		}
	}
	for _, child := range n.Children {
		nameNumbers(child)
	}
}

// negative is what kong says of a value that begins with a minus sign; it takes that for a flag.
var negative = regexp.MustCompile(`expected \S+ value but got "(-\d[^"]*)" \(short flag\).*`)

// misused says in one line what is wrong with a command line, and where its help is.
func misused(err error) {
	command := "lyceum"
	if wrong, ok := errors.AsType[*kong.ParseError](err); ok && wrong.Context != nil {
		if node := wrong.Context.Selected(); node != nil {
			command += " " + node.Path()
		} else if path := wrong.Context.Path; len(path) > 0 && path[len(path)-1].Node() != nil {
			command = path[len(path)-1].Node().FullPath()
		}
	}
	text := negative.ReplaceAllString(err.Error(), "expected a number of 0 or more, found $1")
	fmt.Fprintf(os.Stderr, "lyceum: %s: see %s --help\n", text, command)
	os.Exit(2)
}

// takesContext tells whether the command that was asked for looks at signals.
func takesContext(k *kong.Context) bool {
	run := k.Selected().Target.Addr().MethodByName("Run")
	return run.IsValid() && run.Type().NumIn() > 0
}

func fail(err error) {
	if db.IsFull(err) {
		err = fmt.Errorf("the disk of the database has no room: make some and try again: %w", err)
	}
	fmt.Fprintf(os.Stderr, "%s: %v\n", filepath.Base(os.Args[0]), err)
	os.Exit(1)
}
