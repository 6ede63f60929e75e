package accounts

import (
	"strings"

	"lyceum/platform/web"
)

// recordUse remembers, in memory, that the device of a request was used.
func (a *Accounts) recordUse(r *web.Request) {
	id := r.Identity
	if id == nil || id.DeviceID == "" {
		return
	}
	agent := r.UserAgent()
	agent = agent[:min(len(agent), maxUserAgent)]
	key, s := deviceKey{id.UserID, id.DeviceID}, deviceUse{ip: r.RemoteIP(), at: a.nowMs()}
	a.deviceUses.mu.Lock()
	defer a.deviceUses.mu.Unlock()
	was, known := a.deviceUses.byDevice[key]
	if known || len(a.deviceUses.byDevice) < maxDeviceUses {
		if s.agent = was.agent; agent != was.agent {
			s.agent = strings.Clone(agent) // a part of the request's header would keep all of it in memory
		}
		a.deviceUses.byDevice[key] = s
	}
}

// RecordDeviceUse wraps a handler: it remembers the use of the caller's device and calls next.
func (a *Accounts) RecordDeviceUse(next web.Handler) web.Handler {
	return func(r *web.Request) (any, error) {
		a.recordUse(r)
		return next(r)
	}
}
