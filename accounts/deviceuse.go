package accounts

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// deviceUses collects in memory when and from where devices were used, so that requests write nothing.
type deviceUses struct {
	mu       sync.Mutex
	byDevice map[deviceKey]deviceUse
}

type deviceKey struct{ user, device string }

type deviceUse struct {
	ip    netip.Addr
	agent string
	at    int64
}

const (
	maxDeviceUses = 200_000 // of one minute; more devices wait for the next minute
	maxUserAgent  = 300     // bytes that are kept
)

func newDeviceUses() *deviceUses { return &deviceUses{byDevice: map[deviceKey]deviceUse{}} }

// storableUserAgent returns a User-Agent header as it is stored: at most maxUserAgent bytes of valid UTF-8 without NUL, which
// PostgreSQL needs.
func storableUserAgent(header string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(header[:min(len(header), maxUserAgent)], ""), "\x00", "")
}

// writeDeviceUses stores what was collected, each minute and when the process ends.
func (a *Accounts) writeDeviceUses(ctx context.Context) error {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			defer cancel()
			return a.flushDeviceUses(end)
		case <-tick.C:
			if err := a.flushDeviceUses(ctx); err != nil {
				return err
			}
		}
	}
}

// flushDeviceUses stores what was collected. It is lost when the database fails: it only informs people.
func (a *Accounts) flushDeviceUses(ctx context.Context) error {
	a.deviceUses.mu.Lock()
	devices := a.deviceUses.byDevice
	a.deviceUses.byDevice = map[deviceKey]deviceUse{}
	a.deviceUses.mu.Unlock()
	rows := make([][]any, 0, len(devices))
	for key, s := range devices {
		rows = append(rows, []any{key.user, key.device, s.ip.String(), storableUserAgent(s.agent), strconv.FormatInt(s.at, 10)})
	}
	slices.SortFunc(rows, func(x, y []any) int { // one order in all processes, so that two of them do not deadlock
		return cmp.Or(cmp.Compare(x[0].(string), y[0].(string)), cmp.Compare(x[1].(string), y[1].(string)))
	})
	// PostgreSQL can not infer types in a list of VALUES, so all are text.
	return a.db.Bulk(ctx, `WITH s (user_id, device_id, ip, agent, ms) AS (VALUES ?)
		UPDATE user_devices SET seen_ip = s.ip, user_agent = s.agent, seen_ms = CAST(s.ms AS BIGINT) FROM s
		WHERE user_devices.user_id = s.user_id AND user_devices.device_id = s.device_id AND seen_ms <= CAST(s.ms AS BIGINT)`, rows)
}
