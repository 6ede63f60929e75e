package bus

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/redis/rueidis"
)

// maxSilence is how long a connection that stopped answering is kept.
const maxSilence = 3 * time.Second

// subscribeChunk bounds the length of one SUBSCRIBE command.
const subscribeChunk = 256

var (
	errTooOld    = errors.New("expected Redis 6 or newer, and 7 or newer for a cluster: update Redis")
	errNotMaster = errors.New("this Redis is a replica now")
	errSwitch    = errors.New("the Sentinels made another Redis the master")
	errMoved     = errors.New("Redis took the subscriptions away: the slot of the bus moved")
)

// session is one set of connections to one Redis server, from connect to loss. It is never repaired: any failure ends
// it, and a new session takes its place.
type session struct {
	bus     *Redis
	client  rueidis.Client          // for scripts of the rate limiter
	sub     rueidis.DedicatedClient // receives
	pub     rueidis.DedicatedClient // publishes
	sharded bool                    // a cluster: sharded pub/sub keeps messages on the node of their slot
	server  string                  // the id of the run of the server
	master  string                  // its address as the Sentinels said; "" without Sentinels

	stalled      atomic.Bool   // Redis did not answer in time; a probe decides what becomes of the session
	changed      chan struct{} // asks serve to reconcile
	probe        string        // the message that proves at the start that pub and sub meet
	probeArrived chan struct{}

	mu            sync.Mutex // held while subscriptions change
	subscribed    map[string]bool
	unsubscribing sync.Map // topics whose unsubscription was requested

	dead     chan struct{}
	killOnce sync.Once
	err      error // why it is dead
	wg       sync.WaitGroup
}

// open connects, subscribes to all wanted topics, and proves that a message gets through.
func (r *Redis) open() (*session, error) {
	client, err := rueidis.NewClient(r.opt)
	if err != nil {
		return nil, err
	}
	s := &session{
		bus: r, client: client, sharded: client.Mode() == rueidis.ClientModeCluster,
		changed: make(chan struct{}, 1), probe: rand.Text(), probeArrived: make(chan struct{}),
		subscribed: map[string]bool{}, dead: make(chan struct{}),
	}
	s.master = s.sentinelMaster()
	s.sub, _ = client.Dedicate()
	s.pub, _ = client.Dedicate()
	s.endOnLoss(s.sub.SetPubSubHooks(rueidis.PubSubHooks{OnMessage: s.received, OnSubscription: s.subscription}))
	s.endOnLoss(s.pub.SetPubSubHooks(rueidis.PubSubHooks{OnSubscription: func(rueidis.PubSubSubscription) {}}))
	if err := s.handshake(); err != nil {
		s.kill(err)
		s.close()
		return nil, err
	}
	return s, nil
}

// endOnLoss ends the session when its connection is gone, which lost reports.
func (s *session) endOnLoss(lost <-chan error) {
	s.wg.Go(func() {
		err := <-lost
		if err == nil {
			err = rueidis.ErrClosing
		}
		s.kill(err)
	})
}

func (s *session) handshake() error {
	ctx, cancel := context.WithTimeout(s.bus.ctx, maxSilence)
	defer cancel()
	// The first command ties a connection of a cluster to the node that has the slot of our prefix.
	if err := s.sub.Do(ctx, s.subscribeCommand([]string{""})).Error(); err != nil {
		return err
	}
	hello, err := s.sub.Do(ctx, s.sub.B().Arbitrary("HELLO").Build()).AsMap()
	if err != nil {
		return fmt.Errorf("%w (it said: %w)", errTooOld, err)
	}
	proto := hello["proto"]
	if n, err := proto.AsInt64(); err != nil || n < 3 {
		return errTooOld
	}
	s.mu.Lock()
	s.subscribed[""] = true
	s.mu.Unlock()
	if err := s.reconcile(ctx); err != nil {
		return err
	}
	if err := s.pub.Do(ctx, s.publishCommand(Message{Data: []byte(s.probe)})).Error(); err != nil {
		return err
	}
	if err := s.requireMaster(ctx); err != nil {
		return err
	}
	if s.sentinelMaster() != s.master {
		return errSwitch
	}
	if err := s.claim(ctx); err != nil {
		return err
	}
	text, err := s.pub.Do(ctx, s.pub.B().Info().Section("server").Build()).ToString()
	if _, refused := rueidis.IsRedisErr(err); err != nil && !refused {
		return err
	}
	s.server = infoFields(text)["run_id"] // "" for a user who may not ask
	select {
	case <-s.probeArrived:
		return nil
	case <-s.dead:
		return s.err
	case <-ctx.Done():
		// A failover between the two connections leaves them on different servers.
		return errors.New("a message published on one connection did not arrive on the other")
	}
}

