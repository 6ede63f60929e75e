package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"

	"lyceum/fleet/rpcerror"
	"lyceum/matrix"
	"lyceum/platform/blob"
	"lyceum/platform/bus"
	"lyceum/platform/db"
	"lyceum/platform/lease"
	"lyceum/platform/obs"
	"lyceum/platform/role"
	"lyceum/platform/router"
	"lyceum/platform/rpc"
	"lyceum/platform/status"
	"lyceum/platform/stream"
	"lyceum/platform/web"
)

// Process is a running process of the fleet.
type Process struct {
	config  *Config
	obs     *obs.Obs
	secret  []byte
	key     matrix.SigningKey
	db      *db.DB
	leaseDB *db.DB // the same database
	process *role.Process
	bus     bus.Bus
	blobs   blob.Store
	status  *status.Collector
	domains *domains
	web     *web.Server
	public  net.Listener
	private net.Listener
	ops     net.Listener // nil for none
	data    *DataDirectory
	control *http.ServeMux // of the control socket
	created bool           // the server was made by this start
	unnamed bool           // it got its name by this start, and nobody gave it one
}

// Open connects the engines, migrates the schema, registers the process and wires the domains. Nothing
// is served yet.
func Open(ctx context.Context, c *Config) (*Process, error) { return open(ctx, c, MayCreate) }

func open(ctx context.Context, c *Config, m Creation) (_ *Process, err error) {
	p := &Process{config: c, control: http.NewServeMux()}
	if p.data, err = c.OpenDataDirectory(m); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			if p.process != nil { // its id is free at once
				err = errors.Join(err, p.process.Leases.Leave(context.WithoutCancel(ctx)))
			}
			p.Close()
		}
	}()
	if p.obs, err = obs.New(c.Obs); err != nil {
		return nil, err
	}
	if c.needsLock() {
		if err := p.data.Lock(); err != nil {
			return nil, err
		}
	}
	if err := p.openListeners(); err != nil {
		return nil, err
	}
	if err := p.openEngines(ctx, m); err != nil {
		return nil, err
	}
	p.unnamed = c.Server.Name == ""
	for _, step := range []func() error{
		func() error { return c.storeName(ctx, p.db) }, // not before: a start that fails gives no name that could not be changed
		func() (err error) { // a process with another secret ends here
			p.key, err = signingKey(ctx, p.db, p.secret)
			return err
		},
		func() error { return p.register(ctx) },
	} {
		if err := p.awaitDatabase(ctx, step); err != nil {
			return nil, err
		}
	}
	if err := p.buildServer(ctx); err != nil {
		return nil, err
	}
	if !c.Embedded() && !c.isSupervised() { // the directory of lyceum up says it
		if err := StoreEngine(c.Server.Data, c.Server.Name); err != nil {
			return nil, c.ofData(err)
		}
	}
	p.data.Keep()
	return p, nil
}

// openEngines connects the database, the bus and the blob store, and migrates the schema when all are there.
func (p *Process) openEngines(ctx context.Context, m Creation) (err error) {
	c := p.config
	if err := p.openDatabase(ctx); err != nil {
		return err
	}
	if err := p.awaitDatabase(ctx, func() error { return p.findServer(ctx, m) }); err != nil {
		return err
	}
	if p.bus, err = p.openBus(ctx); err != nil {
		return err
	}
	blobs, err := blob.Open(ctx, c.Blob)
	if err != nil {
		return err
	}
	p.blobs = blob.Measured(blobs, p.obs.Registry)
	err = p.awaitDatabase(ctx, func() (err error) {
		p.secret, err = c.EnsureSecret(ctx, p.db)
		return err
	})
	if err != nil {
		return err
	}
	return p.awaitDatabase(ctx, func() error { return c.ofDatabase(db.Migrate(ctx, p.db, p.obs.Log, Migrations()...)) })
}

// findServer takes the name of the server whose database it is, or checks that a server may be made in it.
func (p *Process) findServer(ctx context.Context, m Creation) error {
	ours, err := p.db.Ours(ctx)
	if err == nil && !ours {
		err = errors.Join(p.config.noServer(m), p.config.checkAbove(), p.config.CheckNewServer())
	}
	if err != nil {
		return err
	}
	p.created = !ours
	return p.config.AdoptStoredName(ctx, p.db) // before the migrations: a process of another server changes nothing
}

// leaseConnections is how many connections only the registration and the leases use: a heartbeat must not wait behind the requests of
// clients.
const leaseConnections = 2

