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

// deviceUses collects when and from where devices were used, so that no request writes.
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
	maxDeviceUses = 200_000 // more devices in a minute are written a minute later
	maxAgent      = 300
)

func newDeviceUses() *deviceUses { return &deviceUses{byDevice: map[deviceKey]deviceUse{}} }

// writeDeviceUses writes what was collected each minute, and at the end.
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

// flushDeviceUses writes the sightings. What can not be written is lost: it is only a help for people.
func (a *Accounts) flushDeviceUses(ctx context.Context) error {
	a.deviceUses.mu.Lock()
	devices := a.deviceUses.byDevice
	a.deviceUses.byDevice = map[deviceKey]deviceUse{}
	a.deviceUses.mu.Unlock()
	rows := make([][]any, 0, len(devices))
	for key, s := range devices {
		agent := strings.ReplaceAll(strings.ToValidUTF8(s.agent, ""), "\x00", "")
		rows = append(rows, []any{key.user, key.device, s.ip.String(), agent, strconv.FormatInt(s.at, 10)})
	}
	slices.SortFunc(rows, func(x, y []any) int { // the same order everywhere: two processes do not lock each other out
		return cmp.Or(cmp.Compare(x[0].(string), y[0].(string)), cmp.Compare(x[1].(string), y[1].(string)))
	})
	// The values of a list have no type of their own in PostgreSQL, so all are text.
	return a.db.Bulk(ctx, `WITH s (user_id, device_id, ip, agent, ms) AS (VALUES ?)
		UPDATE user_devices SET seen_ip = s.ip, user_agent = s.agent, seen_ms = CAST(s.ms AS BIGINT) FROM s
		WHERE user_devices.user_id = s.user_id AND user_devices.device_id = s.device_id AND seen_ms <= CAST(s.ms AS BIGINT)`, rows)
}
