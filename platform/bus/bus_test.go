package bus_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lyceum/platform/bus"
	"lyceum/platform/bus/bustest"
	"lyceum/platform/conf"
	"lyceum/platform/engines"
	"lyceum/platform/engines/enginestest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("os/exec.(*Cmd).Wait"),
		goleak.IgnoreAnyFunction("lyceum/platform/engines.spawn.func1"),
		// The client library waits some seconds after it looked at a cluster before these end.
		goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*call).DelayDo.func1"),
		goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*clusterClient)._refresh.func2"))
}

func TestLocal(t *testing.T) {
	bustest.Run(t, 2000, func(testing.TB) (a, b bus.Bus) {
		l := bus.NewLocal()
		return l, l
	})
}

func TestRedis(t *testing.T) {
	url := enginestest.TestRedis(t)
	bustest.Run(t, 2000, pair(func() bus.Config { return config(url) }))
}

func TestRedisCluster(t *testing.T) {
	nodes := startCluster(t)
	// Each prefix has its slot on some node; the suite opens a pair per part, so all nodes have their turn.
	bustest.Run(t, 400, pair(func() bus.Config { return config(nodes[0].URL(), nodes[1].URL()) }))
}

func config(addresses ...string) bus.Config {
	return bus.Config{Addresses: addresses, Prefix: enginestest.Unique(), StartWait: conf.Duration(20 * time.Second)}
}

func pair(config func() bus.Config) bustest.Open {
	return func(t testing.TB) (a, b bus.Bus) {
		c := config()
		return open(t, c), open(t, c)
	}
}

