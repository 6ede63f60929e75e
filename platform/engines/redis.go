package engines

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/redis/rueidis"

	"lyceum/platform/disk"
)

// Redis is a private Redis server on a loopback port, guarded by a random password.
type Redis struct {
	*server
	port     int
	password string
}

// StartRedis starts a server and returns when it answers. It keeps nothing on disk: Lyceum has no truth in Redis.
// Settings are lines of redis.conf, such as "cluster-enabled yes"; the last line for a name wins.
func StartRedis(ctx context.Context, dir string, settings ...string) (*Redis, error) {
	r := &Redis{password: randomPassword()}
	for _, line := range settings {
		if password, ok := strings.CutPrefix(line, "requirepass "); ok {
			r.password = password
		}
	}
	lines := append([]string{
		"bind 127.0.0.1", "daemonize no", `save ""`, "appendonly no",
		"requirepass " + r.password, "masterauth " + r.password,
	}, settings...)
	return r, r.run(ctx, dir, lines, nil)
}

// StartSentinel starts a Redis Sentinel without a password that watches master under the given name.
// One Sentinel decides alone (quorum 1) that the master is down after the given time.
func StartSentinel(ctx context.Context, dir, name string, master *Redis, downAfter time.Duration) (*Redis, error) {
	r := &Redis{}
	return r, r.run(ctx, dir, []string{
		"bind 127.0.0.1", "daemonize no", "protected-mode no",
		fmt.Sprintf("sentinel monitor %s 127.0.0.1 %d 1", name, master.port),
		fmt.Sprintf("sentinel auth-pass %s %s", name, master.password),
		fmt.Sprintf("sentinel down-after-milliseconds %s %d", name, downAfter.Milliseconds()),
		fmt.Sprintf("sentinel failover-timeout %s 10000", name),
	}, []string{"--sentinel"})
}

func (r *Redis) run(ctx context.Context, dir string, lines, args []string) error {
	program, err := findRedis()
	if err != nil {
		return err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	file := filepath.Join(dir, "redis.conf")
	r.server, err = startOnFreePort(ctx, func(port int) (*server, error) {
		r.port = port
		// The password stands in a file because anyone on the machine can read a command line.
		text := strings.Join(append([]string{"port " + strconv.Itoa(port), "dir " + strconv.Quote(dir)}, lines...), "\n") + "\n"
		if err := disk.WriteFile(file, []byte(text), 0o600); err != nil {
			return nil, err
		}
		return &server{launch: launch{
			name: "redis-server", args: append([]string{program, file}, args...), env: childEnv(), dir: dir,
			logFile: filepath.Join(dir, "server.log"), end: syscall.SIGTERM, ready: r.ping,
		}}, nil
	})
	return err
}

// ping speaks the protocol by hand: a client library would keep a pool for one question.
func (r *Redis) ping(ctx context.Context) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", r.Addr())
	if err != nil {
		return err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetDeadline(deadline)
	}
	ask := "PING\r\n"
	if r.password != "" {
		ask = "AUTH " + r.password + "\r\n"
	}
	if _, err := conn.Write([]byte(ask)); err != nil {
		return err
	}
	answer := make([]byte, 128)
	n, err := conn.Read(answer)
	if err != nil {
		return err
	}
	if got := string(answer[:n]); !strings.HasPrefix(got, "+") {
		return errors.New("redis answered " + strings.TrimSpace(got))
	}
	return nil
}

// Addr is host:port.
func (r *Redis) Addr() string { return loopback(r.port) }

// Password is the one clients give; empty for a Sentinel.
func (r *Redis) Password() string { return r.password }

// URL is redis://:password@host:port.
func (r *Redis) URL() string {
	u := url.URL{Scheme: "redis", Host: r.Addr()}
	if r.password != "" {
		u.User = url.UserPassword("", r.password)
	}
	return u.String()
}

// ReplicaOf makes this server copy master, as the REPLICAOF command does.
func (r *Redis) ReplicaOf(ctx context.Context, master *Redis) error {
	return r.do(ctx, "REPLICAOF", "127.0.0.1", strconv.Itoa(master.port))
}

// Configure changes a setting of the running server, as the CONFIG SET command does.
func (r *Redis) Configure(ctx context.Context, setting, value string) error {
	return r.do(ctx, "CONFIG", "SET", setting, value)
}

// Failover makes this Sentinel promote a replica of the master, which lives on.
func (r *Redis) Failover(ctx context.Context, master string) error {
	return r.do(ctx, "SENTINEL", "FAILOVER", master)
}

// AwaitReplicas returns when this Sentinel knows that many replicas of the master as healthy.
func (r *Redis) AwaitReplicas(ctx context.Context, master string, count int) error {
	for {
		info, err := r.ask(ctx, "INFO", "sentinel")
		if err != nil {
			return err
		}
		if strings.Contains(info, "name="+master+",status=ok") && strings.Contains(info, fmt.Sprintf(",slaves=%d,", count)) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the Sentinel did not find %d replicas: %w; it said:\n%s", count, ctx.Err(), info)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// JoinCluster makes servers started with "cluster-enabled yes" into one Redis Cluster without replicas.
// Slots are dealt out evenly in the order given. It returns when every server sees the whole cluster.
func JoinCluster(ctx context.Context, nodes ...*Redis) error {
	const slots = 16384
	for i, node := range nodes {
		first, last := i*slots/len(nodes), (i+1)*slots/len(nodes)-1
		if err := node.do(ctx, "CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(first), strconv.Itoa(last)); err != nil {
			return err
		}
		// Two nodes that start with the same epoch would argue about it for a while.
		if err := node.do(ctx, "CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i+1)); err != nil {
			return err
		}
	}
	for _, node := range nodes[1:] {
		if err := nodes[0].do(ctx, "CLUSTER", "MEET", "127.0.0.1", strconv.Itoa(node.port)); err != nil {
			return err
		}
	}
	for _, node := range nodes {
		for {
			info, err := node.ask(ctx, "CLUSTER", "INFO")
			if err != nil {
				return err
			}
			if strings.Contains(info, "cluster_state:ok") && strings.Contains(info, fmt.Sprintf("cluster_known_nodes:%d", len(nodes))) {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("the Redis Cluster did not come together: %w; last state:\n%s", ctx.Err(), info)
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	return nil
}

func (r *Redis) do(ctx context.Context, words ...string) error {
	_, err := r.ask(ctx, words...)
	return err
}

func (r *Redis) ask(ctx context.Context, words ...string) (string, error) {
	client, err := rueidis.NewClient(rueidis.ClientOption{
		InitAddress: []string{r.Addr()}, Password: r.password, ForceSingleClient: true, DisableCache: true, PipelineMultiplex: -1,
	})
	if err != nil {
		return "", err
	}
	defer client.Close()
	answer, err := client.Do(ctx, client.B().Arbitrary(words...).Build()).ToString()
	if err != nil {
		return "", fmt.Errorf("redis %s: %w", strings.Join(words, " "), err)
	}
	return answer, nil
}
