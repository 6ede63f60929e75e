package bus

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"lyceum/platform/backoff"
)

const (
	firstBackoff = 20 * time.Millisecond
	lastBackoff  = 2 * time.Second
)

// Redis is the bus over Redis pub/sub: a single server, one behind Sentinels, or a Redis Cluster.
//
// All topics of a fleet share one hash tag, so a cluster keeps them on one node and their order is kept.
// One connection receives and one sends. The receiving one makes Barrier cheap: Redis answers a PING on it
// after all messages it was given before, so the answer proves that they have arrived.
type Redis struct {
	conf   Config
	opt    rueidis.ClientOption
	prefix string

	subs             subscribers
	reconnect        callbacks
	barriers         Coalesced[struct{}]
	currentMu        sync.RWMutex            // held while a session becomes current, so that every Subscribe reaches it
	current          atomic.Pointer[session] // nil while there is no connection
	observeRoundTrip atomic.Pointer[func(time.Duration)]
	server           atomic.Pointer[string] // of the newest session

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

var _ Bus = (*Redis)(nil)

// NewRedis connects to Redis. When Redis is down it tries for Config.StartWait or until ctx ends, and then
// returns a bus that is not Connected and keeps trying. It fails for what trying again can not cure:
// a wrong configuration, password or certificate, a Redis that is too old, or the prefix of another fleet.
func NewRedis(ctx context.Context, conf Config) (*Redis, error) {
	conf.withDefaults()
	opt, err := conf.options()
	if err != nil {
		return nil, fmt.Errorf("bus: %w", err)
	}
	r := &Redis{conf: conf, opt: opt, prefix: "{" + conf.Prefix + "}"}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	connected, permanentErr, foreign := make(chan struct{}), make(chan error, 1), make(chan struct{})
	r.wg.Go(func() { r.run(connected, permanentErr, foreign) })
	r.barriers.Run = func() (struct{}, error) { return struct{}{}, r.ping() }

	timer := time.NewTimer(conf.StartWait.D())
	defer timer.Stop()
	waited := timer.C
	for {
		select {
		case <-connected:
			return r, nil
		case <-waited:
			return r, nil
		case <-ctx.Done():
			return r, nil
		case <-foreign: // perhaps a fleet that has just ended
			foreign, waited = nil, nil
		case err := <-permanentErr:
			r.Close()
			return nil, fmt.Errorf("%s: connect to Redis at %s: %w", configKeysOf(err), strings.Join(opt.InitAddress, ", "), err)
		}
	}
}

// sayAgain is how often the same trouble is logged.
const sayAgain = time.Minute

// run keeps one session open until Close.
func (r *Redis) run(connected chan<- struct{}, permanentErr chan<- error, foreign chan<- struct{}) {
	retry := backoff.Backoff{First: firstBackoff, Max: lastBackoff}
	var foreignSince time.Time // when another fleet was found, before the first connection
	var said string            // the error that was logged last
	var saidAt time.Time
	for r.ctx.Err() == nil {
		s, err := r.open()
		if err == nil {
			r.conf.Log.Info("bus connected", "redis", r.opt.InitAddress)
			r.makeCurrent(s)
			if connected != nil {
				close(connected)
				connected = nil
			}
			began := time.Now()
			err = r.serve(s)
			r.current.Store(nil)
			r.wg.Go(s.close)
			if time.Since(began) > lastBackoff {
				retry.Reset()
			}
		}
		if r.ctx.Err() != nil {
			return
		}
		pause := retry.Next()
		level := slog.LevelDebug
		if text := fmt.Sprint(err); text != said || time.Since(saidAt) > sayAgain {
			level, said, saidAt = slog.LevelWarn, text, time.Now()
		}
		r.conf.Log.Log(r.ctx, level, "bus has no connection; it is tried again until it has one", "redis", r.opt.InitAddress, "error", err,
			"in", pause.String())
		if errors.Is(err, errForeign) && foreignSince.IsZero() {
			foreignSince = time.Now()
			close(foreign)
		}
		if connected != nil && (permanent(err) || errors.Is(err, errForeign) && time.Since(foreignSince) > claimTTL+claimInterval) {
			select {
			case permanentErr <- err:
			default:
			}
		}
		select {
		case <-r.ctx.Done():
		case <-time.After(backoff.Jitter(pause)):
		}
	}
}

// makeCurrent makes a session the current one. A concurrent Subscribe either came first, and its topic is subscribed
// here, or finds the session.
func (r *Redis) makeCurrent(s *session) {
	r.currentMu.Lock()
	defer r.currentMu.Unlock()
	if err := s.reconcile(r.ctx); err != nil {
		return // the session is dead; serve returns the reason
	}
	r.server.Store(&s.server)
	r.reconnect.run()
	r.current.Store(s)
}

// serve returns when the session is lost, with the reason.
func (r *Redis) serve(s *session) error {
	check := time.NewTicker(time.Second)
	defer check.Stop()
	claim := time.NewTicker(claimInterval)
	defer claim.Stop()
	var master <-chan time.Time
	if s.master != "" {
		look := time.NewTicker(50 * time.Millisecond)
		defer look.Stop()
		master = look.C
	}
	for {
		select {
		case <-r.ctx.Done():
			return ErrClosed
		case <-s.dead:
			return s.err
		case <-s.changed:
			s.reconcile(r.ctx)
		case <-check.C:
			s.checkRole(r.ctx)
		case <-claim.C:
			if err := s.claim(r.ctx); err != nil {
				s.kill(err)
			}
		case <-master:
			s.checkMaster()
		}
	}
}

// Publish implements Bus.
func (r *Redis) Publish(ctx context.Context, msgs ...Message) error {
	if len(msgs) == 0 {
		return ctx.Err()
	}
	s, err := r.session()
	if err != nil {
		return err
	}
	return s.publish(ctx, msgs)
}

// Subscribe implements Bus.
func (r *Redis) Subscribe(topic string, fn func(Message)) (cancel func()) {
	r.currentMu.RLock()
	remove := r.subs.add(topic, fn)
	s := r.current.Load()
	r.currentMu.RUnlock()
	if s != nil && s.alive() { // also a session in doubt, which may recover
		s.reconcile(r.ctx)
	}
	return func() {
		if remove() {
			if s := r.current.Load(); s != nil {
				s.requestReconcile()
			}
		}
	}
}

// Barrier implements Bus.
func (r *Redis) Barrier(ctx context.Context) error {
	if _, err := r.session(); err != nil {
		return err
	}
	_, err := r.barriers.Wait(ctx)
	return err
}

func (r *Redis) ping() error {
	s, err := r.session()
	if err != nil {
		return err
	}
	began := time.Now()
	err = s.do(r.ctx, func(ctx context.Context) error {
		return s.sub.Do(ctx, s.sub.B().Ping().Build()).Error()
	})
	if fn := r.observeRoundTrip.Load(); fn != nil && err == nil {
		(*fn)(time.Since(began))
	}
	return err
}

// ObserveRoundTrips makes fn observe how long each exchange of Barrier with Redis took.
func (r *Redis) ObserveRoundTrips(fn func(time.Duration)) { r.observeRoundTrip.Store(&fn) }

// session returns the connection in use, or at once the error that says why there is none.
func (r *Redis) session() (*session, error) {
	if s := r.current.Load(); s != nil && !s.stalled.Load() && s.alive() {
		return s, nil
	}
	if r.ctx.Err() != nil {
		return nil, ErrClosed
	}
	return nil, ErrUnavailable
}

// Connected implements Bus.
func (r *Redis) Connected() bool {
	_, err := r.session()
	return err == nil
}

// Server implements Bus: it is the id of the run of the Redis server.
func (r *Redis) Server() string {
	if id := r.server.Load(); id != nil {
		return *id
	}
	return ""
}

// OnReconnect implements Bus.
func (r *Redis) OnReconnect(fn func()) (cancel func()) { return r.reconnect.add(fn) }

// Close implements Bus. It returns when all connections are closed.
func (r *Redis) Close() error {
	r.cancel()
	r.wg.Wait()
	return nil
}

// permanent tells whether trying again can not succeed until an operator changes something.
func permanent(err error) bool {
	if errors.Is(err, errTooOld) {
		return true
	}
	var certificate *tls.CertificateVerificationError
	if errors.As(err, &certificate) {
		return true
	}
	refused, ok := rueidis.IsRedisErr(err)
	if !ok {
		return false
	}
	text := refused.Error()
	for _, prefix := range []string{"WRONGPASS", "NOAUTH", "NOPERM", "ERR AUTH", "ERR invalid password", "ERR Client sent AUTH"} {
		if strings.HasPrefix(text, prefix) {
			return true
		}
	}
	return false
}

// configKeysOf names the configuration keys that an error of connecting to Redis is about.
func configKeysOf(err error) string {
	if _, ok := rueidis.IsRedisErr(err); ok && !errors.Is(err, errTooOld) { // it does not let us in
		return "redis.password (or the one in redis.addresses), redis.username"
	}
	return "redis.addresses"
}