func open(t testing.TB, c bus.Config) *bus.Redis {
	t.Helper()
	if c.Timeout == 0 {
		// Other tests may keep both cores of a small machine busy.
		c.Timeout = conf.Duration(10 * time.Second)
	}
	b, err := bus.NewRedis(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func startRedis(t testing.TB, settings ...string) *engines.Redis {
	t.Helper()
	server, err := engines.StartRedis(t.Context(), t.TempDir(), settings...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Stop() })
	return server
}

func startCluster(t testing.TB) []*engines.Redis {
	t.Helper()
	var nodes []*engines.Redis
	for range 3 {
		nodes = append(nodes, startRedis(t, "cluster-enabled yes", "requirepass cluster", "masterauth cluster", "cluster-node-timeout 2000"))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	if err := engines.JoinCluster(ctx, nodes...); err != nil {
		t.Fatal(err)
	}
	return nodes
}

// flow publishes in a until b has one of the messages, and then checks that Barrier holds again.
func flow(t *testing.T, a, b bus.Bus) {
	t.Helper()
	bustest.Eventually(t, "both members are connected", func() bool { return a.Connected() && b.Connected() })
	var got atomic.Int64
	cancel := b.Subscribe("flow", func(bus.Message) { got.Add(1) })
	defer cancel()
	bustest.Eventually(t, "a message arrives", func() bool {
		return a.Publish(t.Context(), bus.Message{Topic: "flow"}) == nil && b.Barrier(t.Context()) == nil && got.Load() > 0
	})
}

func TestRestartOfRedis(t *testing.T) {
	server := startRedis(t)
	c := config(server.URL())
	a, b := open(t, c), open(t, c)
	var reconnects, got atomic.Int64
	b.OnReconnect(func() {
		if b.Connected() {
			t.Error("connected before the functions of OnReconnect have run")
		}
		reconnects.Add(1)
	})
	b.OnReconnect(func() { t.Error("a cancelled function ran") })()
	b.Subscribe("kept", func(bus.Message) { got.Add(1) })
	for round := range int64(3) {
		flow(t, a, b)
		stop := server.Stop
		if round == 1 {
			stop = server.Kill
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		bustest.Eventually(t, "the loss is seen", func() bool { return !a.Connected() && !b.Connected() })
		began := time.Now()
		for range 10 {
			if err := a.Publish(t.Context(), bus.Message{Topic: "kept"}); !errors.Is(err, bus.ErrUnavailable) {
				t.Errorf("Publish while Redis is down: %v", err)
			}
			if err := b.Barrier(t.Context()); !errors.Is(err, bus.ErrUnavailable) {
				t.Errorf("Barrier while Redis is down: %v", err)
			}
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("20 calls while Redis is down took %s, expected each to fail at once", took)
		}
		// A subscription made while Redis is down counts as soon as it is back.
		var late atomic.Int64
		cancel := b.Subscribe("late", func(bus.Message) { late.Add(1) })
		if err := server.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		bustest.Eventually(t, "both are back", func() bool { return a.Connected() && b.Connected() })
		before := got.Load()
		if err := a.Publish(t.Context(), bus.Message{Topic: "kept"}, bus.Message{Topic: "late"}); err != nil {
			t.Fatal(err)
		}
		if err := b.Barrier(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got.Load() != before+1 || late.Load() != 1 {
			t.Errorf("after the restart: kept %d, late %d, expected one more each", got.Load()-before, late.Load())
		}
		if reconnects.Load() != round+1 {
			t.Errorf("%d calls of OnReconnect after %d restarts", reconnects.Load(), round+1)
		}
		cancel()
	}
}

func TestStartWithoutRedis(t *testing.T) {
	server := startRedis(t)
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	c := config(server.URL())
	c.StartWait = conf.Duration(50 * time.Millisecond)
	b := open(t, c)
	if b.Connected() {
		t.Error("connected to nothing")
	}
	var connects atomic.Int64
	b.OnReconnect(func() { connects.Add(1) })
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	flow(t, b, b)
	if connects.Load() != 1 {
		t.Errorf("OnReconnect ran %d times, expected once for the connection made after it", connects.Load())
	}
}

func TestSilentRedis(t *testing.T) {
	server := startRedis(t)
	c := config(server.URL())
	c.Timeout = conf.Duration(150 * time.Millisecond)
	b := open(t, c)
	flow(t, b, b)
	process, err := os.FindProcess(server.Pid())
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for range 20 {
		if err := b.Publish(t.Context(), bus.Message{Topic: "x"}); !errors.Is(err, bus.ErrUnavailable) {
			t.Errorf("Publish to a silent Redis: %v", err)
		}
		if err := b.Barrier(t.Context()); !errors.Is(err, bus.ErrUnavailable) {
			t.Errorf("Barrier on a silent Redis: %v", err)
		}
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("40 calls took %s: only the first may wait for its timeout", took)
	}
	heard := make(chan bus.Message, 1)
	subscribed := make(chan struct{})
	go func() { // while the connection is in doubt
		b.Subscribe("late", func(m bus.Message) { heard <- m })
		close(subscribed)
	}()
	time.Sleep(100 * time.Millisecond)
	if err := process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	<-subscribed
	for began := time.Now(); b.Publish(t.Context(), bus.Message{Topic: "late"}) != nil && time.Since(began) < 5*time.Second; {
		time.Sleep(time.Millisecond)
	}
	select {
	case <-heard:
	case <-time.After(3 * time.Second):
		t.Error("a topic subscribed to while Redis was silent brings nothing")
	}
	flow(t, b, b)
}

func TestWrongPasswordFailsAtOnce(t *testing.T) {
	server := startRedis(t)
	c := config(server.Addr())
	c.Password = "nonsense"
	began := time.Now()
	b, err := bus.NewRedis(t.Context(), c)
	if err == nil {
		b.Close()
		t.Fatal("a wrong password was accepted")
	}
	if !strings.Contains(err.Error(), "WRONGPASS") || !strings.Contains(err.Error(), "redis.password") || strings.Contains(err.Error(),
		"nonsense") {
		t.Errorf("error = %v", err)
	}
	if time.Since(began) > 10*time.Second {
		t.Error("it was tried again and again")
	}
}

func TestBadAddresses(t *testing.T) {
	for _, addresses := range [][]string{
		nil,
		{""},
		{"http://x:1"},
		{"redis://:secret@h:1/path"},
		{"redis://:sec ret@%%"},
		{"redis://:sec@ret@h:1"},
		{"redis://:sec/ret@h:1"},
		{"redis://:1?sec@h:1"},
		{"redis://:1#sec@h:1"},
	} {
		_, err := bus.NewRedis(t.Context(), bus.Config{Addresses: addresses})
		if err == nil || !strings.Contains(err.Error(), "addresses") || strings.Contains(err.Error(), "sec") {
			t.Errorf("%q: error = %v, expected one that names the key and no password", addresses, err)
		}
	}
}

func TestFleetsOfOneRedisAreApart(t *testing.T) {
	url := enginestest.TestRedis(t)
	a, b := open(t, config(url)), open(t, config(url))
	var strays atomic.Int64
	b.Subscribe("topic", func(bus.Message) { strays.Add(1) })
	if err := a.Publish(t.Context(), bus.Message{Topic: "topic"}); err != nil {
		t.Fatal(err)
	}
	if err := b.Barrier(t.Context()); err != nil {
		t.Fatal(err)
	}
	if strays.Load() != 0 {
		t.Error("a message crossed from one prefix to another")
	}
}

// sentinels starts a master that a Sentinel watches and finds dead after a while, with a replica, and two buses over them.
func sentinels(t *testing.T, dead time.Duration, settings ...string) (master, sentinel *engines.Redis, a, b *bus.Redis) {
	t.Helper()
	master = startRedis(t, append([]string{"requirepass failover", "masterauth failover"}, settings...)...)
	replica := startRedis(t, "requirepass failover", "masterauth failover", "repl-diskless-sync-delay 0")
	if err := replica.ReplicaOf(t.Context(), master); err != nil {
		t.Fatal(err)
	}
	sentinel, err := engines.StartSentinel(t.Context(), t.TempDir(), "main", master, dead)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sentinel.Stop() })
	if err := sentinel.AwaitReplicas(t.Context(), "main", 1); err != nil {
		t.Fatal(err)
	}
	c := config(sentinel.Addr())
	c.Master, c.Password = "main", "failover"
	a, b = open(t, c), open(t, c)
	flow(t, a, b)
	return master, sentinel, a, b
}

func TestSentinelFailover(t *testing.T) {
	master, _, a, b := sentinels(t, 500*time.Millisecond)
	var reconnects atomic.Int64
	b.OnReconnect(func() { reconnects.Add(1) })
	if err := master.Kill(); err != nil {
		t.Fatal(err)
	}
	bustest.Eventually(t, "the loss of the master is seen", func() bool { return !a.Connected() && !b.Connected() })
	flow(t, a, b)
	if reconnects.Load() == 0 {
		t.Error("OnReconnect did not run after the failover")
	}
}

// TestSentinelSwitchWhileTheOldMasterLives: nobody closes the connections to it, and it takes messages as before.
func TestSentinelSwitchWhileTheOldMasterLives(t *testing.T) {
	_, sentinel, a, b := sentinels(t, time.Minute, `rename-command REPLICAOF ""`, `rename-command SLAVEOF ""`)
	old := a.Server()
	if old == "" || b.Server() != old {
		t.Fatalf("expected one server, found %q and %q", old, b.Server())
	}
	var reconnects atomic.Int64
	b.OnReconnect(func() {
		if b.Server() == old {
			t.Error("OnReconnect runs while Server is the one before")
		}
		reconnects.Add(1)
	})
	bustest.Eventually(t, "the Sentinel takes the replica for good enough", func() bool {
		return sentinel.Failover(t.Context(), "main") == nil
	})
	bustest.Eventually(t, "both are at the new master", func() bool {
		return a.Connected() && b.Connected() && a.Server() != old && a.Server() == b.Server()
	})
	flow(t, a, b)
	if reconnects.Load() == 0 {
		t.Error("OnReconnect did not run after the switch")
	}
}

func TestClusterNodeRestart(t *testing.T) {
	nodes := startCluster(t)
	c := config(nodes[0].URL(), nodes[1].URL(), nodes[2].URL())
	a, b := open(t, c), open(t, c)
	for _, node := range nodes {
		if err := node.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	bustest.Eventually(t, "the loss is seen", func() bool { return !a.Connected() && !b.Connected() })
	for _, node := range nodes {
		if err := node.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	flow(t, a, b)
}

// Two fleets that use one prefix would take the messages of each other for their own.
func TestAPrefixBelongsToOneFleet(t *testing.T) {
	server := startRedis(t)
	of := func(fleet, prefix string) bus.Config {
		c := config(server.URL())
		c.Fleet, c.Prefix, c.Timeout = fleet, prefix, conf.Duration(10*time.Second)
		return c
	}
	a, again := open(t, of("a", "one")), open(t, of("a", "one"))
	flow(t, a, again)
	began := time.Now()
	if b, err := bus.NewRedis(t.Context(), of("b", "one")); err == nil || !strings.Contains(err.Error(), "redis.prefix") {
		if err == nil {
			b.Close()
		}
		t.Errorf("another fleet with this prefix: %v", err)
	}
	t.Log("refused after ", time.Since(began))
	flow(t, open(t, of("b", "two")), open(t, of("b", "two")))
	a.Close()
	again.Close()
	b := open(t, of("b", "one")) // when the other has ended
	flow(t, b, b)
}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	pool := certificate(t, dir)
	server := startRedis(t, "tls-port 0", "tls-auth-clients no",
		"tls-cert-file "+filepath.Join(dir, "cert.pem"), "tls-key-file "+filepath.Join(dir, "key.pem"))
	port, err := engines.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Configure(t.Context(), "tls-port", strconv.Itoa(port)); err != nil {
		t.Fatal(err)
	}
	c := config("rediss://:" + server.Password() + "@127.0.0.1:" + strconv.Itoa(port))
	if b, err := bus.NewRedis(t.Context(), c); err == nil {
		b.Close()
		t.Error("an unknown certificate was accepted")
	}
	c.TLSConfig = &tls.Config{RootCAs: pool}
	b := open(t, c)
	flow(t, b, b)
}

func certificate(t *testing.T, dir string) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"cert.pem": {Type: "CERTIFICATE", Bytes: der}, "key.pem": {Type: "PRIVATE KEY", Bytes: private},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return pool
}

func benchmark(b *testing.B, run func(b *testing.B, member bus.Bus)) {
	b.Run("Local", func(b *testing.B) { run(b, bus.NewLocal()) })
	b.Run("Redis", func(b *testing.B) { run(b, open(b, config(enginestest.TestRedis(b)))) })
}

func BenchmarkPublish(b *testing.B) {
	benchmark(b, func(b *testing.B, member bus.Bus) {
		member.Subscribe("bench", func(bus.Message) {})
		m := bus.Message{Topic: "bench", Data: make([]byte, 200)}
		for b.Loop() {
			if err := member.Publish(b.Context(), m); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkPublish100(b *testing.B) {
	benchmark(b, func(b *testing.B, member bus.Bus) {
		member.Subscribe("bench", func(bus.Message) {})
		batch := make([]bus.Message, 100)
		for i := range batch {
			batch[i] = bus.Message{Topic: "bench", Data: make([]byte, 200)}
		}
		for b.Loop() {
			if err := member.Publish(b.Context(), batch...); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkPublishParallel(b *testing.B) {
	benchmark(b, func(b *testing.B, member bus.Bus) {
		m := bus.Message{Topic: "bench", Data: make([]byte, 200)}
		b.SetParallelism(16)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if err := member.Publish(b.Context(), m); err != nil {
					b.Error(err)
				}
			}
		})
	})
}

func BenchmarkBarrier(b *testing.B) {
	benchmark(b, func(b *testing.B, member bus.Bus) {
		for b.Loop() {
			if err := member.Barrier(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkBarrierParallel(b *testing.B) {
	benchmark(b, func(b *testing.B, member bus.Bus) {
		b.SetParallelism(64)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if err := member.Barrier(b.Context()); err != nil {
					b.Error(err)
				}
			}
		})
	})
}
