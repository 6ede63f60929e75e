package bus

import (
	"context"
	"hash/maphash"
	"strconv"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

// Limits is a rate limiter by key: perSecond on average and burst at once (the generic cell rate algorithm).
type Limits interface {
	// Take counts one use of key. It returns 0 when the use is allowed, or else how long the caller has to
	// wait; a refused use does not count. perSecond <= 0 means no limit; a burst below 1 is 1.
	Take(ctx context.Context, key string, perSecond float64, burst int) (wait time.Duration, err error)
	// Refund takes back uses of key that were counted with the same perSecond. Taking back more than were counted resets the key.
	Refund(ctx context.Context, key string, perSecond float64, uses int) error
}

// longestInterval keeps sums of times in nanoseconds within 64 bits; it is about four years.
const longestInterval = 1 << 57

// gcra decides one use. state is the time at which the key will be idle again; the next state is returned.
func gcra(now, state int64, perSecond float64, burst int) (next int64, wait time.Duration) {
	interval := min(float64(time.Second)/perSecond, longestInterval)
	next = max(state, now) + int64(interval)
	if wait := float64(next-now) - interval*float64(max(burst, 1)); wait >= 1 {
		return state, time.Duration(wait)
	}
	return next, 0
}

const limitShards = 64

// localLimits counts the keys of this process.
type localLimits struct {
	now    func() time.Time
	seed   maphash.Seed
	shards [limitShards]limitShard
}

type limitShard struct {
	mu      sync.Mutex
	idleAt  map[string]int64 // Unix nanoseconds
	sweepAt int              // size at which idle keys are removed
}

// NewLocalLimits returns a limiter of this process alone.
func NewLocalLimits() Limits { return newLocalLimits(time.Now) }

func newLocalLimits(now func() time.Time) *localLimits {
	l := &localLimits{now: now, seed: maphash.MakeSeed()}
	for i := range l.shards {
		l.shards[i].idleAt, l.shards[i].sweepAt = map[string]int64{}, minSweepSize
	}
	return l
}

const minSweepSize = 256

// Take implements Limits; it never fails.
func (l *localLimits) Take(_ context.Context, key string, perSecond float64, burst int) (time.Duration, error) {
	if perSecond <= 0 {
		return 0, nil
	}
	shard := &l.shards[maphash.String(l.seed, key)%limitShards]
	now := l.now().UnixNano()
	shard.mu.Lock()
	defer shard.mu.Unlock()
	state, known := shard.idleAt[key]
	next, wait := gcra(now, state, perSecond, burst)
	if wait > 0 {
		return wait, nil
	}
	if !known && len(shard.idleAt) >= shard.sweepAt {
		for k, idleAt := range shard.idleAt {
			if idleAt <= now {
				delete(shard.idleAt, k)
			}
		}
		// Doubling keeps the cost of sweeping constant per new key when few of them are idle.
		shard.sweepAt = max(minSweepSize, 2*len(shard.idleAt))
	}
	shard.idleAt[key] = next
	return 0, nil
}

// Refund implements Limits; it never fails.
func (l *localLimits) Refund(_ context.Context, key string, perSecond float64, uses int) error {
	if perSecond <= 0 {
		return nil
	}
	shard := &l.shards[maphash.String(l.seed, key)%limitShards]
	interval := min(float64(time.Second)/perSecond, longestInterval)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	state, known := shard.idleAt[key]
	if !known {
		return nil
	}
	if back := interval * float64(uses); back < float64(state-l.now().UnixNano()) {
		shard.idleAt[key] = state - int64(back)
	} else {
		delete(shard.idleAt, key)
	}
	return nil
}

// gcraScript does what gcra does with the clock of Redis, so that processes with wrong clocks agree.
// Numbers are microseconds. The key expires when it is idle.
var gcraScript = rueidis.NewLuaScript(`
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local interval, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local state = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now)
local wait = math.ceil(state + interval * (1 - burst) - now)
if wait > 0 then return wait end
local next = state + interval
redis.call('SET', KEYS[1], string.format('%.0f', next), 'PX', math.max(1, math.ceil((next - now) / 1000)))
return 0
`)

// refundScript does the same as localLimits.Refund.
var refundScript = rueidis.NewLuaScript(`
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local state = tonumber(redis.call('GET', KEYS[1]) or '0') - tonumber(ARGV[1]) * tonumber(ARGV[2])
if state <= now then return redis.call('DEL', KEYS[1]) end
redis.call('SET', KEYS[1], string.format('%.0f', state), 'PX', math.max(1, math.ceil((state - now) / 1000)))
return 0
`)

// redisLimits counts in Redis for the whole fleet.
type redisLimits struct {
	bus   *Redis
	local *localLimits
}

// NewRedisLimits returns a limiter that the processes of a fleet share. While Redis is unavailable each
// process counts by itself, so a fleet of n processes lets through up to n times as much.
func NewRedisLimits(bus *Redis) Limits {
	return &redisLimits{bus: bus, local: newLocalLimits(time.Now)}
}

// Take implements Limits. Its only error is that of ctx.
func (l *redisLimits) Take(ctx context.Context, key string, perSecond float64, burst int) (time.Duration, error) {
	if perSecond <= 0 {
		return 0, nil
	}
	s, err := l.bus.session()
	if err != nil {
		return l.local.Take(ctx, key, perSecond, burst)
	}
	var wait int64
	err = s.do(ctx, func(ctx context.Context) error {
		var err error
		// Unlike topics, keys carry no hash tag: a cluster spreads them.
		wait, err = gcraScript.Exec(ctx, s.client, []string{l.bus.conf.Prefix + ":limit:" + key}, []string{
			strconv.FormatFloat(1e6/perSecond, 'f', 3, 64), strconv.Itoa(max(burst, 1)),
		}).AsInt64()
		return err
	})
	if err == nil {
		return time.Duration(wait) * time.Microsecond, nil
	}
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	return l.local.Take(ctx, key, perSecond, burst)
}

// Refund implements Limits. Its only error is that of ctx.
func (l *redisLimits) Refund(ctx context.Context, key string, perSecond float64, uses int) error {
	if perSecond <= 0 {
		return nil
	}
	if err := l.local.Refund(ctx, key, perSecond, uses); err != nil { // it may have been counted while Redis was away
		return err
	}
	s, err := l.bus.session()
	if err != nil {
		return nil
	}
	err = s.do(ctx, func(ctx context.Context) error {
		return refundScript.Exec(ctx, s.client, []string{l.bus.conf.Prefix + ":limit:" + key}, []string{
			strconv.FormatFloat(1e6/perSecond, 'f', 3, 64), strconv.Itoa(uses),
		}).Error()
	})
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return nil
}