// requireMaster fails on a replica, which would accept messages but deliver them to its own subscribers only.
func (s *session) requireMaster(ctx context.Context) error {
	role, err := s.pub.Do(ctx, s.pub.B().Role().Build()).ToArray()
	if err != nil {
		return err
	}
	if name, err := role[0].ToString(); err != nil || name != "master" {
		return errNotMaster
	}
	return nil
}

// sentinelMaster is the master's address as the client library has it from the Sentinels, "" without them. It only
// reads memory.
func (s *session) sentinelMaster() string {
	if s.bus.conf.Master == "" {
		return ""
	}
	for address := range s.client.Nodes() {
		return address
	}
	return ""
}

// checkMaster ends the session when the Sentinels made another server the master. The former one may live on and
// accept messages that nobody receives.
func (s *session) checkMaster() {
	if s.sentinelMaster() != s.master {
		s.kill(errSwitch)
	}
}

func (s *session) checkRole(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, maxSilence)
	defer cancel()
	if err := s.requireMaster(ctx); err != nil {
		s.kill(err)
	}
}

func (s *session) received(m rueidis.PubSubMessage) {
	topic, ours := strings.CutPrefix(m.Channel, s.bus.prefix)
	switch {
	case !ours:
	case topic == "":
		if m.Message == s.probe {
			close(s.probeArrived)
		}
	default:
		// The text of a message is its own memory, and nobody changes Data: no copy is needed.
		s.bus.subs.deliver(Message{Topic: topic, Data: unsafe.Slice(unsafe.StringData(m.Message), len(m.Message))})
	}
}

// subscription notices that Redis ended a subscription by itself, as it does when a slot moves to another node.
func (s *session) subscription(event rueidis.PubSubSubscription) {
	if !strings.HasSuffix(event.Kind, "unsubscribe") {
		return
	}
	if _, asked := s.unsubscribing.LoadAndDelete(event.Channel); !asked {
		s.kill(errMoved)
	}
}

func (s *session) subscribeCommand(topics []string) rueidis.Completed {
	if s.sharded {
		return s.sub.B().Ssubscribe().Channel(s.channels(topics)...).Build()
	}
	return s.sub.B().Subscribe().Channel(s.channels(topics)...).Build()
}

func (s *session) unsubscribeCommand(topics []string) rueidis.Completed {
	if s.sharded {
		return s.sub.B().Sunsubscribe().Channel(s.channels(topics)...).Build()
	}
	return s.sub.B().Unsubscribe().Channel(s.channels(topics)...).Build()
}

func (s *session) publishCommand(m Message) rueidis.Completed {
	channel, data := s.bus.prefix+m.Topic, rueidis.BinaryString(m.Data)
	if s.sharded {
		return s.pub.B().Spublish().Channel(channel).Message(data).Build()
	}
	return s.pub.B().Publish().Channel(channel).Message(data).Build()
}

func (s *session) channels(topics []string) []string {
	names := make([]string, len(topics))
	for i, topic := range topics {
		names[i] = s.bus.prefix + topic
	}
	return names
}