// openDatabase opens the pool for all work and, over PostgreSQL, a small one for the leases. Together they have
// as many connections as database.connections says.
func (p *Process) openDatabase(ctx context.Context) (err error) {
	if p.config.Embedded() {
		p.db, err = p.config.OpenDatabase(ctx, db.Options{Readers: p.config.Database.Connections, Own: true})
		p.leaseDB = p.db
		return err
	}
	n := p.config.DatabaseConnections() - leaseConnections
	if err := p.awaitDatabase(ctx, func() error {
		p.db, err = p.config.OpenDatabase(ctx, db.Options{Readers: n, Own: true})
		return err
	}); err != nil {
		return err
	}
	return p.awaitDatabase(ctx, func() error {
		p.leaseDB, err = p.config.OpenDatabase(ctx, db.Options{Readers: leaseConnections})
		return err
	})
}

// awaitDatabase takes a step of the start that needs PostgreSQL, and may be taken twice. A process that starts waits for one that does not
// answer yet, as after the start of the machine, or goes away meanwhile; a command does not.
func (p *Process) awaitDatabase(ctx context.Context, step func() error) error {
	wait, warned := p.config.Database.StartWait.D(), false
	for until := time.Now().Add(wait); ; {
		err := step()
		if !db.IsAway(err) || slices.Contains(p.config.Fleet.Roles, role.NoRole) || !time.Now().Before(until) {
			return err
		}
		if !warned {
			p.obs.Log.Warn("PostgreSQL does not answer: waiting for it", "at_most", wait, "error", err)
			warned = true
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(startStep):
		}
	}
}

// startStep is the pause between two tries to reach PostgreSQL.
const startStep = 250 * time.Millisecond

// DatabaseConnections is how many connections to PostgreSQL a process makes at most.
func (c *Config) DatabaseConnections() int {
	return max(cmp.Or(c.Database.Connections, 16), leaseConnections+2)
}

func (p *Process) openBus(ctx context.Context) (bus.Bus, error) {
	if len(p.config.Redis.Addresses) == 0 {
		return bus.NewLocal(), nil
	}
	c := p.config.Redis
	c.Log = p.obs.Log
	var err error
	if c.Fleet, err = p.db.Identity(ctx); err != nil { // for instance for want of the right to ask
		p.obs.Log.Warn("PostgreSQL does not tell which database this is, so a fleet with the same redis.prefix would not be noticed",
			"error", err)
	}
	r, err := bus.NewRedis(ctx, c)
	if err != nil {
		return nil, err // not r, which is no Bus that close could take for one
	}
	return r, nil
}

func (p *Process) openListeners() (err error) {
	if addr := p.config.Server.Listen; addr != "" {
		if p.public, err = web.Listen(addr); err != nil {
			return fmt.Errorf("server.listen: %w: choose another address with --listen", err)
		}
	}
	if !p.config.Embedded() {
		if p.private, err = net.Listen("tcp", p.config.Fleet.Internal); err != nil {
			return fmt.Errorf("fleet.internal_listen: %w", err)
		}
	}
	if p.config.Fleet.Ops != "" {
		if p.ops, err = net.Listen("tcp", p.config.Fleet.Ops); err != nil {
			return fmt.Errorf("fleet.ops_listen: %w", err)
		}
	}
	return nil
}

