package status

import (
	"context"
	"errors"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"lyceum/platform/blob"
	"lyceum/platform/bus"
	"lyceum/platform/conf"
	"lyceum/platform/db"
)

// probeWait is how long an engine has to answer.
const probeWait = 5 * time.Second

// ProbeDatabase asks the database for its state. address is its URL.
func ProbeDatabase(ctx context.Context, d *db.DB, address string) Engine {
	ctx, cancel := context.WithTimeout(ctx, probeWait)
	defer cancel()
	if !d.Postgres() {
		e := Engine{Kind: "sqlite", Address: strings.TrimPrefix(address, "sqlite:"), Protected: true, Encrypted: true}
		var pages, size int64
		trip, err := roundTrip(func() error { return d.QueryRow(ctx, "PRAGMA page_count").Scan(&pages) })
		err = errors.Join(err, d.QueryRow(ctx, "PRAGMA page_size").Scan(&size))
		e.RoundTrip, e.Size = trip, pages*size
		return e.failed(err)
	}
	e := Engine{Kind: "postgresql", Extra: map[string]float64{}}
	if u, err := url.Parse(address); err == nil {
		_, e.Protected = u.User.Password()
		e.Address = u.Host + u.Path
		e.Encrypted = local(u.Hostname())
	}
	var one int
	trip, err := roundTrip(func() error { return d.QueryRow(ctx, "SELECT 1").Scan(&one) })
	if err != nil {
		return e.failed(err)
	}
	e.RoundTrip = trip
	var limit string
	var tls bool
	err = errors.Join(
		d.QueryRow(ctx, `SELECT current_setting('server_version'), current_setting('max_connections'),
			(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'), pg_database_size(current_database())`).
			Scan(&e.Version, &limit, &e.Connections, &e.Size),
		d.QueryRow(ctx, "SELECT COALESCE((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), FALSE)").Scan(&tls),
	)
	e.MaxConn, _ = strconv.Atoi(limit)
	e.Encrypted = e.Encrypted || tls
	var waiting, active, oldest float64
	var lag *float64
	err = errors.Join(err,
		d.QueryRow(ctx, `SELECT count(*) FILTER (WHERE wait_event_type = 'Lock'), count(*) FILTER (WHERE state = 'active'),
			COALESCE(max(EXTRACT(EPOCH FROM clock_timestamp() - xact_start)), 0)
			FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`).Scan(&waiting, &active, &oldest),
		d.QueryRow(ctx, "SELECT max(EXTRACT(EPOCH FROM replay_lag)) FROM pg_stat_replication").Scan(&lag),
	)
	e.Extra["waiting_for_locks"], e.Extra["active"], e.Extra["oldest_transaction_seconds"] = waiting, active, oldest
	if lag != nil {
		e.Extra["replication_lag_seconds"] = *lag
	}
	return e.failed(err)
}

// ProbeRedis asks Redis for its state; b is not Redis when the process is alone.
func ProbeRedis(ctx context.Context, b bus.Bus, c bus.Config) Engine {
	redis, ok := b.(*bus.Redis)
	if !ok {
		return Engine{Kind: "local", Protected: true, Encrypted: true}
	}
	ctx, cancel := context.WithTimeout(ctx, probeWait)
	defer cancel()
	e := Engine{Kind: "redis", Protected: c.Password.Reveal() != "", Encrypted: c.TLS}
	var shown []string
	onThisMachine := true
	for _, a := range c.Addresses {
		host := a
		if u, err := url.Parse(a); err == nil && u.Host != "" {
			host = u.Host
			_, has := u.User.Password()
			e.Protected = e.Protected || has
			e.Encrypted = e.Encrypted || u.Scheme == "rediss"
		}
		if at := strings.LastIndexByte(host, '@'); at >= 0 { // an address without a scheme
			e.Protected = e.Protected || strings.Contains(host[:at], ":")
			host = host[at+1:]
		}
		shown = append(shown, host)
		name, _, err := net.SplitHostPort(host)
		onThisMachine = onThisMachine && err == nil && local(name)
	}
	e.Address, e.Encrypted = strings.Join(shown, ","), e.Encrypted || onThisMachine
	var info map[string]string
	trip, err := roundTrip(func() (err error) {
		info, err = redis.Info(ctx)
		return err
	})
	e.RoundTrip = trip
	number := func(name string) int64 {
		n, _ := strconv.ParseInt(info[name], 10, 64) // a field that is not there is 0
		return n
	}
	e.Version, e.Connections, e.MaxConn = info["redis_version"], int(number("connected_clients")), int(number("maxclients"))
	e.Memory, e.MaxMemory = number("used_memory"), number("maxmemory")
	return e.failed(err)
}

// ProbeBlob times a question to the blob store.
func ProbeBlob(ctx context.Context, s blob.Store, c blob.Config) Engine {
	ctx, cancel := context.WithTimeout(ctx, probeWait)
	defer cancel()
	e := Engine{Kind: "directory", Address: c.Directory, Protected: true, Encrypted: true}
	if c.S3.Endpoint != "" || c.S3.Bucket != "" {
		e = Engine{
			Kind: "s3", Address: conf.Redact(c.S3.Endpoint) + "/" + c.S3.Bucket, Protected: true,
			Encrypted: strings.HasPrefix(c.S3.Endpoint, "https:"),
		}
		if u, err := url.Parse(c.S3.Endpoint); err == nil {
			e.Encrypted = e.Encrypted || local(u.Hostname())
		}
	}
	trip, err := roundTrip(func() error {
		_, err := s.Stat(ctx, "probe/status")
		if errors.Is(err, blob.ErrNotFound) {
			return nil
		}
		return err
	})
	e.RoundTrip = trip
	return e.failed(err)
}

// roundTrips is how often an engine is asked: one slow answer, of a machine that was busy with something else, is no slow engine.
const roundTrips = 5

// roundTrip is the median of the seconds that a question to an engine takes. The first error ends it.
func roundTrip(ask func() error) (float64, error) {
	var times []float64
	for range roundTrips {
		start := time.Now()
		if err := ask(); err != nil {
			return 0, err
		}
		times = append(times, time.Since(start).Seconds())
	}
	slices.Sort(times)
	return times[len(times)/2], nil
}

func (e Engine) failed(err error) Engine {
	if err != nil {
		e.Error = err.Error()
	}
	return e
}

// local tells that a host is this machine: what is sent there is on no wire.
func local(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || host == "" || ip != nil && ip.IsLoopback()
}
