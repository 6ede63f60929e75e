package bus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/rueidis"
)

const (
	claimTTL      = 10 * time.Second // how long a fleet is remembered of which no process is connected
	claimInterval = 3 * time.Second
)

// errForeign refuses a Redis whose prefix another fleet uses: each fleet would take the messages of the other for its
// own.
var errForeign = errors.New("another fleet, with another database, uses this Redis with the same redis.prefix: give each fleet its own. " +
	"One that has ended is forgotten after " + claimTTL.String())

// claimScript records which fleet uses the prefix, and returns which one does.
var claimScript = rueidis.NewLuaScript(`
local fleet = redis.call('GET', KEYS[1])
if fleet and fleet ~= ARGV[1] then return fleet end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
`)

// claim returns errForeign when another fleet uses the prefix, and nil when Redis can not tell, for instance because
// its memory is full.
func (s *session) claim(ctx context.Context) error {
	fleet := s.bus.conf.Fleet
	if fleet == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, maxSilence)
	defer cancel()
	owner, err := claimScript.Exec(ctx, s.client, []string{s.bus.prefix + ":fleet"},
		[]string{fleet, strconv.FormatInt(claimTTL.Milliseconds(), 10)}).ToString()
	if err == nil && owner != fleet {
		return fmt.Errorf("%w (prefix %s)", errForeign, s.bus.conf.Prefix)
	}
	return nil
}