// register takes the machine id. A process that died a moment ago may still be registered with the configured id, or as the only one that
// the database may have: register waits until that registration expires.
func (p *Process) register(ctx context.Context) error {
	machine, err := p.config.Fleet.Machine()
	if err != nil {
		return err
	}
	mine := newMetadata(p.config, p.secret)
	_, local := p.bus.(*bus.Local)
	has := sharedEngines{
		redis: !local || p.config.Embedded(),
		blobs: p.config.Blob.Directory == "" || p.config.Blob.Shared || p.config.Embedded(),
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	o := lease.Options{
		Machine: machine, Host: fmt.Sprintf("%s, process %d", host, os.Getpid()), Version: obs.Version,
		Roles: p.config.Fleet.Roles, Embedded: p.config.Embedded(), Log: p.obs.Log,
		Metadata: mine.text(), Accept: acceptMember(mine, machine >= 0, has),
		Announce: func() {
			step, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_ = p.bus.Publish(step, bus.Message{Topic: "leases"}) // the others read the view each second anyway
		},
	}
	if p.private != nil {
		o.Address = p.private.Addr().String()
		if p.config.Fleet.Advertise != "" {
			o.Address = p.config.Fleet.Advertise
		}
	}
	var leases *lease.Leases
	for deadline := time.Now().Add(lease.DefaultTTL + 2*time.Second); ; time.Sleep(200 * time.Millisecond) {
		leases, err = lease.Open(ctx, p.leaseDB, o)
		if !errors.Is(err, lease.ErrHeld) && !errors.Is(err, ErrDatabaseInUse) || time.Now().After(deadline) {
			break
		}
	}
	if err != nil {
		return err
	}
	log := p.obs.Log.With("machine", leases.Self().ID)
	p.process = &role.Process{DB: p.db, Bus: p.bus, Leases: leases, Log: log, Roles: Roles}
	p.process.Streams = stream.New(stream.Options{DB: p.db, Bus: p.bus, Leases: leases, Log: log, Registry: p.obs.Registry})
	if p.private != nil {
		p.process.RPC, err = rpc.New(rpc.Options{
			Secret: p.secret, Errors: rpcerror.Codec{}, Log: log, Registry: p.obs.Registry,
			Tracer: p.tracer(), OnLost: leases.Suspect,
		})
	}
	return err
}

// tracer is nil unless traces are configured, so that requests pay nothing for them.
func (p *Process) tracer() trace.Tracer {
	if p.config.Obs.OTLP == "" {
		return nil
	}
	return p.obs.Tracer
}

// buildServer wires the domains and makes the HTTP server with their routes, after the process was registered.
func (p *Process) buildServer(ctx context.Context) error {
	var epoch uint32
	err := p.awaitDatabase(ctx, func() (err error) {
		epoch, err = logEpoch(ctx, p.db)
		return err
	})
	if err != nil {
		return err
	}
	p.process.SetLogEpoch(epoch)
	p.status = p.collector()
	p.status.Serve()
	p.obs.Registry.MustRegister(engineMetrics{p})
	if p.process.RPC != nil {
		p.serveProbes(p.blobs)
		if err := p.checkSharedEngines(ctx, p.blobs); err != nil {
			return err
		}
	}
	var limits bus.Limits = bus.NewLocalLimits()
	if redis, ok := p.bus.(*bus.Redis); ok {
		limits = bus.NewRedisLimits(redis)
	}
	underWay := web.NewUnderWay()
	if p.domains, err = wire(dependencies{p.process, p.blobs, p.key, p.obs.Registry, limits, p.Status, underWay}, p.config); err != nil {
		return err
	}
	o := web.Options{
		Log: p.process.Log, Registry: p.obs.Registry, Authenticator: p.domains.accounts, Config: p.config.HTTP,
		Limits: limits, UnderWay: underWay, Barrier: p.process.Streams.Barrier, Ready: p.obs.Health.SetReady, Tracer: p.tracer(),
		OldPaths: oldPaths(),
	}
	if p.process.RPC != nil {
		r := router.New(router.Options{
			Directory: p.process, Transport: p.process.RPC.Transport(), Machine: p.process.Machine(), Log: p.process.Log, Registry: p.obs.Registry,
		})
		o.Dispatch = r.Dispatch
	}
	if p.web, err = web.New(o); err != nil {
		return err
	}
	p.web.Add(p.domains.routes...)
	p.web.Add(p.healthRoutes()...)
	if p.process.RPC != nil {
		p.process.RPC.Fallback(p.web.Internal())
	}
	p.obs.Health.Add("database", func(ctx context.Context) error {
		var one int
		return p.db.QueryRow(ctx, "SELECT 1").Scan(&one)
	})
	return nil
}

func (p *Process) healthRoutes() []web.Route {
	ops := p.obs.Handler()
	take := func(*web.Request) (any, error) {
		return &web.Takeover{Serve: ops.ServeHTTP}, nil
	}
	return []web.Route{{Pattern: "GET /health", Auth: web.None, Handler: take}}
}

// Run serves until ctx ends: then long polls are answered, requests under way finish, queued writes are
// stored and the shards are handed over.
func (p *Process) Run(ctx context.Context) error {
	defer func() {
		p.Close()
		p.process.Log.Info("stopped")
	}()
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()
	serve, stopServe := context.WithCancel(ctx)
	defer stopServe()
	var wg sync.WaitGroup
	var errs [4]error
	private, stopPrivate := context.WithCancel(context.WithoutCancel(ctx))
	defer stopPrivate()
	if p.private != nil {
		wg.Go(func() { errs[0] = p.process.RPC.Serve(private, p.private) })
	}
	wg.Go(func() { obs.TuneCollector(work) })
	ops := p.serveOps()
	wg.Go(func() {
		errs[1] = p.process.Run(work)
		stopServe() // without its registration a process serves nothing
	})
	select {
	case <-p.process.Streams.Started():
	case <-serve.Done():
	}
	if err := p.waitShards(serve); err != nil {
		return err
	}
	control, err := p.serveControl()
	if err != nil {
		return err
	}
	defer control()
	p.greet(ctx)
	defer context.AfterFunc(ctx, func() { p.process.Log.Info("stopping: " + WhyStopped(ctx)) })()
	if p.public != nil {
		errs[2] = p.web.Run(p.leaving(serve), p.public)
	} else {
		p.obs.Health.SetReady(true)
		<-serve.Done()
		p.obs.Health.SetReady(false)
		p.web.Drain()
	}
	p.drain()
	stopWork()
	stopPrivate()
	wg.Wait()
	errs[3] = ops()
	return errors.Join(errs[:]...)
}

// WhyStopped tells why a context ended, in words: most often the name of a signal.
func WhyStopped(ctx context.Context) string {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause.Error()
	}
	return "lyceum stop"
}