// reconcile changes the subscriptions of the connection to the wanted ones. An error ends the session.
func (s *session) reconcile(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var add, drop []string
	for _, topic := range s.bus.subs.names() {
		if !s.subscribed[topic] {
			add = append(add, topic)
		}
	}
	for topic := range s.subscribed {
		if topic != "" && !s.bus.subs.has(topic) {
			drop = append(drop, topic)
		}
	}
	for len(add) > 0 {
		n := min(len(add), subscribeChunk)
		if err := s.change(ctx, s.subscribeCommand(add[:n])); err != nil {
			return err
		}
		for _, topic := range add[:n] {
			s.subscribed[topic] = true
		}
		add = add[n:]
	}
	for len(drop) > 0 {
		n := min(len(drop), subscribeChunk)
		for _, topic := range drop[:n] {
			delete(s.subscribed, topic)
			s.unsubscribing.Store(s.bus.prefix+topic, true)
		}
		if err := s.change(ctx, s.unsubscribeCommand(drop[:n])); err != nil {
			return err
		}
		drop = drop[n:]
	}
	return nil
}

func (s *session) change(ctx context.Context, command rueidis.Completed) error {
	ctx, cancel := context.WithTimeout(ctx, maxSilence)
	defer cancel()
	err := s.sub.Do(ctx, command).Error()
	if err != nil {
		s.kill(err)
	}
	return err
}

func (s *session) publish(ctx context.Context, msgs []Message) error {
	return s.do(ctx, func(ctx context.Context) error {
		if len(msgs) == 1 {
			return s.pub.Do(ctx, s.publishCommand(msgs[0])).Error()
		}
		commands := make(rueidis.Commands, len(msgs))
		for i, m := range msgs {
			commands[i] = s.publishCommand(m)
		}
		for _, result := range s.pub.DoMulti(ctx, commands...) {
			if err := result.Error(); err != nil {
				return err
			}
		}
		return nil
	})
}

// do runs one exchange with Redis within the configured time. Any failure except the end of the caller's context puts
// the session in doubt.
func (s *session) do(ctx context.Context, exchange func(context.Context) error) error {
	bounded, cancel := context.WithTimeout(ctx, s.bus.conf.Timeout.D())
	defer cancel()
	err := exchange(bounded)
	switch {
	case err == nil:
		return nil
	case s.bus.ctx.Err() != nil:
		return ErrClosed
	case ctx.Err() != nil:
		return ctx.Err()
	case bounded.Err() != nil:
		s.stall()
		return fmt.Errorf("%w: Redis did not answer within %s", ErrUnavailable, s.bus.conf.Timeout)
	}
	if _, answered := rueidis.IsRedisErr(err); !answered || isRedirection(err) {
		s.kill(err)
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// isRedirection tells whether an error of Redis means that another server has the data.
func isRedirection(err error) bool {
	for _, prefix := range []string{"MOVED", "ASK", "CLUSTERDOWN", "READONLY", "MASTERDOWN", "LOADING"} {
		if strings.HasPrefix(err.Error(), prefix) {
			return true
		}
	}
	return false
}

// stall refuses all calls until Redis has answered on both connections. Without it each call would wait for its own
// timeout.
func (s *session) stall() {
	if s.stalled.Swap(true) {
		return
	}
	s.wg.Go(func() {
		ctx, cancel := context.WithTimeout(s.bus.ctx, maxSilence)
		defer cancel()
		for _, connection := range []rueidis.DedicatedClient{s.pub, s.sub} {
			if err := connection.Do(ctx, connection.B().Ping().Build()).Error(); err != nil {
				s.kill(fmt.Errorf("Redis did not answer for %s: %w", maxSilence, err))
				return
			}
		}
		s.stalled.Store(false)
	})
}

func (s *session) requestReconcile() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

func (s *session) alive() bool {
	select {
	case <-s.dead:
		return false
	default:
		return true
	}
}

func (s *session) kill(err error) {
	s.killOnce.Do(func() {
		s.err = err
		close(s.dead)
	})
}

// close closes the connections. A connection that hangs takes a second to close.
func (s *session) close() {
	s.kill(ErrClosed)
	var wg sync.WaitGroup
	wg.Go(s.sub.Close)
	wg.Go(s.pub.Close)
	wg.Wait()
	s.client.Close()
	s.wg.Wait()
}