// leaving returns a context that ends after ctx did and the fleet was told that this process stops. So the others take its shards and
// send it nothing while it still answers.
func (p *Process) leaving(ctx context.Context) context.Context {
	out, cancel := context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		defer cancel()
		<-ctx.Done()
		p.drain()
	}()
	return out
}

func (p *Process) drain() {
	step, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if err := p.process.Leases.Drain(step); err != nil {
		p.process.Log.Warn("the fleet could not be told that this process stops", "error", err)
	}
}

// waitShards returns when this process owns its share, so that the first request finds it working.
func (p *Process) waitShards(ctx context.Context) error {
	if !p.config.Embedded() {
		return nil
	}
	for {
		owned := true
		for _, st := range p.process.Streams.All() {
			for i := range st.Shards() {
				owned = owned && st.Owns(i)
			}
		}
		if owned {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
}

func (p *Process) serveOps() (stop func() error) {
	if p.ops == nil {
		return func() error { return nil }
	}
	server := &http.Server{Handler: p.obs.Handler(), ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(p.ops) }() // ends with Close
	return server.Close
}

// greet tells people the address of the server and, at the first start, how to become administrator. In a fleet the process that starts
// first does it, once.
func (p *Process) greet(ctx context.Context) {
	p.writeProcessFile()
	if p.unnamed && os.Getenv(Supervised) == "" { // lyceum up says it
		p.warnUnnamed()
	}
	for _, what := range p.config.Exposed() {
		p.process.Log.Warn(what)
	}
	p.process.Log.Info("serving", "address", p.config.Server.Listen, "server", p.config.Server.Name, "version", obs.Version,
		"roles", strings.Join(p.config.Fleet.Roles, ","))
	token, created, err := p.domains.accounts.EnsureFirstToken(ctx)
	if err != nil {
		p.process.Log.Warn("no invitation token could be made", "error", err)
		return
	}
	if !p.config.Embedded() && !created {
		return
	}
	fmt.Printf("\nLyceum %s serves %s at %s\n", obs.Version, p.config.Server.Name, p.config.baseURL())
	fmt.Printf("Open a Matrix client, for example Element, and give it this address as homeserver.\n")
	fmt.Printf("Operators see how it is at %s/_lyceum/status\n", p.config.baseURL())
	if token != "" {
		fmt.Printf("\nThe first administrator registers with this token: %s\n", token)
		fmt.Printf("or type:  lyceum user add --admin NAME --data %s\n", p.config.Server.Data)
	}
	fmt.Println()
}

// Close ends what a process uses that was opened and is not run. Run closes it by itself.
func (p *Process) Close() {
	if p.bus != nil {
		_ = p.bus.Close() // nothing is lost with it
	}
	if p.leaseDB != nil && p.leaseDB != p.db {
		_ = p.leaseDB.Close() // the other pool says what is wrong
	}
	if p.db != nil {
		if err := p.db.Close(); err != nil {
			slog.Warn("the database did not close well", "error", err)
		}
	}
	for _, l := range []net.Listener{p.public, p.private, p.ops} {
		if l != nil {
			_ = l.Close() // served and closed already, or never
		}
	}
	if p.data != nil {
		p.data.Close()
	}
}
